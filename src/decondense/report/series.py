"""Measured numbers in, checked arrays ready to draw out, for figures and page. Must not know how they are drawn.

A measurement (`Measured`, which `decondense.Condensation` is) becomes densities over cosine; curves come as `Series`,
the mean cosine of every layer over training as `Trajectory`. What cannot be drawn truthfully raises `UserError` here,
before anything is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy
from numpy.typing import ArrayLike, NDArray

from decondense.errors import UserError, choose

KINDS = ("histogram", "histogram_of_mean")
SCALES = ("linear", "log", "steps")


@runtime_checkable
class LayerMeans(Protocol):
    """The part of a `Condensation` that is there whatever was measured; layers are numbered as `hidden_states` is."""

    @property
    def model(self) -> str:
        """Name of the model."""

    @property
    def mean_cosine(self) -> NDArray[numpy.float64]:
        """Mean cosine [layers], diagonal included."""


@runtime_checkable
class Measured(LayerMeans, Protocol):
    """The part of a `Condensation` that is drawn: with these `histogram`, and `histogram_of_mean` where asked for.

    Both are int64 [layers, bins], bins evenly over [-1, 1]: counts of all cosines, and of the matrix averaged over
    texts; None or a `UserError` where not measured. They are read by their names and are no members here, since
    `isinstance` (before Python 3.12) would compute them, and fail where one was not measured.
    """

    @property
    def spearman(self) -> float:
        """Rank correlation of the layer means with the layer index."""

    @property
    def kendall(self) -> float:
        """Kendall's tau of the same."""


