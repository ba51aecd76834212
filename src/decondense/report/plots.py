"""Prepared numbers in, plotly figures as plain dictionaries out, with a description in words. Must not know of pages.

Figures come in the light theme's colours; `Panel.dark` says what each colour becomes on a dark page.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy

from decondense.errors import require
from decondense.report import style
from decondense.report.series import Heatmap, Series, Trajectory, finite

# The markers of `style`, which are matplotlib's names, in plotly's.
_SYMBOLS = {"o": "circle", "s": "square", "D": "diamond", "^": "triangle-up", "v": "triangle-down", "P": "cross"}
LIGHT, DARK = style.THEMES["light"], style.THEMES["dark"]


@dataclass(frozen=True)
class Panel:
    """One interactive plot: title and facts (plain text), what it shows in words, plotly's figure, its dark colours."""

    title: str
    facts: str
    description: str
    figure: dict[str, Any]
    dark: Mapping[str, str] = field(default_factory=dict)
    height_pixels: int = 320


def heatmap_panel(heatmap: Heatmap) -> Panel:
    """Draw the density of cosines by layer with the layer means over it, as `figures.heatmaps` does."""
    graphs = require("plotly.graph_objects", extra="report")
    stops = style.DENSITY_COLOURS["light"]
    centres = (heatmap.edges[1:] + heatmap.edges[:-1]) / 2
    layers = numpy.arange(heatmap.layers)
    figure = graphs.Figure(layout=_layout("fraction of depth", "cosine"))
    figure.add_heatmap(
        z=heatmap.density.T,
        x=heatmap.fraction,
        y=centres,
        customdata=numpy.broadcast_to(layers, heatmap.density.T.shape),
        zmin=0,
        zmax=style.DENSITY_LIMIT,
        colorscale=[[index / (len(stops) - 1), colour] for index, colour in enumerate(stops)],
        showscale=False,
        hovertemplate="layer %{customdata}<br>cosine %{y:.2f}<br>density %{z:.2f}<extra></extra>",
    )
    means = {"x": heatmap.fraction, "y": heatmap.mean_cosine, "mode": "lines", "showlegend": False}
    figure.add_scatter(**means, line={"color": style.MEAN_EDGE["light"], "width": 4.5}, hoverinfo="skip")
    figure.add_scatter(
        **{**means, "mode": "lines+markers" if heatmap.layers <= 20 else "lines"},
        line={"color": style.MEAN_LINE["light"], "width": 2},
        marker={"size": 6},
        customdata=layers,
        hovertemplate="layer %{customdata}<br>mean cosine %{y:.3f}<extra></extra>",
    )
    figure.update_layout(hoverdistance=8)  # the cells lie everywhere; the line answers only where it is pointed at
    figure.update_xaxes(tickvals=[0, 0.25, 0.5, 0.75, 1], showgrid=False)
    figure.update_yaxes(range=[-1, 1], tickvals=[-1, -0.5, 0, 0.5, 1], showgrid=False)
    means_by_layer = ", ".join(style.number(value) for value in heatmap.mean_cosine)
    return Panel(
        title=style.label(heatmap.title),
        facts=(
            f"ρ\u00a0{style.number(heatmap.spearman)} · τ\u00a0{style.number(heatmap.kendall)} · mean cosine: "
            f"middle\u00a0{style.number(heatmap.middle)}, last\u00a0{style.number(heatmap.last)}"
        ),
        description=(
            f"Heatmap of the cosines of tokens at each of {heatmap.layers} layers of {style.label(heatmap.title)}. "
            f"Mean cosine from the embeddings to the last layer: {means_by_layer}."
        ),
        figure=_plain(figure),
        dark=_dark_colours()
        | dict(zip(style.DENSITY_COLOURS["light"], style.DENSITY_COLOURS["dark"], strict=True))
        | {pair["light"]: pair["dark"] for pair in (style.MEAN_LINE, style.MEAN_EDGE)},
        height_pixels=340,
    )


def curve_panel(series: Sequence[Series], x_label: str, y_label: str, x_scale: str, y_scale: str) -> Panel:
    """Draw lines with their intervals, as `figures.curves` does."""
    graphs = require("plotly.graph_objects", extra="report")
    figure = graphs.Figure(layout=_layout(x_label, y_label))
    dark = _dark_colours()
    for one, look in zip(series, style.line_styles([one.name for one in series]), strict=True):
        name = _text(style.label(one.name))
        x, shown = numpy.asarray(one.x), numpy.asarray(one.x)
        if x_scale == "steps":
            x = numpy.log10(1 + x)
        band = style.translucent(look.light, 0.18)
        dark |= {look.light: look.dark, band: style.translucent(look.dark, 0.22)}
        if one.low is not None:
            low, high = numpy.asarray(one.low), numpy.asarray(one.high)
            known = numpy.isfinite(low) & numpy.isfinite(high)  # a gap would close the outline in the middle
            figure.add_scatter(
                x=numpy.concatenate([x[known], x[known][::-1]]),
                y=numpy.concatenate([high[known], low[known][::-1]]),
                fill="toself",
                fillcolor=band,
                line={"width": 0, "color": band},
                hoverinfo="skip",
                showlegend=False,
                legendgroup=name,
            )
        figure.add_scatter(
            x=x,
            y=finite(one.y),
            customdata=shown,
            name=name,
            legendgroup=name,
            mode="lines+markers" if one.points <= 60 else "lines",
            line={"color": look.light, "width": 2.5, "dash": _dash(look.dash)},
            marker={"size": 6, "symbol": _SYMBOLS[look.marker]},
            hovertemplate=f"{name}<br>{_text(x_label)} %{{customdata:,}}: %{{y:.4~g}}<extra></extra>",
        )
    _scale_x(figure, x_scale, max(float(numpy.max(one.x)) for one in series))
    if x_scale == "log":
        figure.update_xaxes(type="log", tickformat=",~g")
    if y_scale == "log":
        figure.update_yaxes(type="log", tickformat=",~g", dtick="D2")
    figure.update_layout(
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "bgcolor": "rgba(0, 0, 0, 0)"}
    )
    ends = "; ".join(f"{style.label(one.name)} ends at {numpy.asarray(one.y)[-1]:.4g}" for one in series)
    return Panel(
        title="",
        facts="",
        description=f"Lines of {y_label} over {x_label}: {ends}.",
        figure=_plain(figure),
        dark=dark,
        height_pixels=420,
    )


