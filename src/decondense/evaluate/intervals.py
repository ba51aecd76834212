"""Numbers of several seeds in, means with t intervals out. Few seeds call for t: a bootstrap of five covers 84 %, t covers 94 %."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from decondense.errors import UserError, require


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % t interval; without an interval where there is one value only.

    Attributes:
        mean: of the values.
        low: lower end of the interval; None for one value.
        high: upper end of the interval; None for one value.
        count: number of values.
    """

    mean: float
    low: float | None
    high: float | None
    count: int

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside the interval; false without one."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def mean_interval(values: Sequence[float], level: float = 0.95) -> Estimate:
    """Mean of `values` and its two-sided t interval (Student 1908), with n - 1 degrees of freedom.

    >>> estimate = mean_interval([1.0, 2.0, 3.0])
    >>> round(estimate.low, 3), estimate.mean, round(estimate.high, 3)
    (-0.484, 2.0, 4.484)
    """
    count = len(values)
    if count == 0:
        raise UserError("values is empty: a mean needs at least one number")
    mean = math.fsum(values) / count
    if count == 1:
        return Estimate(mean, None, None, 1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = float(require("scipy.stats", extra="hf").t.ppf((1 + level) / 2, count - 1)) * deviation / math.sqrt(count)
    return Estimate(mean, mean - half, mean + half, count)


def paired_difference(values: Sequence[float], baseline: Sequence[float]) -> Estimate:
    """Mean and t interval of values[k] - baseline[k]: pairs share a seed, so what the seed does to both cancels."""
    return mean_interval([value - other for value, other in zip(values, baseline, strict=True)])


def write_estimate(estimate: Mapping[str, Any], form: str) -> str:
    """An `Estimate` as JSON holds it in writing, half of its interval after ±: a t interval is symmetric, and half of it says all.

    >>> write_estimate({"mean": -0.15, "low": -0.25, "high": -0.05}, "+.2f"), write_estimate({"mean": 3.0, "low": None, "high": None}, ".1f")
    ('-0.15 ±0.10', '3.0')
    """
    text = format(estimate["mean"], form)
    return text if estimate["high"] is None else f"{text} ±{estimate['high'] - estimate['mean']:{form.lstrip('+')}}"
