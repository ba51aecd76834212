"""Two measurements of the same texts in, how much they differ out, paired text by text. Knows neither models nor files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from decondense.errors import UserError
from decondense.files import plain
from decondense.geometry.uncertainty import bootstrap_interval


@runtime_checkable
class Measured(Protocol):
    """The part of a `Condensation` that is compared."""

    @property
    def model(self) -> str:
        """Name of the model."""

    @property
    def samples(self) -> int:
        """Number of texts."""

    @property
    def digest(self) -> str:
        """Of the texts."""

    @property
    def seed(self) -> int:
        """Of the resamples."""

    @property
    def per_text(self) -> Any:
        """Mean cosine, float64 [texts, layers]."""


@dataclass(frozen=True)
class Difference:
    """A difference (second less first) with its 95 % bootstrap interval over texts, NaN for one text."""

    value: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        interval = "" if math.isnan(self.low) else f" [{self.low:+.3f} {self.high:+.3f}]"
        return f"{self.value:+.3f}{interval}"


@dataclass(frozen=True)
class Comparison:
    """How much more condensed the second of two models is than the first, on the same texts.

    Attributes:
        first, second: names of the models.
        mean: difference of the mean cosine averaged over all layers but the embeddings.
        worst: difference of the mean cosine of each model's most condensed layer.
        layers: difference in each layer; empty where the models differ in their number of layers.
    """

    first: str
    second: str
    mean: Difference
    worst: Difference
    layers: tuple[Difference, ...]

    def summary(self) -> dict[str, Any]:
        """Plain numbers and lists, None in place of NaN."""
        of = {name: _numbers(getattr(self, name)) for name in ("mean", "worst")}
        return {"first": self.first, "second": self.second, **of, "layers": [_numbers(one) for one in self.layers]}


def compare(first: Measured, second: Measured) -> Comparison:
    """Compare two measurements text by text.

    Raises:
        UserError: they are not of the same texts.
    """
    if first.digest != second.digest or first.samples != second.samples:
        raise UserError(
            f"cannot compare {first.model} and {second.model}: they were measured on different texts ({first.samples} and {second.samples}); "
            "measure both on the same"
        )
    one, two = (torch.from_numpy(result.per_text) for result in (first, second))
    # The worst layer is chosen by the means over texts: chosen anew in each text it would be the largest of noise.
    columns = [
        two[:, 1:].mean(dim=1) - one[:, 1:].mean(dim=1),
        two[:, int(two.mean(dim=0).argmax())] - one[:, int(one.mean(dim=0).argmax())],
    ]
    if one.shape == two.shape:
        columns += list((two - one).T)
    differences = torch.stack(columns, dim=1)
    intervals = bootstrap_interval(differences, first.seed)
    found = [
        Difference(float(value), float(low), float(high))
        for value, (low, high) in zip(differences.mean(dim=0), intervals, strict=True)
    ]
    return Comparison(first.model, second.model, found[0], found[1], tuple(found[2:]))


def _numbers(difference: Difference) -> list[float | None]:
    numbers: list[float | None] = plain([difference.value, difference.low, difference.high])
    return numbers
