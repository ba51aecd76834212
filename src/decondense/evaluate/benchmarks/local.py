"""A folder of benchmarks and the hub's name of a data set in, its splits as rows out. Knows no task and no model.

The folder has a folder for each data set (`arc-easy`, `piqa`, ...), one deeper at most (`ARC-V1-Feb2018-2/ARC-Easy`). Which split a file is of
its name says. A data set without an entry in `schemas` is read from files that are in the hub's form already, named after their splits.
"""

from __future__ import annotations

import re
from pathlib import Path

from decondense.errors import UserError
from decondense.evaluate.benchmarks.files import SUFFIXES
from decondense.evaluate.benchmarks.schemas import SCHEMAS, Rows, Schema, plain

# Words in the name of a file, or of the folder that it is in, and the split that they mean. "test" before the others
# would take "testval" wrongly, and nobody writes that.
_SPLITS = {
    "train": "train",
    "dev": "validation",
    "valid": "validation",
    "validation": "validation",
    "val": "validation",
    "test": "test",
}


class AbsentData(UserError):
    """The data of a task is not there."""


def read_splits(folder: Path, path: str, name: str | None, task: str) -> dict[str, Rows]:
    """The splits of a data set that lie in `folder`, by the names that the hub gives them.

    Args:
        folder: of benchmarks.
        path: the data set's name on the hub, such as "allenai/ai2_arc".
        name: of its configuration, such as "ARC-Easy".
        task: lm-eval's; a folder may have its name too.

    Raises:
        AbsentData: there is no folder for it, or no file in that folder.
        UserError: a file is damaged, or a line is not what it should be; names file and line.
    """
    schema = SCHEMAS.get(path) or Schema((plain(path.rpartition("/")[2]), plain(name or task)))
    wanted = {plain(one.format(name=name)) for one in schema.folders} | {plain(task)}
    places = _folders(folder, wanted)
    if not places:
        raise AbsentData(f"{folder} has no folder {' or '.join(sorted(wanted))}")
    files = [
        (file, split)
        for place in places
        for file in sorted(place.rglob("*"))
        if file.name.lower().endswith(SUFFIXES)
        and file.is_file()
        and (schema.belongs is None or schema.belongs(file.relative_to(place.parent), name or task))
        and (split := schema.splits(file, _split_of(file)))
    ]
    if not files:
        raise AbsentData(f"{places[0]} holds no file of {name or task}")
    splits: dict[str, Rows] = {}
    for file, split in files:
        # One file a split: a second one is the same in another layout.
        if not splits.get(split):
            splits[split] = schema.rows(file, name or task)
    found = {split: rows for split, rows in splits.items() if rows}
    if not found:
        raise AbsentData(f"{places[0]} holds nothing of {name or task}")
    return found


def _folders(folder: Path, wanted: set[str]) -> list[Path]:
    """The folders of these names: those in `folder`, else those one deeper."""
    for pattern in ("*", "*/*"):
        found = [one for one in sorted(folder.glob(pattern)) if one.is_dir() and plain(one.name) in wanted]
        if found:
            return found
    return []


def _split_of(file: Path) -> str:
    """The split that a file's name tells, or that of its folder; its whole name where neither has a known word."""
    stem = file.name.split(".")[0]
    if re.fullmatch(r"(train|dev|test)_r[123]", stem):
        return stem
    for text in (file.name.split(".")[0], file.parent.name):
        words = plain(text).split("_")
        for word, split in _SPLITS.items():
            if word in words:
                return split
    return stem
