"""Numbers in, pictures for a paper out, their numbers as csv beside them. Must not know how they were measured.

Everything is checked and drawn in memory before a file is written, so a figure that fails leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy

from decondense.errors import require
from decondense.report import canvas, style
from decondense.report.panels import (
    arrange,
    cosine_limits,
    draw_heading,
    draw_heatmaps,
    draw_layer_bar,
    draw_layers,
    draw_legend,
    draw_lines,
    finish_grid,
    legend_lines,
    panel_inches,
    scale_x,
)
from decondense.report.series import (
    Measured,
    Series,
    Trajectory,
    check_curves,
    check_trajectories,
    heatmap_header,
    heatmap_rows,
    prepare_heatmaps,
)

CURVES_INCHES = 5.4


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
    header = heatmap_header(panels)
    facts = [
        f"ρ {style.number(panel.spearman)}   middle {style.number(panel.middle)}\n"
        f"τ {style.number(panel.kendall)}   last {style.number(panel.last)}"
        for panel in panels
    ]
    rows, columns, width = arrange(len(panels))
    with canvas.figure(width, 0.4 + 3.1 * rows) as figure:
        draw_heatmaps(figure, panels, facts, (rows, columns, width), "line and numbers: mean cosine")
        numbers = (row for panel in panels for row in heatmap_rows(panel))
        return canvas.save(figure, path, formats, header, numbers)


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
    names = [one.name for one in series]
    with canvas.figure(CURVES_INCHES, 3.3 + 0.25 * legend_lines(names, CURVES_INCHES)) as figure:
        axes = figure.subplots()
        draw_legend(figure, draw_lines(axes, series), names, CURVES_INCHES)
        scale_x(axes, x_scale, max(float(numpy.max(one.x)) for one in series))
        if y_scale == "log":
            axes.set_yscale("log")
            axes.set_yticks(style.log_ticks(*axes.get_ylim()))
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_locator(require("matplotlib.ticker", extra="report").NullLocator())
        axes.set(xlabel=x_label, ylabel=y_label)
        return canvas.save(figure, path, formats, ["series", "x", "y", "low", "high"], curve_rows(series))


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
    rows, columns, width = arrange(len(arms))
    layers = max(arm.layers for arm in arms)
    with canvas.figure(width, 0.3 + 2.6 * rows) as figure:
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for arm, axes in zip(arms, grid.flat, strict=False):
            draw_layers(axes, arm)
            scale_x(axes, "steps", float(numpy.max(arm.steps)))
            draw_heading(axes, arm.name, panel_inches(columns, width))
        grid[0, 0].set_ylim(cosine_limits(arm.mean_cosine for arm in arms))
        finish_grid(grid, len(arms), "mean cosine")
        figure.supxlabel("training step", fontsize=style.LABEL_POINTS)
        draw_layer_bar(figure, grid, layers, aspect=18.0 * rows)
        return canvas.save(figure, path, formats, ["arm", "step", "layer", "mean_cosine"], _trajectory_rows(arms))


def curve_rows(series: Sequence[Series]) -> Iterator[list[Any]]:
    """Yield the numbers of lines as rows of a csv: name, x, y, and the interval, None where there is none."""
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
