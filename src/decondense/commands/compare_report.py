"""A comparison of arms in; sentences, tables, files and figures of it out. Computes no statistic."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from decondense.commands.measure_report import stems
from decondense.evaluate.compared import Comparison, Difference, Row
from decondense.evaluate.significance import MOST_SEEDS, POWER, PairedTest
from decondense.files import write_text
from decondense.report import canvas
from decondense.report.forest import ForestRow, forest
from decondense.report.style import label
from decondense.report.tables import Cell, Column, Table

MOST_SENTENCES = 6
"""Differences that a terminal is told one by one; comparison.md has all."""

CLEAR = ("better", "worse", "higher", "lower")

_MEANING = {
    "seeds": "t test over seeds: new seeds, these items",
    "items": "t test over items: new items, these models and no others",
    "both": "t test with seeds and items at random: new seeds and new items",
}
_NO_TEST = {"one seed": "one seed and no test", "no spread": "no spread and no test"}
_SIDES = {1: "more is better", -1: "less is better", 0: "neither side is better"}


def table(comparison: Comparison) -> Table:
    """A row for each task, metric and arm: ± is half of the 95 % t interval."""
    corrected = any(row.difference and row.difference.family > 1 for row in comparison.rows)
    columns = [Column(name, align="left") for name in ("task", "metric", "arm")]
    columns += [Column(name, align="right") for name in ("seeds", "mean", "sd", "difference", "p")]
    columns += [Column("p (Holm)", align="right")] if corrected else []
    columns += [Column("effect g", align="right"), Column("verdict", align="left")]
    rows: list[list[Cell]] = []
    for row in comparison.rows:
        digits, difference = decimals(row, comparison), row.difference
        half = None if row.estimate.high is None else row.estimate.high - row.estimate.mean
        cells: list[Cell] = [row.task, row.metric, label(row.arm), str(len(row.seeds))]
        cells += [_with_half(row.estimate.mean, half, digits), _fixed(row.deviation, digits)]
        if difference is None:
            cells += [None] * (4 if corrected else 3) + ["baseline"]
        else:
            test = difference.used
            cells += [_with_half(test.mean, _half(test), digits, signed=True), write_p(test.p)]
            cells += [write_p(difference.adjusted)] if corrected else []
            cells += [_effect(difference), _short_verdict(row, difference)]
        rows.append(cells)
    return Table(columns, rows)


def caption(comparison: Comparison) -> str:
    """What the table shows."""
    tested = [row.difference.used for row in comparison.rows if row.difference and row.difference.used.low is not None]
    tests = "; ".join(text for over, text in _MEANING.items() if any(test.over == over for test in tested))
    if not tests:
        return f"differences are to {comparison.baseline}"
    text = f"± is half of the 95 % t interval; differences are to {comparison.baseline}, paired by seed"
    return f"{text} ({tests}); g is Hedges' g of the paired differences over seeds"


def sentences(comparison: Comparison) -> list[str]:
    """One for each main difference and each average, then the ranks, then what else must be known."""
    told = [_sentence(row, comparison) for row in comparison.rows if row.difference and row.role != "shown"]
    return [*told, *_ranks(comparison), *(f"note: {note}" for note in comparison.notes)]


def short_sentences(comparison: Comparison) -> list[str]:
    """The same for a terminal: where there are many tasks, those of one verdict are one list."""
    rows = [row for row in comparison.rows if row.difference and row.role == "main"]
    if len(rows) <= MOST_SENTENCES:
        return sentences(comparison)
    told = []
    for arm in comparison.arms[1:]:
        verdicts: dict[str, list[str]] = {}
        for row in rows:
            if row.arm == arm and row.difference:
                verdicts.setdefault(row.difference.verdict, []).append(row.task)
        total = sum(map(len, verdicts.values()))
        told += [
            f"{arm}: {_NO_TEST.get(verdict, verdict)} on {len(tasks)} of {total}: {'; '.join(tasks)}"
            for verdict, tasks in verdicts.items()
        ]
    told += [_sentence(row, comparison) for row in comparison.rows if row.difference and row.role == "average"]
    return [*told, *_ranks(comparison), *(f"note: {note}" for note in comparison.notes)]


def write(comparison: Comparison, out: Path, formats: Sequence[str]) -> list[str]:
    """Write the tables and the figures, and return their names."""
    shown = table(comparison)
    text = "\n\n".join([shown.markdown(), caption(comparison) + ".", *(f"- {one}" for one in sentences(comparison))])
    write_text(out / "comparison.md", text + "\n")
    write_text(out / "comparison.tex", shown.latex() + "\n")
    write_text(out / "comparison.csv", canvas.csv_text([_HEADER, *map(_numbers, comparison.rows)]))
    names = ["comparison.md", "comparison.tex", "comparison.csv"]
    metrics = list(dict.fromkeys(row.metric for row in comparison.rows if row.difference))
    for metric, stem in zip(metrics, stems(metrics), strict=True):
        chosen = [row for row in comparison.rows if row.metric == metric and row.difference]
        digits = max(decimals(row, comparison) for row in chosen)
        baseline, arms = label(comparison.baseline), comparison.arms[1:]
        of = f"{label(arms[0])} less {baseline}" if len(arms) == 1 else f"difference to {baseline}"
        x_label = f"{label(metric)}: {of} ({_SIDES[chosen[0].direction]})"
        paths = forest([_forest_row(row) for row in chosen], out / f"forest-{stem}", x_label, digits, formats)
        names += [path.name for path in paths]
    return names


def write_p(p: float | None) -> str | None:
    """A p-value for people.

    >>> write_p(0.00001), write_p(0.0463), write_p(None)
    ('<0.001', '0.046', None)
    """
    if p is None:
        return None
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def decimals(row: Row, comparison: Comparison) -> int:
    """Decimals at which a task's numbers by a metric are written: two digits of the typical half width, or four of a mean without one."""
    alike = [one for one in comparison.rows if (one.task, one.metric) == (row.task, row.metric)]
    halves = [one.estimate.high - one.estimate.mean for one in alike if one.estimate.high is not None]
    halves = [half for half in halves if half > 0]
    if halves:
        return min(max(1 - math.floor(math.log10(statistics.median(halves))), 0), 6)
    largest = max(abs(one.estimate.mean) for one in alike)
    return min(max(3 - math.floor(math.log10(largest)), 0), 4) if largest > 0 else 1


