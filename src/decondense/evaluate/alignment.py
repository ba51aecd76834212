"""Scores of many runs in, the same scores by task, metric, arm and seed out, or what keeps them from being compared. Knows no statistics."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from decondense.errors import UserError, choose
from decondense.evaluate.scores import Score

Aligned = dict[tuple[str, str], dict[str, dict[int, Score]]]
"""(task, metric) -> arm -> seed -> score; each arm of an entry has the same seeds."""

ALL, COMMON = "all", "common"


def select(scores: Sequence[Score], tasks: Sequence[str], metrics: Sequence[str]) -> list[Score]:
    """The scores of the tasks and metrics that are asked for; of all where none is.

    Raises:
        UserError: one of them is in no run.
    """
    for option, wanted, known in (
        ("--tasks", tasks, dict.fromkeys(score.task for score in scores)),
        ("--metrics", metrics, dict.fromkeys(score.metric for score in scores)),
    ):
        for name in wanted:
            choose(option, name, known)
    kept = [
        score for score in scores if (not tasks or score.task in tasks) and (not metrics or score.metric in metrics)
    ]
    if not kept:
        raise UserError(f"--metrics {' '.join(metrics)}: is given for none of the tasks {', '.join(tasks)}")
    return kept


def align(scores: Sequence[Score], seeds: Sequence[str]) -> tuple[Aligned, list[str]]:
    """Put scores beside one another, and say what their reader must know of how the arms differ.

    Args:
        seeds: ("all",): all arms must have the same; ("common",): those that all arms have; or the numbers of the seeds to compare.

    Raises:
        UserError: a run is given twice; arms differ in tasks, seeds, or the conditions of a task; seeds of an arm differ in their
            configuration; a score is no number.
    """
    table: Aligned = {}
    for score in scores:
        of_arm = table.setdefault((score.task, score.metric), {}).setdefault(score.arm, {})
        if score.seed in of_arm:
            raise UserError(_twice(of_arm[score.seed], score))
        of_arm[score.seed] = score
    _same_tasks(table)
    chosen = {key: _choose_seeds(key, by_arm, seeds) for key, by_arm in table.items()}
    for (task, _), by_arm in chosen.items():
        _same_conditions(task, by_arm)
        for score in _each(by_arm):
            if not math.isfinite(score.value):
                raise UserError(
                    f"{score.source}: {score.metric} of {score.arm}, seed {score.seed}, on {task} is not a finite number: "
                    "leave the run out, or choose other --tasks, --metrics or --seeds"
                )
    return chosen, _configurations(chosen)


def _twice(first: Score, second: Score) -> str:
    where = f"in {first.source}" if first.source == second.source else f"in {first.source} and in {second.source}"
    differ = _differing({**first.config, **first.described}, {**second.config, **second.described})
    told = f" (they differ in {_tell(differ)})" if differ else ""
    return (
        f"{first.arm}, seed {first.seed}, has its {first.metric} on {first.task} twice, {where}{told}: "
        "give each run once; runs of another configuration are another comparison"
    )


def _same_tasks(table: Aligned) -> None:
    arms = list(dict.fromkeys(arm for by_arm in table.values() for arm in by_arm))
    tasks: dict[str, set[str]] = {arm: set() for arm in arms}
    for (task, metric), by_arm in table.items():
        for arm in by_arm:
            tasks[arm].update((task, f"{task}: {metric}"))
    shared = set.intersection(*tasks.values())
    for task, metric in table:
        lacking = [arm for arm in arms if task not in tasks[arm] or f"{task}: {metric}" not in tasks[arm]]
        if lacking:
            having = [arm for arm in arms if arm not in lacking]
            missing = task if task not in tasks[lacking[0]] else f"{metric} of {task}"
            common = [name for name in dict.fromkeys(task for task, _ in table) if name in shared]
            way = f"--tasks {' '.join(map(_quoted, common))} compares what all have" if common else "they share no task"
            raise UserError(
                f"arms differ in their tasks: {', '.join(having)} have {missing}, {', '.join(lacking)} do not: {way}"
            )


def _choose_seeds(
    key: tuple[str, str], by_arm: dict[str, dict[int, Score]], wanted: Sequence[str]
) -> dict[str, dict[int, Score]]:
    common = sorted(set.intersection(*(set(of_arm) for of_arm in by_arm.values())))
    if list(wanted) == [ALL]:
        chosen = sorted(next(iter(by_arm.values())))
        if any(sorted(of_arm) != chosen for of_arm in by_arm.values()):
            told = "; ".join(f"{arm} has {_numbers(of_arm)}" for arm, of_arm in by_arm.items())
            way = f"--seeds common compares {_numbers(common)}" if common else "they share none"
            raise UserError(f"arms differ in their seeds on {key[0]}: {told}; {way}")
    elif list(wanted) == [COMMON]:
        chosen = common
        if not chosen:
            told = "; ".join(f"{arm} has {_numbers(of_arm)}" for arm, of_arm in by_arm.items())
            raise UserError(f"--seeds common: arms share no seed on {key[0]}: {told}")
    else:
        try:
            chosen = sorted({int(number) for number in wanted})
        except ValueError:
            raise UserError(
                f"--seeds {' '.join(wanted)}: expected all, common, or whole numbers such as 0 1 2"
            ) from None
        for arm, of_arm in by_arm.items():
            lacking = [seed for seed in chosen if seed not in of_arm]
            if lacking:
                raise UserError(
                    f"--seeds {' '.join(wanted)}: {arm} has no {_numbers(lacking)} on {key[0]}, only {_numbers(of_arm)}"
                )
    return {arm: {seed: of_arm[seed] for seed in chosen} for arm, of_arm in by_arm.items()}


def _same_conditions(task: str, by_arm: Mapping[str, Mapping[int, Score]]) -> None:
    first, *others = _each(by_arm)
    for other in others:
        differ = _differing(first.conditions, other.conditions)
        if differ:
            raise UserError(
                f"{task}: cannot be compared: it differs in {_tell(differ)}, between {_run(first)} ({first.source}) and "
                f"{_run(other)} ({other.source}); evaluate both alike"
            )


def _configurations(table: Aligned) -> list[str]:
    """Raises where seeds of an arm were not made alike; says where arms were not."""
    notes: dict[str, None] = {}
    for by_arm in table.values():
        firsts = []
        for of_arm in by_arm.values():
            first, *others = of_arm.values()
            firsts.append(first)
            for other in others:
                differ = _differing({**first.config, **first.described}, {**other.config, **other.described})
                if differ:
                    raise UserError(
                        f"{first.arm}: its seeds are not runs of one configuration: seeds {first.seed} and {other.seed} differ in {_tell(differ)}"
                    )
        for other in firsts[1:]:
            differ = _differing(firsts[0].config, other.config)
            # Numbers of different commands share no setting: there is nothing to hold against one another.
            if differ and firsts[0].config and other.config:
                told = f"{firsts[0].arm} and {other.arm} differ in more than the arm: {_tell(differ)}"
                notes[f"{told}; what is found may be due to that"] = None
    return list(notes)


def _each(by_arm: Mapping[str, Mapping[int, Score]]) -> Iterable[Score]:
    return [score for of_arm in by_arm.values() for score in of_arm.values()]


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = dict.fromkeys([*first, *second])
    return {name: (first.get(name), second.get(name)) for name in names if first.get(name) != second.get(name)}


def _tell(differ: Mapping[str, tuple[Any, Any]]) -> str:
    return ", ".join(f"{name} ({json.dumps(one)} and {json.dumps(other)})" for name, (one, other) in differ.items())


def _run(score: Score) -> str:
    return f"{score.arm}, seed {score.seed}"


def _quoted(name: str) -> str:
    return f"'{name}'" if " " in name else name


def _numbers(seeds: Iterable[int]) -> str:
    numbers = sorted(seeds)
    return f"seed{'s' if len(numbers) != 1 else ''} {', '.join(map(str, numbers))}" if numbers else "no seed"