def trajectory_panel(arm: Trajectory, y_range: tuple[float, float]) -> Panel:
    """Draw the mean cosine of each layer over training steps, as `figures.trajectory` does."""
    graphs = require("plotly.graph_objects", extra="report")
    figure = graphs.Figure(layout=_layout("training step", "mean cosine"))
    steps, cosines = numpy.asarray(arm.steps), numpy.asarray(arm.mean_cosine)
    dark = _dark_colours()
    for layer, (light, night) in enumerate(
        zip(style.layer_colours(arm.layers), style.layer_colours(arm.layers, "dark"), strict=True)
    ):
        dark[light] = night
        figure.add_scatter(
            x=numpy.log10(1 + steps),
            y=cosines[:, layer],
            customdata=steps,
            mode="lines+markers" if len(steps) <= 30 else "lines",
            line={"color": light, "width": 2},
            marker={"size": 4},
            showlegend=False,
            hovertemplate=f"layer {layer}, step %{{customdata:,}}<br>mean cosine %{{y:.3f}}<extra></extra>",
        )
    _scale_x(figure, "steps", float(numpy.max(steps)))
    figure.update_yaxes(range=list(y_range))
    worst = numpy.unravel_index(int(numpy.nanargmax(cosines)), cosines.shape)
    return Panel(
        title=style.label(arm.name),
        facts=f"highest: {style.number(float(cosines[worst]))} at step {steps[worst[0]]:g}, layer {worst[1]}",
        description=(
            f"Mean cosine of {arm.layers} layers of {style.label(arm.name)} from step {steps[0]:g} to {steps[-1]:g}. "
            f"Highest: {style.number(float(cosines[worst]))} in layer {worst[1]} at step {steps[worst[0]]:g}. "
            f"At the end: {', '.join(style.number(value) for value in cosines[-1])}."
        ),
        figure=_plain(figure),
        dark=dark,
        height_pixels=300,
    )


def _layout(x_label: str, y_label: str) -> dict[str, Any]:
    axis = {
        "gridcolor": LIGHT["grid"],
        "linecolor": LIGHT["muted"],
        "tickcolor": LIGHT["muted"],
        "showline": True,
        "ticks": "outside",
        "ticklen": 4,
        "zeroline": False,
        "fixedrange": False,
        "automargin": True,
    }
    return {
        "template": {"layout": {}},
        "autosize": True,
        "hovermode": "closest",
        "hoverdistance": 60,
        "paper_bgcolor": "rgba(0, 0, 0, 0)",
        "plot_bgcolor": "rgba(0, 0, 0, 0)",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": LIGHT["text"]},
        "hoverlabel": {
            "bgcolor": LIGHT["panel"],
            "bordercolor": LIGHT["line"],
            "font": {"color": LIGHT["text"]},
            "align": "left",
        },
        "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
        "xaxis": {**axis, "title": {"text": _text(x_label), "standoff": 8}},
        "yaxis": {**axis, "title": {"text": _text(y_label), "standoff": 8}},
    }


def _scale_x(figure: Any, x_scale: str, last: float) -> None:
    if x_scale == "steps":  # plotly has no such axis: x is log10(1 + step) already, the ticks say the steps
        ticks = style.step_ticks(last)
        figure.update_xaxes(
            tickvals=[style.step_position(value) for value, _ in ticks],
            ticktext=[text for _, text in ticks],
            range=[-0.06, style.step_position(last) * 1.02 + 0.02],
        )


def _dark_colours() -> dict[str, str]:
    return {LIGHT[name]: DARK[name] for name in ("text", "muted", "grid", "line", "panel")}


def _dash(pattern: tuple[float, ...]) -> str:
    """Plotly counts dashes in pixels, matplotlib in line widths (2.5 pixels here)."""
    return ",".join(f"{length * 2.5:g}px" for length in pattern) or "solid"


def _text(text: str) -> str:
    """Plotly reads tags in text, $...$ as mathematics, %{...} in hover templates: what comes from data must be none."""
    return html.escape(text, quote=False).replace("%", "&#37;").replace("$", "&#36;")


def _plain(figure: Any) -> dict[str, Any]:
    """Plotly's own writer turns arrays into their compact base64 form and NaN into null."""
    content: dict[str, Any] = json.loads(figure.to_json())
    return content
