"""Axes and prepared numbers in, marks upon them out: what several figures share. Must not know which figure it is.

Sizes are inches of the figure as drawn, two columns of a paper wide; `style` says how all looks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy
from numpy.typing import ArrayLike

from decondense.errors import require
from decondense.report import style
from decondense.report.series import Heatmap, Series, Trajectory, finite


def arrange(panels: int) -> tuple[int, int, float]:
    """Return rows, columns and the width in inches of a figure of so many panels."""
    columns = {1: 1, 2: 2, 4: 2}.get(panels, 3)
    return -(-panels // columns), columns, {1: 4.6, 2: 5.8}.get(columns, style.FIGURE_WIDTH_INCHES)


def panel_inches(columns: int, width_inches: float) -> float:
    """Return the room for a title over one of `columns` panels: axis and colour bar take 1.6, and titles stay apart."""
    return (width_inches - 1.6) / columns - 0.12


def draw_heatmap(axes: Any, panel: Heatmap, dash: tuple[float, ...] = (), markers: bool = False) -> Any:
    """Draw densities of cosine, layer by layer, and over them the mean of each layer as a line; return the image.

    With `markers` each layer has one, where they are few enough.
    """
    half = 0.5 / max(panel.layers - 1, 1)  # a layer's column is centred on its fraction of depth
    image = axes.imshow(
        panel.density.T,
        extent=(-half, 1 + half, -1, 1),
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        cmap=colour_map(style.DENSITY_COLOURS["light"]),
        vmin=0,
        vmax=style.DENSITY_LIMIT,
    )
    effects = require("matplotlib.patheffects", extra="report")
    edge = effects.withStroke(linewidth=3, foreground=style.MEAN_EDGE["light"], alpha=0.8)
    axes.plot(
        panel.fraction,
        panel.mean_cosine,
        color=style.MEAN_LINE["light"],
        linewidth=1.3,
        linestyle=(0, dash) if dash else "solid",
        marker="." if markers and panel.layers <= 20 else "",
        markersize=5,
        path_effects=[edge],
    )
    axes.set(xlim=(-half, 1 + half), ylim=(-1, 1), xticks=[0, 0.5, 1], yticks=[-1, -0.5, 0, 0.5, 1])
    axes.set_xticklabels(["0", "0.5", "1"])
    axes.grid(False)
    return image


def draw_heatmaps(
    figure: Any,
    panels: Sequence[Heatmap],
    facts: Sequence[str],
    arrangement: tuple[int, int, float],
    shown: str = "line: mean cosine",
) -> None:
    """Fill a figure, or a part of one, with heatmaps under their titles and `facts`, as `arrange` has arranged them.

    All titles are of one size; `shown` says under the panels what line and facts are.
    """
    rows, columns, width = arrangement
    points = title_points([panel.title for panel in panels])
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    image = None
    for panel, lines, axes in zip(panels, facts, grid.flat, strict=False):
        image = draw_heatmap(axes, panel, markers=columns <= 3)
        draw_heading(axes, panel.title, panel_inches(columns, width), lines, points)
    finish_grid(grid, len(panels), "cosine")
    figure.supxlabel(f"fraction of depth ({shown})", fontsize=style.LABEL_POINTS)
    draw_density_bar(figure, image, grid, aspect=18.0 * rows)


def draw_heading(axes: Any, title: str, width_inches: float, facts: str = "", points: float | None = None) -> None:
    """Put a title over a panel, broken into lines of `width_inches`, and lines of `facts` between the two."""
    points = points or title_points([title])
    text = short_title(title, width_inches, points)
    axes.set_title(text, weight="bold", size=points, pad=7.0 + 15.5 * len(facts.splitlines()) if facts else 6.0)
    if facts:
        axes.annotate(
            facts, (0.5, 1), (0, 5), xycoords="axes fraction", textcoords="offset points", ha="center", va="bottom"
        )


def title_points(titles: Iterable[str]) -> float:
    """Return the size of titles of panels: smaller where one of them is long."""
    return style.TITLE_POINTS if max(map(len, titles)) <= 16 else style.SMALL_POINTS


def short_title(title: str, width_inches: float, points: float, most_lines: int = 4) -> str:
    """Return a title of a size of `points` broken into lines of `width_inches`; what is too long ends in "…"."""
    lines = style.wrap(style.label(title), width_inches, points, bold=True).split("\n")
    if len(lines) > most_lines:  # the page and the csv have the whole name; here it would push the plot away
        lines = [*lines[: most_lines - 1], "…"]
    return "\n".join(lines)


def draw_layers(axes: Any, arm: Trajectory) -> None:
    """Draw the mean cosine of every layer over the steps of training, coloured by layer."""
    cosines = numpy.asarray(arm.mean_cosine)
    marker = "." if len(cosines) <= 30 else ""  # where it was measured; many would hide the lines
    for layer, colour in enumerate(style.layer_colours(arm.layers)):
        axes.plot(arm.steps, cosines[:, layer], color=colour, linewidth=1.8, marker=marker, markersize=5)


def draw_lines(axes: Any, series: Sequence[Series]) -> list[Any]:
    """Draw lines, with their intervals as bands where given, and return their handles for a legend."""
    handles = []
    for one, look in zip(series, style.line_styles([one.name for one in series]), strict=True):
        dash: Any = (0, look.dash) if look.dash else "solid"
        marker = look.marker if one.points <= 30 else ""
        handles += axes.plot(one.x, finite(one.y), color=look.light, linestyle=dash, marker=marker, markersize=4)
        if one.low is not None:
            axes.fill_between(one.x, finite(one.low), finite(one.high), color=look.light, alpha=0.18, linewidth=0)
    return handles


def draw_legend(figure: Any, handles: Sequence[Any], names: Sequence[str], width_inches: float) -> None:
    """Put a legend over the whole figure, at most three names beside one another."""
    figure.legend(
        handles,
        _legend_names(names, width_inches),
        loc="outside upper center",
        ncols=min(len(names), 3),
        frameon=False,
        handlelength=2.4,
        handletextpad=0.6,
        columnspacing=1.2,
    )


def legend_lines(names: Sequence[str], width_inches: float) -> int:
    """Return the number of lines of text that `draw_legend` takes."""
    columns = min(len(names), 3)
    heights = [name.count("\n") + 1 for name in _legend_names(names, width_inches)]
    return sum(max(heights[start : start + columns]) for start in range(0, len(heights), columns))


def draw_density_bar(figure: Any, image: Any, axes: Any, aspect: float, location: str = "right") -> None:
    """Put the scale of the heatmaps' colours beside `axes`, or under them."""
    ticks = [0, 5, style.DENSITY_LIMIT]
    bar = figure.colorbar(image, ax=axes, extend="max", pad=0.02, aspect=aspect, ticks=ticks, location=location)
    bar.set_label("density")
    bar.outline.set_visible(False)