def _sentence(row: Row, comparison: Comparison) -> str:
    difference = row.difference
    assert difference is not None
    digits, test = decimals(row, comparison), difference.used
    baseline = next(
        one.estimate.mean
        for one in comparison.rows
        if (one.task, one.metric, one.arm) == (row.task, row.metric, comparison.baseline)
    )
    share = f", {abs(test.mean / baseline):.1%}" if baseline else ""
    size = f"{test.mean:+.{digits}f}{share}"
    subject = f"{row.arm}: {row.metric} on {row.task}"
    if test.low is None or test.high is None:
        return f"{subject}: {size} by one seed: no interval and no test; train from more seeds to tell it from noise"
    interval = f"95 % interval {test.low:+.{digits}f} to {test.high:+.{digits}f}"
    if difference.verdict == "equal":
        return f"{subject} is equal to that of {comparison.baseline} at every seed"
    if test.p is None:
        return f"{subject}: {size} at every seed, which is no spread to test against"
    p = _p_sentence(difference)
    if difference.verdict in CLEAR:
        return f"{subject} is {difference.verdict} than that of {comparison.baseline} ({size}; {interval}; {p})"
    return f"{subject} is {difference.verdict} ({size}; {interval}; {p}): {_needed(difference, len(row.seeds), digits)}"


def _p_sentence(difference: Difference) -> str:
    p = f"p {_equals(difference.used.p)}"
    if difference.family > 1:
        p += f", corrected for {difference.family} tests {_equals(difference.adjusted).removeprefix('= ')}"
    return p


