"""How far from the reference a case may be, and what it must not reach. Knows cases and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from updates.cases import MISTAKES, Case

TOLERANCE = 1e-5
"""Of float32, which is 1e-6 from float64 after three steps; sums in another order differ by 3e-7, the mildest mistake of weighting by 1e-1."""


def is_mistake(case: Case) -> bool:
    """Whether the case must not be near. One micro-batch has all targets, so counting its own is right there."""
    return case.how in MISTAKES and not (case.how == "own targets" and case.accumulation == 1)


def limit(case: Case, differences: Mapping[Case, float]) -> float | None:
    """The largest difference that is allowed; None where there is none.

    In bfloat16 the formula by hand is itself rounded by some difference; what is rounded in another order may be as far from it as it is from
    float32, which makes twice that.
    """
    if is_mistake(case) or (case.precision == "bfloat16" and case.how == "by hand"):
        return None
    if case.precision == "bfloat16":
        rounded = differences.get(replace(case, how="by hand"))
        return None if rounded is None else 2 * rounded
    return TOLERANCE
