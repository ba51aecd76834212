"""The inputs of figures and tables in, sections of the page out: headings, text, tables, plots. Must not know HTML.

Everything here is plain data; the page escapes it. Under each plot stand its numbers as a table, for those who cannot
see or run it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy

from decondense.report import plots, style
from decondense.report.series import (
    Measured,
    Series,
    Trajectory,
    check_curves,
    check_trajectories,
    prepare_heatmaps,
)
from decondense.report.tables import Cell, Column, Table


@dataclass(frozen=True)
class Text:
    """Paragraphs, parted by empty lines; with `emphasis` they stand out, as a verdict should."""

    text: str
    emphasis: bool = False
    kind: ClassVar[str] = "text"

    @property
    def paragraphs(self) -> list[str]:
        """The paragraphs, without the empty lines between them."""
        return [part.strip() for part in self.text.split("\n\n") if part.strip()]


@dataclass(frozen=True)
class Code:
    """A command to be copied: one line, broken between its words where it is too long."""

    text: str
    kind: ClassVar[str] = "code"

    @property
    def words(self) -> list[str]:
        """The parts between which a line may break."""
        return self.text.split()


@dataclass(frozen=True)
class Grid:
    """A table and what it shows, which stands over it."""

    table: Table
    caption: str
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Scale:
    """What colours mean in a group of plots: stops from `low` to `high`, on a light and a dark page."""

    label: str
    low: str
    high: str
    light: Sequence[str]
    dark: Sequence[str]


@dataclass(frozen=True)
class Plots:
    """Plots side by side, as many as fit, with one caption and one scale of colours."""

    panels: Sequence[plots.Panel]
    caption: str
    scale: Scale | None = None
    kind: ClassVar[str] = "plots"


@dataclass(frozen=True)
class Details:
    """Blocks that are folded away under a summary."""

    summary: str
    blocks: Sequence[Block]
    kind: ClassVar[str] = "details"


Block = Text | Code | Grid | Plots | Details


@dataclass(frozen=True)
class Section:
    """A heading and the blocks under it; sections are joined by `Section(heading, [*one.blocks, *other.blocks])`."""

    heading: str
    blocks: Sequence[Block]


def text_section(heading: str, text: str, emphasis: bool = False) -> Section:
    """Return paragraphs (parted by empty lines) under a heading; `emphasis` makes them stand out."""
    return Section(heading, [Text(text, emphasis)])


def table_section(heading: str, table: Table, text: str = "", caption: str = "") -> Section:
    """Return a table under a heading, after `text`; `caption` says what it shows (the heading where not given)."""
    return Section(heading, [*_opening(text), Grid(table, caption or heading)])


def details_section(heading: str, values: Mapping[str, Any], text: str = "", command: str = "") -> Section:
    """Return how a run was made: its command, and folded away its settings by name (nested ones as `outer.inner`)."""
    blocks: list[Block] = [*_opening(text)]
    if command:
        blocks.append(Code(command))
    if values:
        table = Table([Column("setting"), Column("value", align="left")], list(_flatten(values)))
        blocks.append(Details("Show all settings", [Grid(table, f"{heading}: settings")]))
    return Section(heading, blocks)


def heatmap_section(
    results: Sequence[Measured],
    titles: Sequence[str],
    heading: str = "Cosines between tokens, layer by layer",
    text: str = "",
    kind: str = "histogram",
) -> Section:
    """Return interactive heatmaps, one a result, from the inputs of `figures.heatmaps`; raises what that raises."""
    heatmaps = prepare_heatmaps(results, titles, kind)
    which = (
        "all pairs of tokens" if kind == "histogram" else "the matrix averaged over texts (as the paper's authors do)"
    )
    caption = (
        f"Density of the cosines of {which}, from the embeddings (0) to the last layer (1). The line is each layer's "
        "mean cosine, the diagonal included. A model condenses where the density moves upwards."
    )
    limit = f"{style.DENSITY_LIMIT:g} or more"
    scale = Scale("density", "0", limit, style.DENSITY_COLOURS["light"], style.DENSITY_COLOURS["dark"])
    most = max(heatmap.layers for heatmap in heatmaps)
    means = [[*map(float, heatmap.mean_cosine), *[None] * (most - heatmap.layers)] for heatmap in heatmaps]
    rows: list[list[Cell]] = [[layer, *row] for layer, row in enumerate(zip(*means, strict=True))]
    table = Table(["layer", *(Column(style.label(heatmap.title), ".4f") for heatmap in heatmaps)], rows)
    return Section(
        heading,
        [
            *_opening(text),
            Plots([plots.heatmap_panel(heatmap) for heatmap in heatmaps], caption, scale),
            Details("Show the numbers", [Grid(table, "Mean cosine of each layer")]),
        ],
    )


def curve_section(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    heading: str = "Over training",
    text: str = "",
    x_scale: str = "linear",
    y_scale: str = "linear",
    caption: str = "",
) -> Section:
    """Return interactive lines with their intervals, from the inputs of `figures.curves`; raises what that raises."""
    check_curves(series, x_scale, y_scale)
    panel = plots.curve_panel(series, x_label, y_label, x_scale, y_scale)
    places = sorted({float(x) for one in series for x in numpy.asarray(one.x)})
    columns = [
        dict(zip(numpy.asarray(one.x).tolist(), map(_with_interval, *_columns(one)), strict=True)) for one in series
    ]
    rows: list[list[Cell]] = [[f"{x:g}", *(column.get(x) for column in columns)] for x in places]
    table = Table(
        [Column(x_label, align="right"), *(Column(style.label(one.name), align="right") for one in series)], rows
    )
    subject = y_label[:1].upper() + y_label[1:]
    default = f"{subject} over {x_label}."
    if any(one.low is not None for one in series):
        default += " Bands are intervals."
    return Section(
        heading,
        [
            *_opening(text),
            Plots([panel], caption or default),
            Details("Show the numbers", [Grid(table, f"{subject} by {x_label}")]),
        ],
    )


def trajectory_section(
    arms: Sequence[Trajectory], heading: str = "Mean cosine of every layer while training", text: str = ""
) -> Section:
    """Return interactive lines of each layer's mean cosine, a plot an arm, from the inputs of `figures.trajectory`."""
    check_trajectories(arms)
    lowest = min(float(numpy.nanmin(arm.mean_cosine)) for arm in arms)
    y_range = (min(-0.02, lowest - 0.02), 1.02)
    most = max(arm.layers for arm in arms)
    scale = Scale(
        "layer",
        "0 (embeddings)",
        f"{most - 1} (last)",
        style.layer_colours(17),
        style.layer_colours(17, "dark"),
    )
    caption = (
        "One line a layer. The axis is logarithmic after step 0, so that the first steps, in which a model learns "
        "little but how frequent words are, have room."
    )
    numbers: list[Block] = []
    for arm in arms:
        cosines = zip(numpy.asarray(arm.steps).tolist(), numpy.asarray(arm.mean_cosine).tolist(), strict=True)
        rows: list[list[Cell]] = [[f"{step:g}", *values] for step, values in cosines]
        columns = [Column("step", align="right"), *(Column(f"layer {layer}", ".3f") for layer in range(arm.layers))]
        numbers.append(Grid(Table(columns, rows), f"Mean cosine by step: {style.label(arm.name)}"))
    panels = [plots.trajectory_panel(arm, y_range) for arm in arms]
    return Section(heading, [*_opening(text), Plots(panels, caption, scale), Details("Show the numbers", numbers)])


def _opening(text: str) -> list[Block]:
    return [Text(text)] if text else []


def _columns(one: Series) -> tuple[list[float], list[float | None], list[float | None]]:
    blank: list[float | None] = [None] * one.points
    low = blank if one.low is None else numpy.asarray(one.low).tolist()
    high = blank if one.high is None else numpy.asarray(one.high).tolist()
    return numpy.asarray(one.y).tolist(), low, high


def _with_interval(y: float, low: float | None, high: float | None) -> str:
    return f"{y:.4g}" if low is None else f"{y:.4g} [{low:.4g}, {high:.4g}]"


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[list[Cell]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)):
            yield [f"{prefix}{name}", ", ".join(map(str, value))]
        else:
            yield [f"{prefix}{name}", str(value)]