def draw_layer_bar(figure: Any, axes: Any, layers: int, aspect: float) -> None:
    """Put the scale of the layers' colours beside `axes`."""
    cm = require("matplotlib.cm", extra="report")
    colors = require("matplotlib.colors", extra="report")
    norm = colors.Normalize(0, max(layers - 1, 1))
    low, high = style.LAYER_RANGE["light"]
    stops = [style.blend(style.VIRIDIS, low + (high - low) * index / 16) for index in range(17)]
    ticks = sorted({0, (layers - 1) // 2, layers - 1})
    bar = figure.colorbar(cm.ScalarMappable(norm, colour_map(stops)), ax=axes, pad=0.02, aspect=aspect, ticks=ticks)
    bar.set_label("layer")
    bar.outline.set_visible(False)


def colour_map(stops: Sequence[str]) -> Any:
    """Return matplotlib's colour map along evenly spaced `stops`."""
    return require("matplotlib.colors", extra="report").LinearSegmentedColormap.from_list("stops", list(stops), N=256)


def cosine_limits(cosines: Iterable[ArrayLike]) -> tuple[float, float]:
    """Return the ends of an axis of mean cosines: 0 and 1 with a margin, lower where one of `cosines` lies below 0."""
    lowest = min(float(numpy.nanmin(numpy.asarray(values))) for values in cosines)
    return min(-0.02, lowest - 0.02), 1.02


def scale_x(axes: Any, x_scale: str, last: float, unit: float = 1.0) -> None:
    """Scale the axis of x, which ends at `last`: "linear", "log", or "steps", which is log10(1 + x / unit)."""
    if x_scale == "log":
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: style.short_number(value))
        axes.xaxis.set_minor_formatter(lambda value, _: "")
    if x_scale == "steps":
        # The scale and its inverse; axes hand values a little below 0 to the inverse while margins are found.
        axes.set_xscale(
            "function",
            functions=(lambda x: numpy.log10(1 + numpy.maximum(x / unit, -0.9)), lambda y: unit * (10.0**y - 1)),
        )
        ticks = style.step_ticks(last, unit)
        axes.set_xticks([value for value, _ in ticks], [text for _, text in ticks])


def finish_grid(grid: Any, used: int, y_label: str) -> None:
    """Label the left panels of a grid that share their axis of y, and hide those after the first `used`."""
    for axes in grid[:, 0]:
        axes.set_ylabel(y_label)
    for axes in grid[:, 1:].flat:
        axes.tick_params(left=False)  # the panel to the left has the numbers
    for axes in list(grid.flat)[used:]:
        axes.set_visible(False)


def _legend_names(names: Sequence[str], width_inches: float) -> list[str]:
    # A handle of the legend and its margins take 0.64 inches, what is left of a column is the text's.
    room = width_inches / min(len(names), 3) - 0.64
    return [style.wrap(style.label(name), room, style.SMALL_POINTS) for name in names]
