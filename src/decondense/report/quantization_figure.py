"""Curves of what rounding weights costs in, a picture with a panel a scheme out. Must not know how they were measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy

from decondense.errors import UserError, require
from decondense.report import canvas, style
from decondense.report.figures import curve_rows
from decondense.report.panels import (
    draw_heading,
    draw_legend,
    draw_lines,
    finish_grid,
    legend_lines,
    panel_inches,
    title_points,
)
from decondense.report.series import Series

# Below this many bits a byte the axis is linear: costs of 8 bits are as often below 0 as above.
LINEAR = 1e-3


def costs(
    panels: Mapping[str, Sequence[Series]], path: Path, formats: Sequence[str] = ("png", "svg"), y_label: str = ""
) -> list[Path]:
    """Draw what rounding costs over the bits of a weight, a panel a scheme, and return the paths written.

    Args:
        panels: by title the lines, each of which has bits as x and bits a byte lost as y, with an interval where there is one.
        path: where to write, without suffix; `path.png`, `path.svg` and `path.csv` come from it.
        formats: any of "png", "svg", "pdf".
        y_label: what y is.

    Raises:
        UserError: there is nothing to draw, or a format is unknown.
    """
    if not panels or not all(panels.values()):
        raise UserError("no cost to draw: give at least one scheme with a line")
    names = [one.name for one in next(iter(panels.values()))]
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    width = 4.6 if columns == 1 else style.FIGURE_WIDTH_INCHES
    with canvas.figure(width, 0.5 + 2.6 * rows + 0.25 * legend_lines(names, width)) as figure:
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        handles: list[Any] = []
        for (title, series), axes in zip(panels.items(), grid.flat, strict=False):
            handles = draw_lines(axes, series)
            draw_heading(axes, title, panel_inches(columns, width), points=title_points(panels))
            axes.axhline(0, color=style.THEMES["light"]["muted"], linewidth=0.8)
        _scale(grid[0, 0], panels)
        draw_legend(figure, handles, names, width)
        finish_grid(grid, len(panels), "")
        figure.supylabel(y_label, fontsize=style.LABEL_POINTS)
        figure.supxlabel("bits of a weight", fontsize=style.LABEL_POINTS)
        rows_of_csv = ([title, *row] for title, series in panels.items() for row in curve_rows(series))
        return canvas.save(figure, path, formats, ["scheme", "series", "bits", "cost", "low", "high"], rows_of_csv)


def _scale(axes: Any, panels: Mapping[str, Sequence[Series]]) -> None:
    everywhere = [one for series in panels.values() for one in series]
    bits = sorted({float(x) for one in everywhere for x in numpy.asarray(one.x)})
    axes.set_xscale("log", base=2)
    axes.set_xticks(bits, [f"{x:g}" for x in bits])
    axes.xaxis.set_minor_locator(_no_ticks())
    highest = max(float(numpy.nanmax(numpy.asarray(one.y))) for one in everywhere)
    lowest = min(float(numpy.nanmin(numpy.asarray(one.y if one.low is None else one.low))) for one in everywhere)
    axes.set_yscale("symlog", linthresh=LINEAR, linscale=0.6)
    axes.set_ylim(min(lowest * 1.5, -LINEAR / 2), max(highest * 2, 2 * LINEAR))
    below = [-LINEAR] if lowest * 1.5 <= -LINEAR else []
    ticks = [*below, 0.0, *(10.0**power for power in range(-3, 3) if 10.0**power < highest * 2)]
    axes.set_yticks(ticks, [f"{tick:g}".replace("-", "−") for tick in ticks])
    axes.yaxis.set_minor_locator(_no_ticks())


def _no_ticks() -> Any:
    return require("matplotlib.ticker", extra="report").NullLocator()
