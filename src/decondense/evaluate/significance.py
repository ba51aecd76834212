"""Paired differences of runs in, tests, effect sizes and numbers of seeds out. Knows no file, no model and no metric.

A difference is arm less baseline at one seed (and, where samples were logged, at one item). What a test averages over as if it
had been drawn at random is what its p-value speaks of: seeds, items, or both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from decondense.errors import UserError, require
from decondense.evaluate.intervals import mean_interval

ALPHA = 0.05
POWER = 0.8
MOST_SEEDS = 100_000
"""Beyond so many seeds the number needed is not counted."""

Differences = NDArray[numpy.float64]


@dataclass(frozen=True)
class PairedTest:
    """A mean difference, its t interval and the two-sided p-value of no difference.

    Attributes:
        over: "seeds", "items" or "both": what the claim generalises to.
        mean: of the differences.
        low, high: ends of the 95 % interval; None where there is one value only.
        p: None for one value, and where all differences are the same number other than 0: without spread there is no t.
        freedom: degrees of freedom of t; over both, those of the seeds.
    """

    over: str
    mean: float
    low: float | None
    high: float | None
    p: float | None
    freedom: int


@dataclass(frozen=True)
class Effect:
    """A standardised mean difference with its 95 % interval."""

    value: float
    low: float
    high: float


def over_seeds(differences: Sequence[float]) -> PairedTest:
    """The paired t test (Student 1908): new seeds, these items. `differences` [seeds].

    >>> round(over_seeds([1.0, 2.0, 3.0]).p, 4)
    0.0742
    """
    estimate = mean_interval(differences)
    count = estimate.count
    spread = float(numpy.std(differences, ddof=1)) if count > 1 else 0.0
    return PairedTest(
        "seeds",
        estimate.mean,
        estimate.low,
        estimate.high,
        _p(estimate.mean, spread / math.sqrt(count), count - 1),
        count - 1,
    )


def over_items(*differences: Differences) -> PairedTest:
    """The paired t test over items, each averaged over seeds: new items, these very models. `differences` [seeds, items].

    Of several tasks, a matrix each, it tests their mean, each task counting once (Welch 1938). It says nothing of models from other seeds: where
    seeds differ, it finds differences between arms that are none.
    """
    tasks = [_Squares.of(matrix) for matrix in differences]
    mean = _mean([task.mean for task in tasks])
    variance, freedom = _pooled([task.of_items for task in tasks], [task.items - 1 for task in tasks])
    error = math.sqrt(variance)
    if freedom < 1:
        return PairedTest("items", mean, None, None, None, 0)
    half = float(_stats().t.isf(ALPHA / 2, freedom)) * error
    return PairedTest("items", mean, mean - half, mean + half, _p(mean, error, freedom), freedom)


def over_both(*differences: Differences) -> PairedTest:
    """The t test with seeds and items both drawn at random: new seeds and new items. `differences` [seeds, items].

    The variance of the grand mean of a crossed design is var(seed)/n + var(item)/m + var(rest)/(n m). With the mean squares of the two-way
    analysis of variance it is estimated by MS(seed)/(n m), which is the squared standard error over seeds, plus (MS(item) - MS(rest))/(n m) where
    that is positive: the quasi-F of Clark (1973, "The language-as-fixed-effect fallacy") with its item component held at or above 0. Its
    critical value is the mean of those of t with n - 1 and m - 1 degrees of freedom, weighted by the two parts of the variance (Cochran &
    Cox 1957): Satterthwaite's degrees of freedom find too much at 3 seeds (benchmarks/comparison.py).

    Of several tasks, a matrix each with the same seeds, it tests their mean, each task counting once: the part of seeds is that of the mean, the
    parts of items add up.
    """
    tasks = [_Squares.of(matrix) for matrix in differences]
    mean, seeds = _mean([task.mean for task in tasks]), len(tasks[0].by_seed)
    if seeds < 2 or min(task.items for task in tasks) < 2:
        return PairedTest("both", mean, None, None, None, 0)
    by_seed = numpy.mean([task.by_seed for task in tasks], axis=0)
    of_seeds = float(numpy.var(by_seed, ddof=1)) / seeds
    of_items = max(math.fsum(task.of_items - task.of_rest for task in tasks) / len(tasks) ** 2, 0.0)
    _, freedom = _pooled([task.of_items for task in tasks], [task.items - 1 for task in tasks])
    error = math.sqrt(of_seeds + of_items)
    if not _spreads(error, mean):
        return PairedTest("both", mean, mean, mean, 1.0 if mean == 0 else None, seeds - 1)
    share = of_items / (of_seeds + of_items)
    quantile = require("scipy.special", extra="hf").stdtrit

    def critical(tail: float) -> float:
        return -float((1 - share) * quantile(seeds - 1, tail) + share * quantile(freedom, tail))

    half = critical(ALPHA / 2) * error
    return PairedTest("both", mean, mean - half, mean + half, _level(critical, abs(mean) / error), seeds - 1)


@dataclass(frozen=True)
class _Squares:
    """The two-way analysis of variance of a matrix [seeds, items]; mean squares over n m, on the scale of the variance of the grand mean."""

    mean: float
    items: int
    by_seed: Differences
    of_items: float
    of_rest: float

    @classmethod
    def of(cls, differences: Differences) -> _Squares:
        matrix = numpy.asarray(differences, dtype=numpy.float64)
        if matrix.ndim != 2 or matrix.size == 0:
            raise UserError(f"differences: a matrix [seeds, items] is expected, given shape {list(matrix.shape)}")
        seeds, items = matrix.shape
        mean, rows, columns = float(matrix.mean()), matrix.mean(axis=1), matrix.mean(axis=0)
        squares_of_seeds = items * float(((rows - mean) ** 2).sum())
        squares_of_items = seeds * float(((columns - mean) ** 2).sum())
        # What rounding leaves below 0 is nothing.
        rest = max(float(((matrix - mean) ** 2).sum()) - squares_of_seeds - squares_of_items, 0.0)
        of_items = squares_of_items / max(items - 1, 1) / matrix.size
        return cls(mean, items, rows, of_items, rest / max((seeds - 1) * (items - 1), 1) / matrix.size)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _pooled(variances: Sequence[float], freedoms: Sequence[int]) -> tuple[float, int]:
    """Variance of the mean of independent means, and its degrees of freedom (Welch 1938), rounded down."""
    total = math.fsum(variances)
    noise = math.fsum(one**2 / freedom for one, freedom in zip(variances, freedoms, strict=True) if freedom > 0)
    # One mean keeps its own; where nothing varies any number would do.
    freedom = freedoms[0] if len(freedoms) == 1 else max(math.floor(total**2 / noise), 1) if noise else sum(freedoms)
    return total / len(variances) ** 2, freedom


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted p-values that keep the chance of any false positive in the family at the level (Holm 1979); None stays None.

    >>> holm([0.01, 0.04, None, 0.03])
    [0.03, 0.06, None, 0.06]
    """
    tested = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        adjusted[place] = largest
    return adjusted