def _needed(difference: Difference, seeds: int, digits: int) -> str:
    power = f"power {POWER:g}"
    items = " on these items" if difference.used.over == "both" else ""
    visible = ""
    if difference.smallest_visible is not None:
        visible = f"{seeds} seeds see differences from {difference.smallest_visible:.{digits}f} on with {power}"
    if difference.seeds_needed is None:
        return (
            f"a difference of this size needs more than {MOST_SEEDS:,} seeds; {visible}"
            if visible
            else "its seeds do not spread"
        )
    return f"{visible}; one of this size, if it is real, needs {difference.seeds_needed:,} seeds{items}"


def _ranks(comparison: Comparison) -> Iterator[str]:
    ranks = comparison.ranks
    if ranks is None:
        return
    average = ", ".join(f"{arm} {rank:.2f}" for arm, rank in sorted(ranks.average.items(), key=lambda pair: pair[1]))
    text = f"average rank over {ranks.tasks} tasks: {average}"
    if ranks.friedman is not None and ranks.critical_difference is not None:
        text += (
            f" (Friedman p {_equals(ranks.friedman)}; critical difference of Nemenyi {ranks.critical_difference:.2f})"
        )
    yield text
    tests = ", ".join(f"{arm} p {_equals(p)}" for arm, p in ranks.against_baseline.items())
    meaning = f"{ranks.test} test, corrected for the number of arms: new tasks, these models"
    yield f"over tasks, against {comparison.baseline} ({meaning}): {tests}"


def _short_verdict(row: Row, difference: Difference) -> str:
    if difference.verdict == "one seed":
        return "1 seed: no interval"
    if difference.verdict.startswith("within noise") and difference.seeds_needed is not None:
        return f"{difference.verdict}; {difference.seeds_needed:,} seeds to see it"
    return difference.verdict


def _forest_row(row: Row) -> ForestRow:
    difference = row.difference
    assert difference is not None
    test, note = difference.used, "1 seed" if difference.verdict == "one seed" else ""
    clear = difference.verdict in CLEAR
    points = difference.by_seed if len(difference.by_seed) > 1 else ()
    return ForestRow(row.task, row.arm, test.mean, test.low, test.high, points, clear, note)


_HEADER = [
    *("task", "metric", "arm", "seeds", "mean", "low", "high", "standard_deviation"),
    *("difference", "difference_low", "difference_high", "test_over", "p", "p_holm", "p_seeds", "p_items", "p_both"),
    *("hedges_g", "g_low", "g_high", "seeds_needed", "smallest_visible", "verdict"),
]


def _numbers(row: Row) -> list[Any]:
    estimate, difference = row.estimate, row.difference
    cells = [row.task, row.metric, row.arm, len(row.seeds), estimate.mean, estimate.low, estimate.high, row.deviation]
    if difference is None:
        return [*cells, *[None] * (len(_HEADER) - len(cells) - 1), "baseline"]
    used, effect = difference.used, difference.effect
    p_values = [difference.tests[over].p if over in difference.tests else None for over in _MEANING]
    of_effect = [effect.value, effect.low, effect.high] if effect else [None] * 3
    return [
        *cells,
        *(used.mean, used.low, used.high, used.over, used.p, difference.adjusted),
        *p_values,
        *of_effect,
        *(difference.seeds_needed, difference.smallest_visible, difference.verdict),
    ]


def _half(test: PairedTest) -> float | None:
    return None if test.high is None else test.high - test.mean


def _with_half(mean: float, half: float | None, digits: int, signed: bool = False) -> str:
    text = f"{mean:+.{digits}f}" if signed else f"{mean:.{digits}f}"
    return text if half is None else f"{text} ±{half:.{digits}f}"


def _fixed(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}f}"


def _effect(difference: Difference) -> str | None:
    effect = difference.effect
    return None if effect is None else f"{effect.value:+.1f} [{effect.low:+.1f}, {effect.high:+.1f}]"


def _equals(p: float | None) -> str:
    written = write_p(p)
    if written is None:
        return "not defined"
    return f"< {written[1:]}" if written.startswith("<") else f"= {written}"
