"""Several measured models in, the paper's figures of them out, numbers as csv beside. Must not know how they differ.

Figures of models of a family, of pairs, of one training's checkpoints, of sets of texts, and their lines over depth.
Each follows its figure in the paper: fraction of depth from 0 to 1 to the right, cosine from -1 to 1 upwards, density
from 0 to 10 as colour. Everything is checked and drawn in memory before a file is written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import ArrayLike, NDArray

from decondense.errors import UserError, choose
from decondense.report import canvas, style
from decondense.report.correlations import CORRELATIONS, Interval, correlations, draw_correlations, interval_bars
from decondense.report.panels import (
    arrange,
    cosine_limits,
    draw_density_bar,
    draw_heading,
    draw_heatmap,
    draw_heatmaps,
    draw_layer_bar,
    draw_layers,
    draw_legend,
    draw_lines,
    finish_grid,
    legend_lines,
    panel_inches,
    scale_x,
    short_title,
    title_points,
)
from decondense.report.series import (
    Heatmap,
    LayerMeans,
    Measured,
    Series,
    Trajectory,
    check_rising,
    heatmap_header,
    heatmap_rows,
    one_each,
    prepare_heatmaps,
)

UNITS = ("tokens", "steps")
# More heatmaps of one training than these are too small to read in a column of a paper.
MOST_CHECKPOINTS = 8


def family(
    results: Sequence[Measured],
    sizes: Sequence[int],
    titles: Sequence[str],
    path: Path,
    formats: Sequence[str] = ("png", "svg"),
    intervals: Sequence[Mapping[str, Interval]] | None = None,
    kind: str = "histogram",
) -> list[Path]:
    """Draw a family from its smallest model to its largest, as in the paper's figure 2, and return the paths written.

    A heatmap for each model, and under them how its layer means rise with depth, as Spearman's rho and Kendall's tau,
    over the number of parameters. A correlation that is not defined (NaN) leaves a gap in its line, and the csv empty.

    Args:
        results: the measured models, in any order.
        sizes: the number of parameters of each.
        titles: a title for each.
        path: where to write, without suffix; `path.png`, `path.svg` and `path.csv` come from it.
        formats: any of "png", "svg", "pdf".
        intervals: for each model a (low, high) by the names "spearman" and "kendall", drawn as bars; what is absent,
            None or NaN is left out.
        kind: "histogram" (all pairs of tokens) or "histogram_of_mean" (the authors': the matrix averaged over texts).

    Raises:
        UserError: where lengths do not match, a size is not positive, a name is unknown, or nothing can be drawn.
    """
    panels = prepare_heatmaps(results, titles, kind)
    one_each("size", sizes, len(panels))
    if any(size <= 0 for size in sizes):
        raise UserError(f"sizes={list(sizes)}: numbers of parameters above 0 expected, for an axis that is logarithmic")
    bars = interval_bars(intervals, len(panels))
    order = sorted(range(len(panels)), key=lambda index: sizes[index])
    panels, sizes, bars = [panels[index] for index in order], [sizes[index] for index in order], bars[order]

    rows, columns, width = arrange(len(panels))
    with canvas.figure(width, 2.75 * rows + 2.75) as figure:
        upper, lower = figure.subfigures(2, 1, height_ratios=(2.75 * rows + 0.3, 2.45))
        draw_heatmaps(upper, panels, [correlations(panel) for panel in panels], (rows, columns, width))
        draw_correlations(lower, panels, sizes, bars)
        names = ["parameters", *(f"{name}_{end}" for name in CORRELATIONS for end in ("low", "high"))]
        extras = [[size, *bar.ravel().tolist()] for size, bar in zip(sizes, bars, strict=True)]
        return canvas.save(figure, path, formats, *_csv(panels, names, extras))


def paired(
    pairs: Sequence[tuple[Measured, Measured]],
    titles: Sequence[tuple[str, str]],
    path: Path,
    formats: Sequence[str] = ("png", "svg"),
    kind: str = "histogram",
) -> list[Path]:
    """Draw pairs of models, a row each, as in the paper's figure 5, and return the paths written.

    The heatmaps of both stand side by side, and beside them the mean cosine of both over the fraction of depth.

    Args:
        pairs: (first, second) of each pair: a model and what was distilled into it, say.
        titles: (first, second) titles of each.
        path: where to write, without suffix.
        formats: any of "png", "svg", "pdf".
        kind: "histogram" or "histogram_of_mean", as for `family`.

    Raises:
        UserError: where lengths do not match, a name is unknown, or nothing can be drawn.
    """
    one_each("pair of titles", titles, len(pairs))
    panels = prepare_heatmaps([one for pair in pairs for one in pair], [one for pair in titles for one in pair], kind)
    rows, width = len(pairs), style.FIGURE_WIDTH_INCHES
    room, points = panel_inches(3, width), title_points(one for pair in titles for one in pair)
    looks = (style.PALETTE[0], style.PALETTE[1])
    with canvas.figure(width, 2.65 * rows + 0.9) as figure:
        grid = figure.subplots(rows, 3, squeeze=False)
        image = None
        for row, lines in zip(range(rows), grid[:, 2], strict=True):
            for column, (look, name) in enumerate(zip(looks, ("left model", "right model"), strict=True)):
                panel, axes, dash = panels[2 * row + column], grid[row, column], look.dash
                image = draw_heatmap(axes, panel, dash)
                draw_heading(axes, panel.title, room, correlations(panel), points)
                lines.plot(
                    panel.fraction,
                    panel.mean_cosine,
                    color=look.light,
                    linestyle=(0, dash) if dash else "solid",
                    marker=look.marker if panel.layers <= 20 else "",
                    markersize=3.5,
                    label=name,
                )
            grid[row, 1].set_yticklabels([])
            lines.set(ylim=cosine_limits(panel.mean_cosine for panel in panels), xticks=[0, 0.5, 1])
            lines.set_xticklabels(["0", "0.5", "1"])
            lines.set_ylabel("mean cosine")
            lines.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, handlelength=2.4)
        finish_grid(grid[:, :2], 2 * rows, "cosine")
        draw_density_bar(figure, image, grid[:, :2], aspect=30.0, location="bottom")
        grid[-1, 1].set_xlabel("fraction of depth")  # for the three: it is as wide as one
        extras = [[index // 2, ("first", "second")[index % 2]] for index in range(len(panels))]
        return canvas.save(figure, path, formats, *_csv(panels, ["pair", "side"], extras))


def revisions(
    results: Sequence[Measured],
    seen: ArrayLike,
    titles: Sequence[str],
    path: Path,
    formats: Sequence[str] = ("png", "svg"),
    unit: str = "tokens",
    kind: str = "histogram",
) -> list[Path]:
    """Draw checkpoints of one training, as in the paper's figure 4, and return the paths written.

    Heatmaps in the order of training, and under them the mean cosine of every layer over what was seen, on an axis that
    is logarithmic but shows 0 too. Of more than 8 checkpoints 8 evenly spaced ones have a heatmap, the first and the
    last among them; the lines and the csv have all.

    Args:
        results: the measured checkpoints, of one number of layers.
        seen: how much each had seen, rising [checkpoints].
        titles: a title for each.
        path: where to write, without suffix.
        formats: any of "png", "svg", "pdf".
        unit: what was counted: "tokens" or "steps".
        kind: "histogram" or "histogram_of_mean", as for `family`.

    Raises:
        UserError: where lengths do not match, `seen` does not rise, a name is unknown, or nothing can be drawn.
    """
    choose("unit", unit, UNITS)
    panels = prepare_heatmaps(results, titles, kind)
    amounts = numpy.asarray(seen, dtype=numpy.float64).ravel().tolist()
    one_each(f"number of {unit} seen", amounts, len(panels))
    check_rising(amounts, f"{unit} seen")
    if amounts[0] < 0:
        raise UserError(f"{unit} seen begin at {amounts[0]:g}; training starts at 0")
    depths = sorted({panel.layers for panel in panels})
    if len(depths) > 1:
        raise UserError(f"checkpoints of one training have one number of layers, given {', '.join(map(str, depths))}")
    whole = Trajectory("checkpoints", amounts, [panel.mean_cosine for panel in panels])
    picked = numpy.linspace(0, len(panels) - 1, min(len(panels), MOST_CHECKPOINTS)).round().astype(int).tolist()
    facts = [
        f"{style.short_count(amounts[index])} {unit}\nρ {style.number(panels[index].spearman)}" for index in picked
    ]

    rows, columns, width = arrange(len(picked)) if len(picked) < 7 else (2, 4, style.FIGURE_WIDTH_INCHES)
    with canvas.figure(width, 2.75 * rows + 2.75) as figure:
        upper, lower = figure.subfigures(2, 1, height_ratios=(2.75 * rows + 0.3, 2.45))
        draw_heatmaps(upper, [panels[index] for index in picked], facts, (rows, columns, width))
        axes = lower.subplots()
        draw_layers(axes, whole)
        positive = [value for value in amounts if value > 0]
        scale = 10.0 ** math.floor(math.log10(positive[0])) if positive else 1.0
        scale_x(axes, "steps", amounts[-1], scale)
        ticks = [value for value, _ in style.step_ticks(amounts[-1], scale)]
        axes.set_xticks(ticks, [style.short_count(value) for value in ticks])
        axes.set(xlabel=f"{unit} seen", ylabel="mean cosine", ylim=cosine_limits([whole.mean_cosine]))
        draw_layer_bar(lower, axes, depths[0], aspect=14.0)
        return canvas.save(figure, path, formats, *_csv(panels, [f"{unit}_seen"], [[value] for value in amounts]))


def texts_grid(
    results: Sequence[Sequence[Measured]],
    row_titles: Sequence[str],
    column_titles: Sequence[str],
    path: Path,
    formats: Sequence[str] = ("png", "svg"),
    kind: str = "histogram",
) -> list[Path]:
    """Draw heatmaps of models, a row each, on sets of texts, a column each, and return the paths written.

    As in the paper's figure S2, with one pair of axes for all.

    Args:
        results: for each model the measurement of each set of texts.
        row_titles: a title for each model.
        column_titles: a title for each set of texts.
        path: where to write, without suffix.
        formats: any of "png", "svg", "pdf".
        kind: "histogram" or "histogram_of_mean", as for `family`.

    Raises:
        UserError: where lengths do not match, a name is unknown, or nothing can be drawn.
    """
    one_each("title of a row", row_titles, len(results))
    for title, row in zip(row_titles, results, strict=True):
        if len(row) != len(column_titles):
            raise UserError(f"{title}: a result for each of {len(column_titles)} columns expected, given {len(row)}")
    cells = [(row, column) for row in row_titles for column in column_titles]
    names = [f"{row}, {column}" for row, column in cells]
    panels = prepare_heatmaps([one for row in results for one in row], names, kind)
    rows, columns, width = len(row_titles), len(column_titles), style.FIGURE_WIDTH_INCHES
    height = 1.75
    with canvas.figure(width, height * rows + 0.75) as figure:
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        image = None
        for panel, axes in zip(panels, grid.flat, strict=True):
            image = draw_heatmap(axes, panel)
            axes.tick_params(labelbottom=False)
        finish_grid(grid, len(panels), "")
        for axes, title in zip(grid[:, 0], row_titles, strict=True):
            axes.set_ylabel(
                short_title(title, height - 0.25, style.SMALL_POINTS), weight="bold", size=style.SMALL_POINTS
            )
        for axes, title in zip(grid[0], column_titles, strict=True):
            # The titles of the rows and the label of the axis stand at the left too.
            draw_heading(axes, title, panel_inches(columns, width - 0.5), points=style.SMALL_POINTS)
        for axes in grid[-1]:
            axes.tick_params(labelbottom=True)
        figure.supylabel("cosine", fontsize=style.LABEL_POINTS)
        figure.supxlabel("fraction of depth (line: mean cosine)", fontsize=style.LABEL_POINTS)
        draw_density_bar(figure, image, grid, aspect=12.0 * rows)
        return canvas.save(figure, path, formats, *_csv(panels, ["row", "column"], [list(cell) for cell in cells]))


def layer_lines(
    results: Sequence[LayerMeans],
    titles: Sequence[str],
    path: Path,
    formats: Sequence[str] = ("png", "svg"),
    intervals: Sequence[ArrayLike | None] | None = None,
) -> list[Path]:
    """Draw the mean cosine over the fraction of depth, a line a model or set of texts, and return the paths written.

    Args:
        results: the measurements; their histograms are not needed.
        titles: a title for each, which gives its look and its entry in the legend.
        path: where to write, without suffix.
        formats: any of "png", "svg", "pdf".
        intervals: for each result (low, high) of every layer, [layers, 2], drawn as a band; None or NaN: without one.

    Raises:
        UserError: where lengths do not match, a name is unknown, or nothing can be drawn.
    """
    if not results:
        raise UserError("no result to draw: give at least one")
    one_each("title", titles, len(results))
    bands = [None] * len(results) if intervals is None else list(intervals)
    one_each("interval", bands, len(results))
    lines = [_line(result, title, interval) for result, title, interval in zip(results, titles, bands, strict=True)]
    width = 5.4
    with canvas.figure(width, 3.3 + 0.25 * legend_lines(titles, width)) as figure:
        axes = figure.subplots()
        draw_legend(figure, draw_lines(axes, lines), titles, width)
        drawn = [_row(one.y if one.low is None else [*_row(one.y), *_row(one.low)]) for one in lines]
        axes.set(xlabel="fraction of depth", ylabel="mean cosine", ylim=cosine_limits(drawn), xlim=(-0.02, 1.02))
        header = ["title", "model", "layer", "fraction_of_depth", "mean_cosine", "low", "high"]
        rows = (row for result, one in zip(results, lines, strict=True) for row in _line_rows(result, one))
        return canvas.save(figure, path, formats, header, map(_blanks, rows))


def _line(result: LayerMeans, title: str, interval: ArrayLike | None) -> Series:
    means = _row(result.mean_cosine)
    if means.ndim != 1 or not numpy.any(numpy.isfinite(means)):
        raise UserError(f"{title}: a mean cosine for each layer expected, not one is a number")
    fraction = numpy.arange(len(means)) / max(len(means) - 1, 1)
    if interval is None:
        return Series(title, fraction, means)
    ends = _row(interval)
    if ends.shape != (len(means), 2):
        raise UserError(f"{title}: interval of shape [{len(means)} layers, 2] expected, given {list(ends.shape)}")
    return Series(title, fraction, means, ends[:, 0], ends[:, 1])


def _line_rows(result: LayerMeans, one: Series) -> Iterator[list[Any]]:
    absent = [None] * one.points
    low = absent if one.low is None else _row(one.low).tolist()
    high = absent if one.high is None else _row(one.high).tolist()
    for layer, (x, y) in enumerate(zip(_row(one.x).tolist(), _row(one.y).tolist(), strict=True)):
        yield [one.name, result.model, layer, x, y, low[layer], high[layer]]


def _row(values: Any) -> NDArray[numpy.float64]:
    return numpy.asarray(values, dtype=numpy.float64)


def _csv(
    panels: Sequence[Heatmap], names: list[str], extras: Sequence[list[Any]]
) -> tuple[list[str], Iterator[list[Any]]]:
    """Return header and rows of the heatmaps' numbers, with columns of our own before the counts."""
    header = heatmap_header(panels)
    place = header.index("kendall") + 1
    rows = (
        [*row[:place], *more, *row[place:]]
        for panel, more in zip(panels, extras, strict=True)
        for row in heatmap_rows(panel)
    )
    return [*header[:place], *names, *header[place:]], map(_blanks, rows)


def _blanks(row: list[Any]) -> list[Any]:
    """What is not defined is empty in the csv."""
    return [None if isinstance(cell, float) and math.isnan(cell) else cell for cell in row]