def standardised(differences: Sequence[float]) -> Effect | None:
    """Hedges' g of paired differences: mean over standard deviation (Cohen's d_z), its bias for few seeds taken out; None without spread.

    The interval inverts the noncentral t distribution, whose noncentrality is d_z times the root of the number of seeds (Hedges 1981;
    Cumming & Finch 2001).
    """
    count = len(differences)
    spread = float(numpy.std(differences, ddof=1)) if count > 1 else 0.0
    mean = math.fsum(differences) / count
    if not _spreads(spread / math.sqrt(count), mean):
        return None
    freedom = count - 1
    lgamma = math.lgamma
    # The correction is undefined (0) at one degree of freedom; its limit there says that nothing is known of the size.
    correction = (
        math.exp(lgamma(freedom / 2) - lgamma((freedom - 1) / 2)) / math.sqrt(freedom / 2) if freedom > 1 else 1.0
    )
    statistic = mean / spread * math.sqrt(count)
    ends = [_noncentrality(statistic, freedom, tail) / math.sqrt(count) for tail in (1 - ALPHA / 2, ALPHA / 2)]
    return Effect(correction * mean / spread, correction * ends[0], correction * ends[1])


def power(effect: float, seeds: int, alpha: float = ALPHA) -> float:
    """Chance that the two-sided paired t test of so many seeds sees a difference of `effect` standard deviations of the differences."""
    bound = float(_stats().t.isf(alpha / 2, seeds - 1))
    shift = abs(effect) * math.sqrt(seeds)
    return _above(bound, seeds - 1, shift) + _above(bound, seeds - 1, -shift)


