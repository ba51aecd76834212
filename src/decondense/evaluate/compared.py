"""What a comparison of arms says, as plain data: one row for each task, metric and arm. Computes and judges nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decondense.evaluate.intervals import Estimate
from decondense.evaluate.ranking import Ranks
from decondense.evaluate.significance import Effect, PairedTest


@dataclass(frozen=True)
class Difference:
    """An arm less the baseline, on one task by one metric.

    Attributes:
        by_seed: the difference at each seed.
        tests: those that the data allow: over "seeds" always, over "items" and "both" where samples were logged.
        used: the test that is believed; its interval is the one to show.
        adjusted: its p-value after Holm's correction over the tasks of the arm: over the main metrics of all tasks together, and for any other
            metric over the tasks that have it.
        family: number of tests that were corrected together.
        effect: Hedges' g of the differences over seeds.
        seeds_needed: to see a difference of this size with power 0.8, by a test over seeds; None where it is 0, without spread, or beyond 100,000.
        smallest_visible: the difference that these seeds see with power 0.8; None for one seed.
        verdict: "better", "worse", or where neither is known "higher" and "lower"; "within noise", "within noise after correction", "equal",
            "one seed", "no spread".
    """

    by_seed: tuple[float, ...]
    tests: Mapping[str, PairedTest]
    used: PairedTest
    adjusted: float | None
    family: int
    effect: Effect | None
    seeds_needed: int | None
    smallest_visible: float | None
    verdict: str


@dataclass(frozen=True)
class Row:
    """One arm on one task by one metric.

    Attributes:
        direction: +1 where more is better, -1 where less is, 0 where neither is known.
        role: "main": the metric by which the task is tested and ranked; "average": of a main metric over the tasks that have it; "shown": all else.
        seeds, values: in the same order.
        estimate: mean over seeds with its t interval; without one for one seed.
        deviation: standard deviation over seeds; None for one seed.
        difference: to the baseline; None for the baseline.
    """

    task: str
    metric: str
    arm: str
    direction: int
    role: str
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    estimate: Estimate
    deviation: float | None
    difference: Difference | None


@dataclass(frozen=True)
class Comparison:
    """What runs show of their arms.

    Attributes:
        baseline: the arm that the others are compared with.
        arms: all of them, the baseline first.
        rows: by task and metric, then by arm.
        ranks: over tasks; None where there are fewer than two tasks or arms, and then `notes` say so.
        notes: what its reader must know.
        sources: the files that were read.
    """

    baseline: str
    arms: tuple[str, ...]
    rows: tuple[Row, ...]
    ranks: Ranks | None
    notes: tuple[str, ...]
    sources: tuple[Path, ...]

    def summary(self) -> dict[str, Any]:
        """Plain numbers, lists and mappings, as JSON holds them."""
        content: dict[str, Any] = _plain(dataclasses.asdict(self))
        return content


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
