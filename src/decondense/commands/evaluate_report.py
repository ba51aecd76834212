"""Entries of `results.json` in, the lines that `decondense evaluate` prints out: a table of scores, and what a reader must know of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from decondense.report.tables import Column, Table

if TYPE_CHECKING:
    from decondense.evaluate.tasks import Loaded

Entry = Mapping[str, Any]


def lines(entries: Sequence[Entry], names: Mapping[str, str], loaded: Loaded) -> Iterator[str]:
    """The table, a column a model; then the mean of the paper's ten, and notes.

    Args:
        entries: "models" of the results.
        names: titles of the models.
        loaded: the tasks; those of a group are left to the file, and the group is shown.
    """
    inside = {
        member for group in loaded.groups if loaded.groups[group].has_aggregation for member in loaded.members(group)
    }
    tasks = [task for task in dict.fromkeys(task for entry in entries for task in entry["tasks"]) if task not in inside]
    rows = []
    for task in tasks:
        some = next(entry["tasks"][task] for entry in entries if task in entry["tasks"])
        for metric in some["metrics"]:
            cells = [_cell(entry["tasks"].get(task, {}).get("metrics", {}).get(metric)) for entry in entries]
            rows.append([task, metric, *cells, some["samples"], some["shots"]])
    for entry in entries:
        if entry.get("average_of_ten", {}).get("value") is not None:
            cells = [_cell({"value": one["average_of_ten"]["value"], "stderr": None}) for one in entries]
            rows.append(["mean of the paper's ten", "acc", *cells, None, None])
            break
    columns: list[Column | str] = [
        "task",
        "metric",
        *(names[entry["model"]] for entry in entries),
        Column("items", "d"),
        Column("shots", "d"),
    ]
    yield Table(columns, rows).plain()
    yield from _notes(entries, names, tasks, loaded)


def _cell(scores: Mapping[str, float | None] | None) -> str | None:
    if scores is None or scores["value"] is None:
        return None
    value, stderr = scores["value"], scores["stderr"]
    if stderr is None:
        return _number(value)
    return f"{_number(value)} ± {stderr:.{_decimals(value)}f}" if abs(value) < 1e5 else f"{value:.3g} ± {stderr:.2g}"


def _number(value: float) -> str:
    return f"{value:.{_decimals(value)}f}" if abs(value) < 1e5 else f"{value:.3g}"


def _decimals(value: float) -> int:
    return 4 if abs(value) < 2 else 3 if abs(value) < 20 else 2


def _notes(entries: Sequence[Entry], names: Mapping[str, str], tasks: Sequence[str], loaded: Loaded) -> Iterator[str]:
    said = set()
    for group, size in loaded.sizes.items():
        count = len(loaded.members(group)) if group in loaded.groups else 0
        if 0 < count < size:
            yield f"note: {group}: {count} of its {size} tasks are there; the mean is over these, and is not that of {group}"
    for entry in entries:
        for task in tasks:
            one = entry["tasks"].get(task, {})
            note = one.get("note")
            if note and (task, note) not in said:
                said.add((task, note))
                yield f"note: {task}: {note}"
            if one.get("truncated"):
                pieces = (
                    f", {one['scored_in_pieces']} of them with an answer longer than that"
                    if one.get("scored_in_pieces")
                    else ""
                )
                yield (
                    f"note: {names[entry['model']]} on {task}: {one['truncated']} of {one['requests']} prompts are longer than its context "
                    f"and lost their beginning{pieces}"
                )
    missing = entries[0].get("average_of_ten", {}).get("missing") if entries else None
    if missing and len(missing) < 6:
        yield f"note: no mean of the paper's ten: {', '.join(missing)} are missing"
