"""Scores of arms on several tasks in, average ranks and what they can tell out. Knows no file and no metric.

Average ranks depend on which other arms are in the comparison (Benavoli, Corani & Mangili 2016, "Should we really use post-hoc tests
based on mean-ranks?"): two arms can be found different or not by adding a third. So ranks and the critical difference of Nemenyi (Demsar
2006) describe, and an arm is tested against the baseline on the tasks by these two alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from decondense.errors import require
from decondense.evaluate.significance import ALPHA, holm


@dataclass(frozen=True)
class Ranks:
    """How arms rank over tasks, each task counting once.

    Attributes:
        tasks: number of them.
        average: of each arm; 1 is best, equal scores share their ranks.
        friedman: p-value of no difference among three or more arms (Friedman 1937, with the F of Iman & Davenport 1980); None for two.
        critical_difference: of average ranks (Nemenyi 1963) at 5 %; None for two arms, where it is another way to write the sign test.
        against_baseline: for each other arm the adjusted p-value (Holm over arms) of the test over tasks.
        test: of `against_baseline`: "Wilcoxon signed-rank" where all tasks have one metric, else "sign".
    """

    tasks: int
    average: Mapping[str, float]
    friedman: float | None
    critical_difference: float | None
    against_baseline: Mapping[str, float | None]
    test: str


def rank_arms(scores: Mapping[str, Sequence[float]], baseline: str, one_metric: bool) -> Ranks:
    """Rank arms on each task and average.

    Args:
        scores: for each arm its score on each task, in one order of tasks, larger being better. At least two arms and two tasks.
        baseline: the arm that the others are tested against.
        one_metric: whether all tasks have the same metric, so that the sizes of differences on several tasks may be ranked.
    """
    stats = require("scipy.stats", extra="hf")
    arms = list(scores)
    table = numpy.array([scores[arm] for arm in arms], dtype=numpy.float64).T  # [tasks, arms]
    tasks, count = table.shape
    ranks = stats.rankdata(-table, axis=1)
    average = ranks.mean(axis=0)
    friedman = critical = None
    if count > 2:
        friedman = _iman_davenport(stats, ranks)
        quantile = float(stats.studentized_range.isf(ALPHA, count, numpy.inf)) / math.sqrt(2)
        critical = quantile * math.sqrt(count * (count + 1) / (6 * tasks))
    others = [arm for arm in arms if arm != baseline]
    place = arms.index(baseline)
    p_values = [_paired(stats, table[:, arms.index(arm)] - table[:, place], one_metric) for arm in others]
    return Ranks(
        tasks,
        dict(zip(arms, average.tolist(), strict=True)),
        friedman,
        critical,
        dict(zip(others, holm(p_values), strict=True)),
        "Wilcoxon signed-rank" if one_metric else "sign",
    )


def _iman_davenport(stats: Any, ranks: Any) -> float:
    """Friedman's statistic is conservative for few tasks; made into an F it is less so."""
    tasks, count = ranks.shape
    if not (ranks != ranks[:, :1]).any():
        return 1.0  # every task is tied
    statistic = float(stats.friedmanchisquare(*ranks.T).statistic)
    most = tasks * (count - 1)
    if statistic >= most * (1 - 1e-12):
        # All tasks rank alike: one of count! orders, which each task takes with equal chance.
        return 1.0 / math.factorial(count) ** (tasks - 1)
    return float(stats.f.sf((tasks - 1) * statistic / (most - statistic), count - 1, (count - 1) * (tasks - 1)))


def _paired(stats: Any, differences: Any, one_metric: bool) -> float | None:
    kept = differences[differences != 0]
    if len(kept) == 0:
        return 1.0
    if one_metric:
        # Exact for the numbers of tasks that there are; with ties scipy counts all sign flips as well.
        return float(stats.wilcoxon(kept, method="exact" if len(set(abs(kept))) == len(kept) else "auto").pvalue)
    return float(stats.binomtest(int((kept > 0).sum()), len(kept)).pvalue)
