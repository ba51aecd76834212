"""The scores of an arm and of the baseline in, their differences item by item out, where samples were logged. Knows no statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy

from decondense.errors import UserError
from decondense.evaluate.samples import Items, read_items
from decondense.evaluate.scores import Score
from decondense.evaluate.significance import Differences


def item_differences(arm: Mapping[int, Score], baseline: Mapping[int, Score], notes: list[str]) -> Differences | None:
    """Differences [seeds, items] of logged samples; None where not all seeds of both have them."""
    pairs = [(_logged(score, notes), _logged(baseline[seed], notes)) for seed, score in arm.items()]
    if any(one is None or other is None for one, other in pairs):
        return None
    first = next(iter(arm.values()))
    known = pairs[0][0]
    assert known is not None
    for items in (items for pair in pairs for items in pair if items is not None):
        if items.keys() != known.keys():
            only = next(iter(items.keys() ^ known.keys()))
            raise UserError(
                f"{first.task}: the logged samples of {first.arm} and {next(iter(baseline.values())).arm} are not of the same items: "
                f"item {only} is not in all; evaluate both alike, or give --test seeds"
            )
    rows = [
        [one[item] - other[item] for item in known] for one, other in pairs if one is not None and other is not None
    ]
    return numpy.array(rows, dtype=numpy.float64)


def _logged(score: Score, notes: list[str]) -> Items | None:
    if score.samples is None:
        return None
    if not score.samples.exists():
        notes.append(f"{score.samples}: the logged samples are not there: compared by seed")
        return None
    items: dict[str, float] = {}
    for task in score.members or (score.task,):
        # Items of a group are those of its tasks, each item counting once.
        of_task = read_items(score.samples, task).get(score.metric, {})
        items |= {f"{task} {item}" if score.members else item: value for item, value in of_task.items()}
    if not items:
        return None
    if not math.isclose(math.fsum(items.values()) / len(items), score.value, rel_tol=1e-6, abs_tol=1e-9):
        notes.append(f"{score.task}: {score.metric} is not the mean of its logged items: compared by seed")
        return None
    return items


def without_items(task: str, metric: str, test: str, notes: Sequence[str]) -> str:
    why = notes[-1] if notes else "no samples were logged for all seeds of both arms"
    return f"--test {test}: {metric} of {task} cannot be paired by item ({why}); log samples, choose --metrics, or give --test seeds"
