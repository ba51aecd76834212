"""Numbers in, pictures for a paper out, their numbers as csv beside them. Must not know how they were measured.

Everything is checked and drawn in memory before a file is written, so a figure that fails leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy

from decondense.errors import UserError, require
from decondense.report import canvas, style
from decondense.report.series import (
    Heatmap,
    Measured,
    Series,
    Trajectory,
    check_curves,
    check_trajectories,
    finite,
    prepare_heatmaps,
)


def heatmaps(
    results: Sequence[Measured],
    titles: Sequence[str],
    path: Path,
    formats: Sequence[str] = ("png", "svg"),
    kind: str = "histogram",
) -> list[Path]:
    """Draw the density of pairwise cosines at every layer, one panel a result, and return the paths written.

    As in the paper (figure 2): one column a layer, placed at its fraction of the depth, cosine from -1 to 1 upwards,
    density from 0 to 10 as colour; over it the mean cosine of each layer as a line. A panel is headed by its title, rho
    and tau, and the mean cosine of the middle entry (index layers // 2) and of the last.

    Args:
        results: measured models, each with `histogram` int64 [layers, bins] and `mean_cosine` float64 [layers].
        titles: a title for each result.
        path: where to write, without suffix; `path.png`, `path.svg` and `path.csv` come from it.
        formats: any of "png" (200 dots per inch), "svg", "pdf".
        kind: "histogram" (all pairs of tokens) or "histogram_of_mean" (the authors': the matrix averaged over texts).

    Raises:
        UserError: where lengths do not match, a name is unknown, or a result has nothing to draw.
    """
    panels = prepare_heatmaps(results, titles, kind)
    if len({len(panel.edges) for panel in panels}) > 1:
        raise UserError("results whose histograms differ in their number of bins cannot share a csv: draw them apart")
    rows, columns, width = _arrange(len(panels))
    with canvas.figure(width, 0.4 + 3.1 * rows) as figure:
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        image = None
        for panel, axes in zip(panels, grid.flat, strict=False):
            image = _draw_heatmap(axes, panel, _panel_inches(columns, width))
        _finish_grid(grid, len(panels), "cosine")
        figure.supxlabel("fraction of depth (line and numbers: mean cosine)", fontsize=style.LABEL_POINTS)
        bar = figure.colorbar(
            image, ax=grid, extend="max", pad=0.02, aspect=18 * rows, ticks=[0, 5, style.DENSITY_LIMIT]
        )
        bar.set_label("density")
        bar.outline.set_visible(False)
        header = ["title", "model", "layer", "fraction_of_depth", "mean_cosine", "spearman", "kendall"]
        header += [f"pairs_from_{edge:.6f}" for edge in panels[0].edges[:-1]]
        return canvas.save(figure, path, formats, header, _heatmap_rows(panels))


def curves(
    series: Sequence[Series],
    path: Path,
    x_label: str,
    y_label: str,
    x_scale: str = "linear",
    y_scale: str = "linear",
    formats: Sequence[str] = ("png", "svg"),
) -> list[Path]:
    """Draw lines over one axis, with their intervals as bands where given, and return the paths written.

    Args:
        series: the lines; the name of each gives its colour and its entry in the legend.
        path: where to write, without suffix.
        x_label: what x is, with its unit.
        y_label: what y is, with its unit.
        x_scale: "linear", "log", or "steps": logarithmic after step 0, which it shows too.
        y_scale: "linear" or "log".
        formats: any of "png", "svg", "pdf".

    Raises:
        UserError: where there is nothing to draw, a name is unknown, or a logarithmic axis would lose points.
    """
    check_curves(series, x_scale, y_scale)
    # A handle of the legend and its margins take 0.64 inches, what is left of a column is the text's.
    width, columns = 5.4, min(len(series), 3)
    names = [style.wrap(style.label(one.name), width / columns - 0.64, style.SMALL_POINTS) for one in series]
    legend_lines = sum(
        max(name.count("\n") + 1 for name in names[start : start + columns]) for start in range(0, len(names), columns)
    )
    with canvas.figure(width, 3.3 + 0.25 * legend_lines) as figure:
        axes = figure.subplots()
        handles = []
        for one, look in zip(series, style.line_styles([one.name for one in series]), strict=True):
            dash: Any = (0, look.dash) if look.dash else "solid"
            marker = look.marker if one.points <= 30 else ""
            handles += axes.plot(one.x, finite(one.y), color=look.light, linestyle=dash, marker=marker, markersize=4)
            if one.low is not None:
                axes.fill_between(one.x, finite(one.low), finite(one.high), color=look.light, alpha=0.18, linewidth=0)
        _scale_x(axes, x_scale, max(float(numpy.max(one.x)) for one in series))
        if y_scale == "log":
            axes.set_yscale("log")
            axes.set_yticks(style.log_ticks(*axes.get_ylim()))
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_locator(require("matplotlib.ticker", extra="report").NullLocator())
        axes.set(xlabel=x_label, ylabel=y_label)
        figure.legend(
            handles,
            names,
            loc="outside upper center",
            ncols=columns,
            frameon=False,
            handlelength=2.4,
            handletextpad=0.6,
            columnspacing=1.2,
        )
        return canvas.save(figure, path, formats, ["series", "x", "y", "low", "high"], _curve_rows(series))


def trajectory(arms: Sequence[Trajectory], path: Path, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Draw the mean cosine of every layer while training went on, one panel an arm, and return the paths written.

    The axis of steps is log10(1 + step): it shows step 0 and gives most of its room to the first hundred steps, where
    condensation is worst.

    Args:
        arms: one a panel.
        path: where to write, without suffix.
        formats: any of "png", "svg", "pdf".

    Raises:
        UserError: where there is no arm or a format is unknown.
    """
    check_trajectories(arms)
    rows, columns, width = _arrange(len(arms))
    layers = max(arm.layers for arm in arms)
    with canvas.figure(width, 0.3 + 2.6 * rows) as figure:
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for arm, axes in zip(arms, grid.flat, strict=False):
            cosines = numpy.asarray(arm.mean_cosine)
            marker = "." if len(cosines) <= 30 else ""  # where it was measured; many would hide the lines
            for layer, colour in enumerate(style.layer_colours(arm.layers)):
                axes.plot(arm.steps, cosines[:, layer], color=colour, linewidth=1.8, marker=marker, markersize=5)
            _scale_x(axes, "steps", float(numpy.max(arm.steps)))
            _title(axes, arm.name, _panel_inches(columns, width))
        lowest = min(float(numpy.nanmin(arm.mean_cosine)) for arm in arms)
        grid[0, 0].set_ylim(min(-0.02, lowest - 0.02), 1.02)
        _finish_grid(grid, len(arms), "mean cosine")
        figure.supxlabel("training step", fontsize=style.LABEL_POINTS)
        _layer_bar(figure, grid, layers, rows)
        return canvas.save(figure, path, formats, ["arm", "step", "layer", "mean_cosine"], _trajectory_rows(arms))


def _arrange(panels: int) -> tuple[int, int, float]:
    """Return rows, columns and the width in inches of a figure of so many panels."""
    columns = {1: 1, 2: 2, 4: 2}.get(panels, 3)
    return -(-panels // columns), columns, {1: 4.6, 2: 5.8}.get(columns, style.FIGURE_WIDTH_INCHES)


def _panel_inches(columns: int, width_inches: float) -> float:
    return (width_inches - 1.6) / columns  # the axis at the left and the colour bar at the right take 1.6


def _draw_heatmap(axes: Any, panel: Heatmap, width_inches: float) -> Any:
    half = 0.5 / max(panel.layers - 1, 1)  # a layer's column is centred on its fraction of depth
    image = axes.imshow(
        panel.density.T,
        extent=(-half, 1 + half, -1, 1),
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        cmap=_colour_map(style.DENSITY_COLOURS["light"]),
        vmin=0,
        vmax=style.DENSITY_LIMIT,
    )
    effects = require("matplotlib.patheffects", extra="report")
    edge = effects.withStroke(linewidth=3, foreground=style.MEAN_EDGE["light"], alpha=0.8)
    marker = "." if panel.layers <= 20 else ""
    axes.plot(
        panel.fraction,
        panel.mean_cosine,
        color=style.MEAN_LINE["light"],
        linewidth=1.3,
        marker=marker,
        markersize=5,
        path_effects=[edge],
    )
    axes.set(xlim=(-half, 1 + half), ylim=(-1, 1), xticks=[0, 0.5, 1], yticks=[-1, -0.5, 0, 0.5, 1])
    axes.set_xticklabels(["0", "0.5", "1"])
    axes.grid(False)
    _title(axes, panel.title, width_inches, pad=38.0)
    facts = (
        f"ρ {style.number(panel.spearman)}   middle {style.number(panel.middle)}\n"
        f"τ {style.number(panel.kendall)}   last {style.number(panel.last)}"
    )
    axes.annotate(
        facts, (0.5, 1), (0, 5), xycoords="axes fraction", textcoords="offset points", ha="center", va="bottom"
    )
    return image


def _title(axes: Any, title: str, width_inches: float, pad: float = 6.0) -> None:
    points = style.TITLE_POINTS if len(title) <= 16 else style.SMALL_POINTS
    lines = style.wrap(style.label(title), width_inches, points, bold=True).split("\n")
    if len(lines) > 4:  # the page and the csv have the whole name; here it would push the plot away
        lines = [*lines[:3], "…"]
    text = "\n".join(lines)
    axes.set_title(text, weight="bold", size=points, pad=pad)


def _layer_bar(figure: Any, grid: Any, layers: int, rows: int) -> None:
    cm = require("matplotlib.cm", extra="report")
    colors = require("matplotlib.colors", extra="report")
    norm = colors.Normalize(0, max(layers - 1, 1))
    low, high = style.LAYER_RANGE["light"]
    stops = [style.blend(style.VIRIDIS, low + (high - low) * index / 16) for index in range(17)]
    ticks = sorted({0, (layers - 1) // 2, layers - 1})
    bar = figure.colorbar(cm.ScalarMappable(norm, _colour_map(stops)), ax=grid, pad=0.02, aspect=18 * rows, ticks=ticks)
    bar.set_label("layer")
    bar.outline.set_visible(False)


def _colour_map(stops: Sequence[str]) -> Any:
    return require("matplotlib.colors", extra="report").LinearSegmentedColormap.from_list("stops", list(stops), N=256)


def _scale_x(axes: Any, x_scale: str, last: float) -> None:
    if x_scale == "log":
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: style.short_number(value))
        axes.xaxis.set_minor_formatter(lambda value, _: "")
    if x_scale == "steps":
        # 10^x - 1 and its inverse; axes hand values a little below 0 to the inverse while margins are found.
        axes.set_xscale(
            "function", functions=(lambda x: numpy.log10(1 + numpy.maximum(x, -0.9)), lambda y: 10.0**y - 1)
        )
        ticks = style.step_ticks(last)
        axes.set_xticks([value for value, _ in ticks], [text for _, text in ticks])


def _finish_grid(grid: Any, used: int, y_label: str) -> None:
    for axes in grid[:, 0]:
        axes.set_ylabel(y_label)
    for axes in grid[:, 1:].flat:
        axes.tick_params(left=False)  # the panel to the left has the numbers
    for axes in list(grid.flat)[used:]:
        axes.set_visible(False)


def _heatmap_rows(panels: Sequence[Heatmap]) -> Iterator[list[Any]]:
    for panel in panels:
        means, fractions = panel.mean_cosine.tolist(), panel.fraction.tolist()
        for layer, counts in enumerate(panel.counts.tolist()):
            yield [
                panel.title,
                panel.model,
                layer,
                fractions[layer],
                means[layer],
                panel.spearman,
                panel.kendall,
                *counts,
            ]


def _curve_rows(series: Sequence[Series]) -> Iterator[list[Any]]:
    for one in series:
        blank = [None] * one.points
        low = blank if one.low is None else numpy.asarray(one.low).tolist()
        high = blank if one.high is None else numpy.asarray(one.high).tolist()
        for x, y, below, above in zip(
            numpy.asarray(one.x).tolist(), numpy.asarray(one.y).tolist(), low, high, strict=True
        ):
            yield [one.name, x, y, below, above]


def _trajectory_rows(arms: Sequence[Trajectory]) -> Iterator[list[Any]]:
    for arm in arms:
        for step, cosines in zip(
            numpy.asarray(arm.steps).tolist(), numpy.asarray(arm.mean_cosine).tolist(), strict=True
        ):
            for layer, cosine in enumerate(cosines):
                yield [arm.name, step, layer, cosine]
