"""A file of logged samples in, the value of each item by metric out. Knows lm-eval's fields and nothing of models.

A line is an item of a task, as lm-eval's `--log_samples` writes it: `doc_id`, the values of the metrics by their names (or all of them
under `metrics`, as a mapping), `filter` where it is not "none", `doc_hash` where the document is known by it. A file of several tasks
names the `task` in each line.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from decondense.errors import UserError

Items = Mapping[str, float]
"""Value of each item by what identifies it."""


def read_items(path: Path, task: str) -> dict[str, Items]:
    """The items of a task in a file, by metric; metrics that are not one number an item (log-likelihoods with counts) are left out.

    Raises:
        UserError: the file cannot be read, or is broken at a line.
    """
    try:
        version = path.stat().st_mtime_ns
    except OSError as error:
        raise UserError(f"{path}: the samples cannot be read ({error.strerror})") from error
    tasks = _read(path, version)
    return dict(tasks.get(task) or tasks.get(None) or {})


# A file holds all tasks and each asks for its own; `version` makes a file that was written anew be read anew.
@lru_cache(maxsize=64)
def _read(path: Path, version: int) -> dict[str | None, dict[str, dict[str, float]]]:
    tasks: dict[str | None, dict[str, dict[str, float]]] = {}
    for number, line in _lines(path):
        try:
            entry = json.loads(line)
            item = f"{entry['doc_id']} {entry.get('doc_hash') or ''}".strip()
            values = _values(entry)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}, line {number}: is no logged sample, a JSON object with doc_id and metrics; mend it, or compare without the file"
            ) from error
        of_task = tasks.setdefault(entry.get("task") or entry.get("task_name"), {})
        for metric, value in values.items():
            found = of_task.setdefault(metric, {})
            if item in found:
                raise UserError(f"{path}, line {number}: has doc_id {entry['doc_id']} a second time")
            found[item] = value
    return tasks


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, line
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise UserError(f"{path}: the samples cannot be read ({error})") from error


def _values(entry: Mapping[str, Any]) -> dict[str, float]:
    metrics = entry.get("metrics", ())
    numbers = metrics if isinstance(metrics, Mapping) else {name: entry[name] for name in metrics}
    if not numbers:
        numbers = {name: value for name, value in entry.items() if name not in _NO_METRICS}
    name = entry.get("filter") or "none"
    suffix = "" if name == "none" else f"/{name}"
    return {f"{metric}{suffix}": float(value) for metric, value in numbers.items() if isinstance(value, int | float)}


_NO_METRICS = (
    "doc_id",
    "doc_hash",
    "prompt_hash",
    "target_hash",
    "target",
    "filter",
    "task",
    "task_name",
    "seed",
    "truncated",
)
