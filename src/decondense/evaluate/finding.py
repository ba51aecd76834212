"""Paths of runs in, the results files that they stand for out. Knows names of files, not what is in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from decondense.errors import UserError
from decondense.files import RECORD

RESULTS = "results.json"


def find_results(paths: Sequence[Path]) -> list[Path]:
    """The file itself, the results of a folder, or those of all folders below it; one that stands twice is taken once.

    A folder that has results speaks for all below it, as that of a training of several runs does.

    Raises:
        UserError: nothing is there, a folder holds no results, or a run below it was begun and not finished.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: is not there; give the folders of runs, or their {RESULTS}")
        files = [path] if path.is_file() else list(_below(path))
        if not files:
            raise UserError(f"{path}: holds no {RESULTS}, nor does a folder in it; give the folders of finished runs")
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _below(folder: Path) -> Iterator[Path]:
    if (folder / RESULTS).is_file():
        yield folder / RESULTS
        return
    inside = [file for child in _folders(folder) for file in _below(child)]
    if not inside and (folder / RECORD).is_file():
        raise UserError(
            f"{folder}: holds a run without results ({RECORD} and no {RESULTS}): run its command again to finish it, or leave it out"
        )
    yield from inside


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from error
