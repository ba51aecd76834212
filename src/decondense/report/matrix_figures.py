"""Numbers of one model by layer and position, or by two layers, in; an image of them out. Must not know their origin.

Values from 0 to 1 are coloured by viridis; what was not measured is left as white as the paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import ArrayLike, NDArray

from decondense.errors import UserError
from decondense.report import canvas, style
from decondense.report.panels import colour_map, scale_x

# In more layers than these the numbers of a matrix would be smaller than the smallest text.
MOST_NUMBERED = 12


def positions(profile: ArrayLike, counts: ArrayLike, path: Path, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Draw which positions of a text form the cone, layer by layer, and return the paths written.

    The axis of positions is log10(1 + position): it shows position 0, the first token, and gives the first tokens most
    of its room. A position without a text is left blank.

    Args:
        profile: float [layers, positions], the mean cosine of the token at a position to the others of its text.
        counts: int [positions], the number of texts that have a token there.
        path: where to write, without suffix; `path.png`, `path.svg` and `path.csv` come from it.
        formats: any of "png", "svg", "pdf".

    Raises:
        UserError: where shapes do not match, no position has a text, or a format is unknown.
    """
    cosines, texts = numpy.asarray(profile, dtype=numpy.float64), numpy.asarray(counts)
    if cosines.ndim != 2 or 0 in cosines.shape or texts.shape != cosines.shape[1:]:
        raise UserError(
            f"profile of shape [layers, positions] and counts of shape [positions] expected, "
            f"given {list(cosines.shape)} and {list(texts.shape)}"
        )
    cosines = numpy.where(texts > 0, cosines, numpy.nan)
    if not numpy.any(numpy.isfinite(cosines)):
        raise UserError("not one position has both a text and a mean cosine: nothing to draw")
    layers, length = cosines.shape
    with canvas.figure(5.8, min(max(1.6 + 0.16 * layers, 2.4), 4.8)) as figure:
        axes = figure.subplots()
        # Each position reaches half way to the next; as pixels, since an SVG of a cell each would be megabytes.
        edges = numpy.arange(length + 1) - 0.5
        heights = numpy.arange(layers + 1) - 0.5
        image = axes.pcolormesh(edges, heights, cosines, cmap=_viridis(), vmin=0, vmax=1, rasterized=True)
        scale_x(axes, "steps", float(length - 1))
        ticks = [int(value) for value, _ in style.step_ticks(float(length - 1))]
        if length > 1.8 * ticks[-1]:  # the last position too, where its number has room
            ticks.append(length - 1)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.set(xlim=(edges[0], edges[-1]), yticks=_layer_ticks(layers))
        axes.set(xlabel="position in the text (0: first token)", ylabel="layer")
        axes.grid(False)
        below = bool(numpy.nanmin(cosines) < 0)
        _draw_bar(figure, image, axes, "mean cosine to the\nother tokens", extend="min" if below else "neither")
        rows = (
            [layer, position, cosine, int(texts[position])]
            for layer, row in enumerate(cosines.tolist())
            for position, cosine in enumerate(_blanks(row))
        )
        return canvas.save(figure, path, formats, ["layer", "position", "mean_cosine", "texts"], rows)


def similarity(matrix: ArrayLike, path: Path, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Draw how alike the layers of a model are (linear CKA), and return the paths written.

    The colours go from 0 to 1; an unbiased estimate may lie a little below 0. Up to 12 layers the numbers stand in their cells.
    What is not defined (NaN) is left blank.

    Args:
        matrix: float [layers, layers].
        path: where to write, without suffix.
        formats: any of "png", "svg", "pdf".

    Raises:
        UserError: where the matrix is not square, a value lies outside [-1, 1], or a format is unknown.
    """
    values = numpy.asarray(matrix, dtype=numpy.float64)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or len(values) == 0:
        raise UserError(f"similarity of shape [layers, layers] expected, given {list(values.shape)}")
    if not numpy.any(numpy.isfinite(values)):
        raise UserError("not one similarity is a number: nothing to draw")
    low, high = float(numpy.nanmin(values)), float(numpy.nanmax(values))
    # Float32 sums round by less than 1e-6; an unbiased estimate of nothing is as often below 0 as above.
    if low < -1 or high > 1 + 1e-6:
        raise UserError(f"similarities from -1 to 1 expected, given {low:g} to {high:g}")
    layers = len(values)
    width = 4.6 if layers <= 8 else style.FIGURE_WIDTH_INCHES
    with canvas.figure(width, width - 0.9) as figure:
        axes = figure.subplots()
        image = axes.imshow(values, origin="lower", interpolation="nearest", cmap=_viridis(), vmin=0, vmax=1)
        if layers <= MOST_NUMBERED:
            _draw_numbers(axes, values)
        axes.set(xticks=_layer_ticks(layers), yticks=_layer_ticks(layers), xlabel="layer", ylabel="layer")
        axes.grid(False)
        _draw_bar(figure, image, axes, "similarity (linear CKA)")
        rows = (
            [layer, other, value]
            for layer, row in enumerate(values.tolist())
            for other, value in enumerate(_blanks(row))
        )
        return canvas.save(figure, path, formats, ["layer", "other_layer", "similarity"], rows)


def _viridis() -> Any:
    return colour_map(style.VIRIDIS)


def _draw_bar(figure: Any, image: Any, axes: Any, label: str, extend: str = "neither") -> None:
    bar = figure.colorbar(image, ax=axes, extend=extend, pad=0.02, aspect=18, ticks=[0, 0.5, 1])
    bar.ax.set_yticklabels(["0", "0.5", "1"])
    bar.set_label(label)
    bar.outline.set_visible(False)


def _draw_numbers(axes: Any, values: NDArray[numpy.float64]) -> None:
    for row, column in numpy.argwhere(numpy.isfinite(values)).tolist():
        value = values[row, column]
        # Viridis is lighter than middle grey from about 0.6 on.
        colour = style.THEMES["light"]["text"] if value > 0.6 else "#ffffff"
        text = f"{abs(value):.2f}".removeprefix("0")  # ".93" fits where "0.93" would not
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=style.SMALL_POINTS)


def _layer_ticks(layers: int) -> list[int]:
    """Return evenly spaced layers from 0, at most nine, or each of up to twelve."""
    step = (
        1 if layers <= MOST_NUMBERED else next(step for step in (2, 4, 5, 8, 10, 20, 50, layers) if layers <= 9 * step)
    )
    return list(range(0, layers, step))


def _blanks(values: list[float]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]