@dataclass(frozen=True, eq=False)
class Series:
    """One line of a plot: `y` [points] over `x` [points], with an interval from `low` to `high` where both are given.

    Raises `UserError` where lengths differ, no point is given, or `x` does not rise. NaN or None in `y`,
    `low` or `high` leaves a gap.

    >>> Series("dispersion", [0, 100], [900, 94.5]).y
    array([900. ,  94.5])
    """

    name: str
    x: ArrayLike
    y: ArrayLike | Sequence[float | None]
    low: ArrayLike | Sequence[float | None] | None = None
    high: ArrayLike | Sequence[float | None] | None = None
    points: int = field(init=False)

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None):
            raise UserError(f"series {self.name!r}: an interval needs low and high; only one of them was given")
        for axis in ("x", "y", "low", "high"):
            if getattr(self, axis) is not None:
                object.__setattr__(self, axis, _row(getattr(self, axis), f"series {self.name!r}: {axis}"))
        lengths = {
            axis: len(values) for axis in ("x", "y", "low", "high") if (values := getattr(self, axis)) is not None
        }
        if len(set(lengths.values())) > 1:
            raise UserError(f"series {self.name!r}: all of one length expected, given {lengths}")
        check_rising(self.x, f"series {self.name!r}: x")
        if self.low is not None and numpy.any(numpy.asarray(self.low) > numpy.asarray(self.high)):
            raise UserError(f"series {self.name!r}: low lies above high; are they swapped?")
        object.__setattr__(self, "points", lengths["x"])


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The mean cosine of every layer while one arm trained: `mean_cosine` [steps, layers] at rising `steps` [steps].

    Raises `UserError` where the shapes do not fit or the steps do not rise.

    >>> Trajectory("cross_entropy", [0, 20], [[0.02, 0.05], [0.03, 0.91]]).layers
    2
    """

    name: str
    steps: ArrayLike
    mean_cosine: ArrayLike
    layers: int = field(init=False)

    def __post_init__(self) -> None:
        steps = _row(self.steps, f"trajectory {self.name!r}: steps")
        check_rising(steps, f"trajectory {self.name!r}: steps")
        if steps[0] < 0:
            raise UserError(f"trajectory {self.name!r}: steps begin at {steps[0]:g}; training starts at step 0")
        cosines = numpy.asarray(self.mean_cosine, dtype=numpy.float64)
        if cosines.ndim != 2 or cosines.shape[0] != len(steps) or cosines.shape[1] == 0:
            raise UserError(
                f"trajectory {self.name!r}: mean_cosine of shape [{len(steps)} steps, layers] expected, "
                f"given {list(cosines.shape)}"
            )
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "mean_cosine", cosines)
        object.__setattr__(self, "layers", cosines.shape[1])


@dataclass(frozen=True, eq=False)
class Heatmap:
    """One panel, ready to draw: counts and density [layers, bins], cosines at the edges [bins + 1], layer means."""

    title: str
    model: str
    counts: NDArray[numpy.int64]
    density: NDArray[numpy.float64]
    edges: NDArray[numpy.float64]
    fraction: NDArray[numpy.float64]
    mean_cosine: NDArray[numpy.float64]
    spearman: float
    kendall: float

    @property
    def layers(self) -> int:
        """Number of entries of `hidden_states`: the embeddings and each block."""
        return len(self.mean_cosine)

    @property
    def middle(self) -> float:
        """Mean cosine of the middle entry, index layers // 2."""
        return float(self.mean_cosine[self.layers // 2])

    @property
    def last(self) -> float:
        """Mean cosine of the last entry, after the final norm."""
        return float(self.mean_cosine[-1])


def density(counts: ArrayLike) -> NDArray[numpy.float64]:
    """Turn counts [layers, bins] of cosines in [-1, 1] into densities that integrate to 1 over cosine, layer by layer.

    Raises `UserError` where a layer counts no pair.

    >>> density([[1, 3]])
    array([[0.25, 0.75]])
    """
    values = numpy.asarray(counts, dtype=numpy.float64)
    totals = values.sum(axis=1, keepdims=True)
    if numpy.any(totals <= 0):
        raise UserError(
            f"layer {int(numpy.argmax(totals[:, 0] <= 0))} counts no pair of tokens, so it has no density to draw"
        )
    return values / totals * (values.shape[1] / 2.0)


def prepare_heatmaps(results: Sequence[Measured], titles: Sequence[str], kind: str = "histogram") -> list[Heatmap]:
    """Check `results` and `titles` (one each) and return their panels; `kind` is one of `KINDS`.

    "histogram" counts all pairs; "histogram_of_mean" the matrix averaged over texts, as the paper's authors draw it,
    which narrows it. Raises `UserError` where there is nothing to draw or a result has no such histogram.
    """
    choose("kind", kind, KINDS)
    if not results or len(results) != len(titles):
        raise UserError(
            f"one title for each result expected and at least one of them, given {len(results)} and {len(titles)}"
        )
    panels: list[Heatmap] = []
    for result, title in zip(results, titles, strict=True):
        try:
            counts = getattr(result, kind)
        except UserError as error:  # a Condensation says itself what it lacks, but not which of several it is
            raise UserError(f"{title}: {error}") from error
        if counts is None:
            raise UserError(
                f"{title}: no histogram of the averaged matrix, since its texts differ in length; "
                "kind='histogram' draws all pairs"
            )
        counts, means = numpy.asarray(counts), numpy.asarray(result.mean_cosine, dtype=numpy.float64)
        if counts.ndim != 2 or len(counts) != len(means) or len(means) == 0:
            raise UserError(
                f"{title}: histogram of shape [{len(means)} layers, bins] expected, given {list(counts.shape)}"
            )
        panels.append(
            Heatmap(
                title=title,
                model=result.model,
                counts=counts,
                density=density(counts),
                edges=numpy.linspace(-1.0, 1.0, counts.shape[1] + 1),
                fraction=numpy.arange(len(means)) / max(len(means) - 1, 1),
                mean_cosine=means,
                spearman=float(result.spearman),
                kendall=float(result.kendall),
            )
        )
    return panels


def heatmap_header(panels: Sequence[Heatmap]) -> list[str]:
    """Return the names of the columns of `heatmap_rows`; raise `UserError` where histograms differ in their bins."""
    if len({len(panel.edges) for panel in panels}) > 1:
        raise UserError("results whose histograms differ in their number of bins cannot share a csv: draw them apart")
    bins = [f"pairs_from_{edge:.6f}" for edge in panels[0].edges[:-1]]
    return ["title", "model", "layer", "fraction_of_depth", "mean_cosine", "spearman", "kendall", *bins]


def heatmap_rows(panel: Heatmap) -> Iterator[list[Any]]:
    """Yield the numbers of a panel, a row for each layer."""
    means, fractions = panel.mean_cosine.tolist(), panel.fraction.tolist()
    for layer, counts in enumerate(panel.counts.tolist()):
        facts = [panel.title, panel.model, layer, fractions[layer], means[layer], panel.spearman, panel.kendall]
        yield [*facts, *counts]


def finite(values: ArrayLike | Sequence[float | None] | None) -> NDArray[numpy.float64]:
    """Return `values` with NaN, which leaves a gap, for infinities: the perplexity of a diverged arm has no place.

    >>> finite([1, float("inf")])
    array([ 1., nan])
    """
    numbers = numpy.asarray(values, dtype=numpy.float64)
    return numpy.where(numpy.isfinite(numbers), numbers, numpy.nan)


def check_curves(series: Sequence[Series], x_scale: str, y_scale: str) -> None:
    """Raise `UserError` where there is no series, a scale is unknown, or a logarithmic axis would lose points."""
    choose("x_scale", x_scale, SCALES)
    choose("y_scale", y_scale, SCALES[:2])
    if not series:
        raise UserError("no series to draw: give at least one")
    for one in series:
        x, y = numpy.asarray(one.x), numpy.asarray(one.y)
        if not numpy.any(numpy.isfinite(y)):
            raise UserError(f"series {one.name!r}: not one value is a finite number")
        if x_scale == "log" and x[0] <= 0:
            raise UserError(
                f"series {one.name!r}: x starts at {x[0]:g}, which a logarithmic axis cannot show; x_scale='steps' can"
            )
        if x_scale == "steps" and x[0] < 0:
            raise UserError(
                f"series {one.name!r}: x starts at {x[0]:g}; x_scale='steps' begins at 0, 'linear' shows it"
            )
        drawn = y if one.low is None else numpy.concatenate([y, numpy.asarray(one.low)])
        if y_scale == "log" and numpy.any(drawn <= 0):
            raise UserError(
                f"series {one.name!r}: values of 0 or less cannot be shown on a logarithmic axis; y_scale='linear' can"
            )


def check_trajectories(arms: Sequence[Trajectory]) -> None:
    """Raise `UserError` where there is no arm, or one without a single number."""
    if not arms:
        raise UserError("no arm to draw: give at least one trajectory")
    for arm in arms:
        if not numpy.any(numpy.isfinite(arm.mean_cosine)):
            raise UserError(f"trajectory {arm.name!r}: not one mean cosine is a number")


def one_each(what: str, given: Sequence[Any], expected: int) -> None:
    """Raise `UserError` where `given` does not hold one `what` for each of `expected` results."""
    if len(given) != expected:
        raise UserError(f"one {what} for each of {expected} results expected, given {len(given)}")


def check_rising(values: ArrayLike, what: str) -> None:
    """Raise `UserError` where `values` do not rise or are not finite."""
    row = numpy.asarray(values)
    if not numpy.all(numpy.isfinite(row)) or numpy.any(numpy.diff(row) <= 0):
        raise UserError(f"{what} must rise and be finite; sort the points and keep one at each place")


def _row(values: ArrayLike | Sequence[float | None], what: str) -> NDArray[numpy.float64]:
    row = numpy.asarray(values, dtype=numpy.float64)
    if row.ndim != 1 or len(row) == 0:
        raise UserError(f"{what}: a row of numbers expected, given shape {list(row.shape)}")
    return row
