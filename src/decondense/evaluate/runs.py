"""Names and paths given on a command line in; the finished runs, models and results files that they stand for out. Loads no model.

A run is the folder of one arm and one seed, as `decondense train`, `distill` or `demo` writes it; runs of several stand side by side in a folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from decondense.errors import UserError
from decondense.files import RECORD, RESULTS, read_json

TRAINING, TRAININGS = "training", "trainings"
"""What the results of a run, and those of several, say that they are."""

# What a training and the demo write into the folder of an arm.
_RECORDS = (RESULTS, "arm.json")


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: of the run.
        arm: None where it has none.
        seed: of the run.
        results: all that it wrote into its record.
    """

    folder: Path
    arm: str | None
    seed: int
    results: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def config(self) -> Mapping[str, Any]:
        """What a training was told, with all defaults; nothing for another run."""
        found: Mapping[str, Any] = self.results.get("config", {})
        return found

    @property
    def is_training(self) -> bool:
        """Whether `decondense train` or `distill` made it, so that its results have its configuration and say what it held out."""
        return self.results.get("kind") == TRAINING


@dataclass(frozen=True)
class Candidate:
    """A model to evaluate.

    Attributes:
        name: what `models.load` takes.
        run: that trained it; None where that is not known.
    """

    name: str
    run: Run | None = None

    @property
    def arm(self) -> str | None:
        """Of the run."""
        return None if self.run is None else self.run.arm

    @property
    def seed(self) -> int | None:
        """Of the run."""
        return None if self.run is None else self.run.seed


def read_run(folder: str | Path) -> Run | None:
    """The finished run whose folder this is; None where it is none.

    Raises:
        UserError: its record is damaged.
    """
    place = Path(folder).expanduser()
    for record in _RECORDS:
        if not (place / record).is_file():
            continue
        content = read_json(place / record, "remove it, or train that run again")
        if isinstance(content, dict) and isinstance(content.get("seed"), int):
            arm = content.get("arm", content.get("name"))
            return Run(place, arm if isinstance(arm, str) else None, content["seed"], content)
    return None


def runs_in(folder: str | Path) -> list[Run]:
    """The finished run whose folder this is, or those in this folder, in the order that its results tell, else by name.

    Raises:
        UserError: a record is damaged.
    """
    own = read_run(folder)
    if own is not None:
        return [own]
    place = Path(folder).expanduser()
    inside = sorted(one for one in place.iterdir() if one.is_dir()) if place.is_dir() else []
    told = [Path(run["folder"]).name for run in _several(place)]
    runs = [run for run in map(read_run, inside) if run is not None]
    return sorted(runs, key=lambda run: told.index(run.folder.name) if run.folder.name in told else len(told))


def find_models(names: Sequence[str]) -> list[Candidate]:
    """The models that the names mean: a folder of several runs stands for the model of each.

    Raises:
        UserError: a folder of runs has none that is finished; a model is named twice.
    """
    found = [candidate for name in names for candidate in _candidates(name)]
    seen: set[str] = set()
    for candidate in found:
        if candidate.name in seen:
            raise UserError(f"MODEL {candidate.name} was given twice: once is enough")
        seen.add(candidate.name)
    return found


def find_results(paths: Sequence[Path]) -> list[Path]:
    """The file itself, the results of a folder, or those of all folders below it; one that stands twice is taken once.

    A folder that has results, of whatever kind, speaks for all below it, as that of a training of several runs does.

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


def _candidates(name: str) -> list[Candidate]:
    folder = Path(name).expanduser()
    if not folder.is_dir() or (folder / "config.json").is_file():
        return [Candidate(name, read_run(folder))]
    found = [Candidate(str(run.folder), run) for run in runs_in(folder) if (run.folder / "config.json").is_file()]
    if not found and _several(folder):
        raise UserError(f"MODEL {name}: the runs that its {RESULTS} tells of are not there any more")
    if not found and (folder / RECORD).is_file():
        raise UserError(f"{folder} is a run without a finished model: run its command again to go on, then evaluate it")
    return found or [Candidate(name)]


def _several(folder: Path) -> Sequence[Mapping[str, Any]]:
    """What the results of a training of several runs tell of each."""
    path = folder / RESULTS
    content = read_json(path, "remove it, or train again") if path.is_file() else None
    return content.get("runs", []) if isinstance(content, dict) and content.get("kind") == TRAININGS else []


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