def seeds_needed(effect: float, wanted: float = POWER) -> int | None:
    """Fewest seeds that see a difference of `effect` standard deviations with power `wanted`; None beyond 100,000.

    >>> seeds_needed(1.0), seeds_needed(0.2)
    (10, 199)
    """
    high = 2
    while power(effect, high) < wanted:
        high *= 2
        if high > MOST_SEEDS:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if power(effect, middle) < wanted:
            low = middle
        else:
            high = middle
    return high


def smallest_visible(spread: float, seeds: int, wanted: float = POWER) -> float:
    """The difference that so many seeds see with power `wanted`, where differences have the standard deviation `spread`."""
    optimize = require("scipy.optimize", extra="hf")
    # Power rises from the level, 0.05, to 1: at this end it is 1 whatever the number of seeds, 2 included.
    return spread * float(optimize.brentq(lambda effect: power(effect, seeds) - wanted, 0.0, 60.0))


def _stats() -> Any:
    return require("scipy.stats", extra="hf")


def _spreads(error: float, mean: float) -> bool:
    # What rounding leaves of equal differences is no spread.
    return error > 1e-12 * abs(mean)


def _p(mean: float, error: float, freedom: int) -> float | None:
    if freedom < 1:
        return None
    if not _spreads(error, mean):
        return 1.0 if mean == 0 else None
    return 2 * float(_stats().t.sf(abs(mean) / error, freedom))


def _level(critical: Callable[[float], float], statistic: float) -> float:
    """The two-sided level whose critical value is `statistic`."""
    if statistic == 0:
        return 1.0
    least = math.log(1e-100)
    if critical(math.exp(least)) <= statistic:
        return 1e-100
    solve = require("scipy.optimize", extra="hf").brentq
    return 2 * math.exp(solve(lambda log: critical(math.exp(log)) - statistic, least, math.log(0.5), xtol=1e-10))


def _above(statistic: float, freedom: int, shift: float) -> float:
    """Chance that a t statistic of noncentrality `shift` is larger than `statistic`."""
    stats = _stats()
    chance = float(stats.nct.sf(statistic, freedom, shift))
    if math.isfinite(chance):
        return chance
    # Far out scipy's noncentral t is NaN. There the normal deviate is nothing beside the noncentrality, and t is it over a chi.
    if statistic <= 0 or shift <= 0:
        return float(shift > statistic)
    return float(stats.chi2.cdf(freedom * (shift / statistic) ** 2, freedom))


def _noncentrality(statistic: float, freedom: int, tail: float) -> float:
    """The noncentrality under which a t statistic is no larger than this one with probability `tail`."""
    optimize = require("scipy.optimize", extra="hf")
    width = 10.0 + 10.0 * abs(statistic)
    ends = (statistic - width, statistic + width)
    return float(optimize.brentq(lambda shift: 1 - _above(statistic, freedom, shift) - tail, *ends, xtol=1e-8))
