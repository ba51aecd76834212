"""Runs in, what they show of their arms out: means, paired differences with intervals and tests, effect sizes, ranks. Draws and prints nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy

from decondense.errors import UserError, choose
from decondense.evaluate import significance
from decondense.evaluate.alignment import ALL, Aligned, align, select
from decondense.evaluate.compared import Comparison, Difference, Row
from decondense.evaluate.intervals import mean_interval
from decondense.evaluate.item_pairs import item_differences, without_items
from decondense.evaluate.ranking import Ranks, rank_arms
from decondense.evaluate.runs import find_results
from decondense.evaluate.scores import Score, main_metric, read_scores
from decondense.evaluate.significance import ALPHA, Differences, holm
from decondense.train.arms import BASELINE

AUTO = "auto"
TESTS = (AUTO, "seeds", "items", "both")


def compare_runs(
    paths: Sequence[Path | str],
    baseline: str | None = None,
    seeds: Sequence[str] = (ALL,),
    tasks: Sequence[str] = (),
    metrics: Sequence[str] = (),
    test: str = AUTO,
) -> Comparison:
    """Compare the arms of runs that were made by this package's commands.

    Args:
        paths: folders of runs, folders of such folders, or results files.
        baseline: the arm to compare with; `cross_entropy` where there is one.
        seeds: ("all",) requires the same of all arms, ("common",) takes those that all have, or their numbers.
        tasks, metrics: those to compare; all where none is given. Metrics that are named are all tested and corrected for, otherwise each task's
            main one.
        test: what a test generalises to: "seeds", "items" (of logged samples: these models, new items), "both", or "auto": both where samples were
            logged for all seeds of both arms, else seeds.

    Raises:
        UserError: there is nothing to compare, or arms were not evaluated alike.

    >>> compare_runs(["results/demo-300-tiny.json"]).rows[1].difference.verdict  # doctest: +SKIP
    'better'
    """
    files = find_results([Path(path) for path in paths])
    scores = [score for file in files for score in read_scores(file)]
    return compare_scores(scores, baseline, seeds, tasks, metrics, test, files)


def compare_scores(
    scores: Sequence[Score],
    baseline: str | None = None,
    seeds: Sequence[str] = (ALL,),
    tasks: Sequence[str] = (),
    metrics: Sequence[str] = (),
    test: str = AUTO,
    sources: Sequence[Path] = (),
) -> Comparison:
    """The same for scores that were read already, or come from elsewhere; see `compare_runs`."""
    choose("--test", test, TESTS)
    arms = list(dict.fromkeys(score.arm for score in scores))
    baseline = _baseline(arms, baseline)
    arms.sort(key=lambda arm: arm != baseline)
    aligned, notes = align(select(scores, tasks, metrics), seeds)
    if len(arms) == 1:
        notes.append(f"{baseline} is the only arm: there is nothing to compare it with")
    mains = _mains(aligned)
    separate = _separate(aligned, mains)
    rows: list[Row] = []
    for (task, metric), by_arm in aligned.items():
        role = "main" if task in mains and (metrics or mains[task] == metric) else "shown"
        rows += [_row(task, metric, role, arm, baseline, [by_arm], test, notes) for arm in arms]
    for (task, metric), tables in _averaged(aligned, separate).items():
        rows += [_row(task, metric, "average", arm, baseline, tables, test, notes) for arm in arms]
    rows = judge(rows)
    return Comparison(
        baseline,
        tuple(arms),
        tuple(rows),
        _ranks(rows, arms, baseline, separate, notes),
        tuple(dict.fromkeys(notes)),
        tuple(sources),
    )


def _row(
    task: str,
    metric: str,
    role: str,
    arm: str,
    baseline: str,
    tables: Sequence[Mapping[str, Mapping[int, Score]]],
    test: str,
    notes: list[str],
) -> Row:
    """A row of one task, or of the mean of several."""
    values, others = (
        [_mean([table[name][seed] for table in tables]) for seed in tables[0][name]] for name in (arm, baseline)
    )
    difference = None
    if arm != baseline:
        items = None
        if test != "seeds":
            found = [item_differences(table[arm], table[baseline], notes) for table in tables]
            items = [one for one in found if one is not None]
            if len(items) < len(tables):
                items = None
        if items is None and test in ("items", "both"):
            raise UserError(without_items(task, metric, test, notes))
        difference = compare_pairs([value - other for value, other in zip(values, others, strict=True)], items, test)
    first = tables[0][arm]
    direction = next(iter(first.values())).direction
    deviation = float(numpy.std(values, ddof=1)) if len(values) > 1 else None
    return Row(
        task, metric, arm, direction, role, tuple(first), tuple(values), mean_interval(values), deviation, difference
    )


def compare_pairs(by_seed: Sequence[float], items: Sequence[Differences] | None = None, test: str = AUTO) -> Difference:
    """All that one set of paired differences tells, before it is corrected for others and called better or worse (`judge`).

    Args:
        by_seed: [seeds].
        items: of logged samples, a matrix [seeds, items] for each task that the differences are a mean of.
        test: see `compare_runs`.
    """
    count = len(by_seed)
    tests = {"seeds": significance.over_seeds(by_seed)}
    if items is not None:
        tests["items"] = significance.over_items(*items)
        tests["both"] = significance.over_both(*items)
    used = tests["both" if items is not None and count > 1 else "seeds"] if test == AUTO else tests[test]
    effect = significance.standardised(by_seed)
    needed = visible = None
    if effect is not None:
        spread = float(numpy.std(by_seed, ddof=1))
        mean = math.fsum(by_seed) / count
        needed = significance.seeds_needed(mean / spread) if mean else None
        visible = significance.smallest_visible(spread, count)
    return Difference(tuple(by_seed), tests, used, None, 0, effect, needed, visible, "")


def judge(rows: Sequence[Row]) -> list[Row]:
    """Correct the p-values of an arm for the number of tasks, and say of each difference what it is."""
    families: dict[tuple[str, str], list[int]] = {}
    for place, row in enumerate(rows):
        if row.difference is not None:
            families.setdefault((row.arm, row.role if row.role == "main" else row.role + row.metric), []).append(place)
    adjusted: dict[int, tuple[float | None, int]] = {}
    for family in families.values():
        p_values = [difference.used.p for place in family if (difference := rows[place].difference)]
        tested = sum(p is not None for p in p_values)
        adjusted.update({place: (p, tested) for place, p in zip(family, holm(p_values), strict=True)})
    judged = []
    for place, row in enumerate(rows):
        if row.difference is None:
            judged.append(row)
            continue
        p, family_size = adjusted[place]
        verdict = _verdict(row.difference, row.direction, p)
        judged.append(replace(row, difference=replace(row.difference, adjusted=p, family=family_size, verdict=verdict)))
    return judged


def _verdict(difference: Difference, direction: int, adjusted: float | None) -> str:
    p = difference.used.p
    if p is None:
        return "one seed" if difference.used.freedom < 1 else "no spread"
    if difference.used.mean == 0 and not any(difference.by_seed):
        return "equal"
    if p >= ALPHA:
        return "within noise"
    if adjusted is not None and adjusted >= ALPHA:
        return "within noise after correction"
    rises = difference.used.mean > 0
    if direction == 0:
        return "higher" if rises else "lower"
    return "better" if rises == (direction > 0) else "worse"


def _baseline(arms: Sequence[str], given: str | None) -> str:
    if given is not None:
        return choose("--baseline", given, arms)
    if BASELINE in arms or len(arms) == 1:
        return BASELINE if BASELINE in arms else arms[0]
    raise UserError(f"no arm is called {BASELINE}: name the one to compare with, --baseline ARM, of {', '.join(arms)}")


def _mains(aligned: Aligned) -> dict[str, str]:
    """The main metric of each task; none of a task whose group is there."""
    metrics: dict[str, list[str]] = {}
    for (task, metric), by_arm in aligned.items():
        if not any(score.part for of_arm in by_arm.values() for score in of_arm.values()):
            metrics.setdefault(task, []).append(metric)
    return {task: main_metric(names) for task, names in metrics.items()}


def _averaged(
    aligned: Aligned, mains: Mapping[str, str]
) -> dict[tuple[str, str], list[Mapping[str, Mapping[int, Score]]]]:
    """Of each main metric of which more is better (a share of items; perplexities of several texts have no mean that means anything) and that two
    tasks or more have with the same seeds, the scores of these tasks."""
    averaged: dict[tuple[str, str], list[Mapping[str, Mapping[int, Score]]]] = {}
    for metric in dict.fromkeys(mains.values()):
        tables: list[Mapping[str, Mapping[int, Score]]] = [
            aligned[task, metric] for task, main in mains.items() if main == metric
        ]
        rises = next(iter(next(iter(tables[0].values())).values())).direction > 0
        if rises and len(tables) > 1 and len({tuple(next(iter(table.values()))) for table in tables}) == 1:
            averaged[f"average of {len(tables)} tasks", metric] = tables
    return averaged


def _separate(aligned: Aligned, mains: Mapping[str, str]) -> dict[str, str]:
    """The tasks over which an average or a rank means something, with their main metrics."""
    firsts = {task: next(iter(next(iter(aligned[task, metric].values())).values())) for task, metric in mains.items()}
    return {task: metric for task, metric in mains.items() if not firsts[task].repeated}


def _mean(scores: Sequence[Score]) -> float:
    return math.fsum(score.value for score in scores) / len(scores)


def _ranks(
    rows: Sequence[Row], arms: Sequence[str], baseline: str, mains: Mapping[str, str], notes: list[str]
) -> Ranks | None:
    """Arms ranked by the mean over seeds of each task's main metric; tasks whose metric knows no better are left out."""
    scores: dict[str, list[float]] = {arm: [] for arm in arms}
    metrics = set()
    for row in rows:
        if mains.get(row.task) == row.metric and row.direction:
            scores[row.arm].append(row.direction * row.estimate.mean)
            metrics.add(row.metric)
    tasks = len(scores[baseline])
    if tasks < 2 or len(arms) < 2:
        if len(arms) > 1:
            notes.append(f"average ranks need two separate tasks or more, here {'is' if tasks == 1 else 'are'} {tasks}")
        return None
    return rank_arms(scores, baseline, len(metrics) == 1)
