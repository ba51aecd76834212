"""Rank correlations of layer means with depth, and their intervals, in; one panel over models' sizes out.

Must not know how the correlations or their intervals were found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy
from numpy.typing import NDArray

from decondense.errors import UserError, choose, require
from decondense.report import style
from decondense.report.series import Heatmap, one_each

CORRELATIONS = {"spearman": "Spearman's ρ", "kendall": "Kendall's τ"}

Interval = Sequence[float | int | None] | NDArray[numpy.float64] | None


def correlations(panel: Heatmap) -> str:
    """Return rho and tau of a panel as a line of its heading."""
    return f"ρ {style.number(panel.spearman)}   τ {style.number(panel.kendall)}"


def interval_bars(intervals: Sequence[Mapping[str, Interval]] | None, models: int) -> NDArray[numpy.float64]:
    """Return (low, high) of each correlation of each model, NaN where there is none: [models, 2, 2]."""
    bars = numpy.full((models, len(CORRELATIONS), 2), numpy.nan)
    if intervals is None:
        return bars
    one_each("mapping of intervals", intervals, models)
    for index, mapping in enumerate(intervals):
        for name, ends in mapping.items():
            choose("interval of", name, CORRELATIONS)
            if ends is None:
                continue
            pair = numpy.asarray(ends, dtype=numpy.float64)
            if pair.shape != (2,):
                raise UserError(f"interval of {name!r}: (low, high) expected, given shape {list(pair.shape)}")
            bars[index, list(CORRELATIONS).index(name)] = pair
    if numpy.any(bars[..., 0] > bars[..., 1]):
        raise UserError("an interval's low lies above its high; are they swapped?")
    return bars


def draw_correlations(
    figure: Any, panels: Sequence[Heatmap], sizes: Sequence[int], bars: NDArray[numpy.float64]
) -> None:
    """Draw rho and tau of `panels`, which rise in size, over their numbers of parameters; a NaN in `bars` is no bar."""
    axes = figure.subplots()
    shift = require("matplotlib.transforms", extra="report").ScaledTranslation
    axes.set_xscale("log")
    logs = numpy.log10(numpy.asarray(sizes, dtype=numpy.float64))
    margin = max(0.07 * float(logs[-1] - logs[0]), 0.05)
    axes.set(xlim=(10 ** (logs[0] - margin), 10 ** (logs[-1] + margin)), ylim=(-1, 1), yticks=[-1, -0.5, 0, 0.5, 1])
    for place, (name, text) in enumerate(CORRELATIONS.items()):
        look = style.PALETTE[place]
        values = numpy.array([getattr(panel, name) for panel in panels])
        # Bars of one model would hide one another: each pair is drawn some points apart, around its size.
        apart = 0.0 if numpy.all(numpy.isnan(bars)) else (2.5 if place else -2.5)
        where = axes.transData + shift(apart / 72, 0, figure.dpi_scale_trans)
        dash: Any = (0, look.dash) if look.dash else "solid"
        options: dict[str, Any] = {"color": look.light, "transform": where, "clip_on": False}
        # Where the two are equal the smaller marker lies within the larger.
        size = 5 if place else 8
        axes.plot(sizes, values, linestyle=dash, marker=look.marker, markersize=size, label=text, **options)
        low, high = bars[:, place].T
        for count, start, end in zip(sizes, low, high, strict=True):
            if numpy.isfinite(start) and numpy.isfinite(end):
                axes.plot([count, count], [start, end], marker="_", markersize=7, linewidth=1.2, **options)
    ticks = _size_ticks(sizes, logs)
    axes.set_xticks(ticks, [style.short_count(float(tick)) for tick in ticks])
    axes.xaxis.set_minor_locator(require("matplotlib.ticker", extra="report").NullLocator())
    axes.set(xlabel="parameters", ylabel="rank correlation\nwith depth")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.02), ncols=2, frameon=False, handlelength=2.4)


def _size_ticks(sizes: Sequence[int], logs: NDArray[numpy.float64]) -> list[int]:
    """Return the sizes that have room for their text on the axis: the ends, and others in order."""
    room = 0.11 * float(logs[-1] - logs[0])
    kept = [0]
    for index in range(1, len(sizes) - 1):
        if logs[index] - logs[kept[-1]] > room and logs[-1] - logs[index] > room:
            kept.append(index)
    if logs[-1] > logs[0]:
        kept.append(len(sizes) - 1)
    return [int(sizes[index]) for index in kept]
