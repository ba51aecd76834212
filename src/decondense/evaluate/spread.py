"""Numbers in, how far their extremes lie from the rest out: what rounding them is said to hang on. Knows tensors only.

A uniform grid spans the extremes, so the finer it is for the rest the closer the two are. Statistics stream: two passes over the same batches, sums
of the first give the mean and sigma that the second counts by.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from decondense.shapes import Float

OUTLIER_SIGMAS = 6.0
"""An outlier lies more than six standard deviations from the mean of its tensor (Bondarenko et al. 2023, Quantizable Transformers)."""
LARGE_MAGNITUDE = 6.0
"""Features with values of this magnitude break int8 inference of large models (Dettmers et al. 2022, LLM.int8)."""


@dataclass
class Spread:
    """Of the numbers of one tensor, or of one kind of tensor over many batches, row by row.

    `look` is called with every batch, then `look_again` with every batch once more; each is [..., features], and what shares the last dimension (a
    token, an output channel) is a row.
    """

    count: int = 0
    rows: int = 0
    total: float = 0.0
    squares: float = 0.0
    largest: float = 0.0
    large: int = 0
    row_ratios: float = 0.0
    centred_squares: float = 0.0
    centred_fourths: float = 0.0
    outliers: int = 0

    def look(self, values: Float[Tensor, "... features"]) -> None:
        """Take a batch in: its mean, root mean square and largest magnitude."""
        flat = values.detach().reshape(-1, values.shape[-1]).double()
        magnitudes = flat.abs()
        most = magnitudes.amax(dim=1)
        squares = flat.square()
        size = squares.mean(dim=1).sqrt()
        self.count += flat.numel()
        self.rows += len(flat)
        self.total += float(flat.sum())
        self.squares += float(squares.sum())
        self.largest = max(self.largest, float(most.amax()))
        self.large += int((magnitudes >= LARGE_MAGNITUDE).sum())
        # A row of zeros has no outlier: its ratio is that of equal numbers.
        self.row_ratios += float(torch.where(size > 0, most / size, torch.ones_like(size)).sum())

    def look_again(self, values: Float[Tensor, "... features"]) -> None:
        """Take the batch in again, now that the mean and sigma of all are known."""
        distances = values.detach().double() - self.mean
        squares = distances.square()
        self.centred_squares += float(squares.sum())
        self.centred_fourths += float(squares.square().sum())
        self.outliers += int((distances.abs() > OUTLIER_SIGMAS * self.sigma).sum())

    @property
    def mean(self) -> float:
        """Mean of all numbers."""
        return self.total / self.count

    @property
    def sigma(self) -> float:
        """Standard deviation of all numbers."""
        return math.sqrt(max(self.squares / self.count - self.mean**2, 0.0))

    def summary(self) -> dict[str, float]:
        """The statistics.

        kurtosis: fourth central moment over the squared variance, 3 for a normal distribution, and 1 where all numbers are equal.
        max_over_rms: the largest magnitude over the root mean square of all.
        row_max_over_rms: the same within a row, averaged over rows: what a scale a row has to span.
        outlier_share: share beyond `OUTLIER_SIGMAS`.
        large_share: share of magnitude `LARGE_MAGNITUDE` or more.
        """
        rms = math.sqrt(self.squares / self.count)
        variance = self.centred_squares / self.count
        return {
            "kurtosis": self.centred_fourths / self.count / variance**2 if variance > 0 else 1.0,
            "max_over_rms": self.largest / rms if rms > 0 else 1.0,
            "row_max_over_rms": self.row_ratios / self.rows,
            "outlier_share": self.outliers / self.count,
            "large_share": self.large / self.count,
        }


def spread_of(values: Float[Tensor, "... features"]) -> dict[str, float]:
    """`Spread.summary` of one tensor.

    >>> found = spread_of(torch.tensor([[1.0, -1.0, 1.0, -1.0]]))
    >>> found["kurtosis"], found["max_over_rms"], found["outlier_share"]
    (1.0, 1.0, 0.0)
    """
    spread = Spread()
    spread.look(values)
    spread.look_again(values)
    return spread.summary()


def over_kinds(found: Mapping[str, Iterable[Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """The mean of each statistic over the tensors of a kind, by kind, and over all tensors as "all".

    >>> over_kinds({"a": [{"x": 1.0}], "b": [{"x": 2.0}, {"x": 6.0}]})
    {'a': {'x': 1.0}, 'b': {'x': 4.0}, 'all': {'x': 3.0}}
    """
    listed = {kind: list(summaries) for kind, summaries in found.items()}
    listed["all"] = [one for summaries in listed.values() for one in summaries]
    return {
        kind: {name: math.fsum(one[name] for one in summaries) / len(summaries) for name in summaries[0]}
        for kind, summaries in listed.items()
    }
