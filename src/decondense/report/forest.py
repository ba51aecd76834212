"""Differences with their intervals in, a forest plot out, its numbers as csv beside it. Must not know what differs from what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decondense.errors import UserError
from decondense.report import canvas, style

_ROW_INCHES = 0.34
_GAP = 0.55
"""Of a row, above each group but the first."""


@dataclass(frozen=True)
class ForestRow:
    """A line of a forest plot.

    Attributes:
        group: lines of one group stand together under its name.
        name: of the line; it gives the colour.
        value: the difference.
        low, high: ends of its interval; None where there is none.
        points: what the difference is a mean of, drawn faintly.
        clear: whether it is told from 0; else its mark is hollow.
        note: text at the right end of the line, such as a p-value.
    """

    group: str
    name: str
    value: float
    low: float | None = None
    high: float | None = None
    points: Sequence[float] = ()
    clear: bool = False
    note: str = ""


def forest(
    rows: Sequence[ForestRow], path: Path, x_label: str, digits: int = 2, formats: Sequence[str] = ("png", "svg")
) -> list[Path]:
    """Draw each difference as a mark with its interval as a bar, about a line at 0, and return the paths written.

    Beside each stands its number; a filled mark is a difference that is told from 0, a hollow one lies within noise.

    Args:
        rows: the lines, from top to bottom; lines of one group in sequence.
        path: where to write, without suffix; `path.csv` holds the numbers.
        x_label: what the differences are, with their unit and which side is better.
        digits: decimals of the numbers at the right.
        formats: any of "png", "svg", "pdf".

    Raises:
        UserError: there is no line, a number is not finite, or an interval has one end only or its ends swapped.
    """
    _check(rows)
    groups = len({row.group for row in rows})
    # Where each group is one line, its name is that of the line.
    single = groups == len(rows) and groups > 1
    places, heads = _places(rows, groups > 1 and not single)
    height = 1.15 + _ROW_INCHES * (max(places) + 1)
    looks = dict(zip([row.name for row in rows], style.line_styles([row.name for row in rows]), strict=True))
    with canvas.figure(style.FIGURE_WIDTH_INCHES, height) as figure:
        axes = figure.subplots()
        axes.axvline(0, color=style.THEMES["light"]["muted"], linewidth=1.2, zorder=1)
        for row, place in zip(rows, places, strict=True):
            _draw(axes, row, place, looks[row.name], digits)
        for group, place in heads.items():
            text = style.wrap(group, style.FIGURE_WIDTH_INCHES * 0.6, style.SMALL_POINTS, bold=True).split("\n")[0]
            _beside(axes, text, place, 0.0, (-4, 0), "right", weight="bold")
        axes.set_ylim(max(places) + 0.6, min([*places, *heads.values()]) - 0.6)
        axes.set_yticks(places, [row.group if single else style.label(row.name) for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.06)
        axes.set_xlabel(x_label)
        header = ["group", "name", "value", "low", "high", "clear", "note", "points"]
        return canvas.save(figure, path, formats, header, map(_numbers, rows))


def _draw(axes: Any, row: ForestRow, place: float, look: style.LineStyle, digits: int) -> None:
    colour = look.light
    axes.plot(row.points, [place] * len(row.points), "|", color=colour, alpha=0.45, markersize=9, zorder=2)
    if row.low is not None and row.high is not None:
        axes.plot([row.low, row.high], [place, place], color=colour, linewidth=2.0, zorder=3)
    face = colour if row.clear else style.THEMES["light"]["page"]
    axes.plot([row.value], [place], look.marker, color=colour, markerfacecolor=face, markersize=8, zorder=4)
    text = _signed(row.value, digits)
    if row.low is not None and row.high is not None:
        text += f" [{_signed(row.low, digits)}, {_signed(row.high, digits)}]"
    _beside(axes, f"{text}  {row.note}".rstrip(), place, 1.0, (6, 0), "left")


def _beside(axes: Any, text: str, place: float, end: float, offset: tuple[int, int], align: str, **more: Any) -> None:
    axes.annotate(
        text,
        (end, place),
        offset,
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha=align,
        va="center",
        size=style.SMALL_POINTS,
        annotation_clip=False,
        **more,
    )


def _places(rows: Sequence[ForestRow], several: bool) -> tuple[list[float], dict[str, float]]:
    """Where each line stands, counted from the top, and where the names of groups do, if there are several."""
    places: list[float] = []
    heads: dict[str, float] = {}
    place = 0.0
    for row in rows:
        if several and row.group not in heads:
            place += _GAP if heads else 0.0
            heads[row.group] = place
            place += 1
        places.append(place)
        place += 1
    return places, heads


def _check(rows: Sequence[ForestRow]) -> None:
    if not rows:
        raise UserError("forest: there is no difference to draw")
    for row in rows:
        where = f"forest: {row.name} of {row.group}"
        if (row.low is None) != (row.high is None):
            raise UserError(f"{where}: an interval needs low and high; only one of them was given")
        ends = [end for end in (row.low, row.high) if end is not None]
        if not all(map(math.isfinite, [row.value, *row.points, *ends])):
            raise UserError(f"{where}: a number is not finite")
        if ends and ends[0] > ends[1]:
            raise UserError(f"{where}: low lies above high; are they swapped?")


def _signed(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−")


def _numbers(row: ForestRow) -> list[Any]:
    points = " ".join(map(repr, row.points))
    return [row.group, row.name, row.value, row.low, row.high, row.clear, row.note, points]
