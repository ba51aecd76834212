"""Names given as MODEL in, the models that they mean out, each with the arm and seed that trained it. Loads nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decondense.errors import UserError

# What `decondense train` and `decondense demo` write into the folder of an arm.
_RECORDS = ("results.json", "arm.json")


@dataclass(frozen=True)
class Candidate:
    """A model to evaluate.

    Attributes:
        name: what `models.load` takes.
        arm: of the run that trained it; None where that is not known.
        seed: of that run.
    """

    name: str
    arm: str | None = None
    seed: int | None = None


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


def _candidates(name: str) -> list[Candidate]:
    folder = Path(name).expanduser()
    if not folder.is_dir() or (folder / "config.json").is_file():
        return [Candidate(name, *_origin(folder))]
    runs = [one for one in sorted(folder.iterdir()) if any((one / record).is_file() for record in _RECORDS)]
    models = [one for one in runs if (one / "config.json").is_file()]
    if models:
        return [Candidate(str(one), *_origin(one)) for one in models]
    if (folder / "run.json").is_file():
        raise UserError(f"{folder} is a run without a finished model: run its command again to go on, then evaluate it")
    return [Candidate(name)]


def _origin(folder: Path) -> tuple[str | None, int | None]:
    for record in _RECORDS:
        try:
            content: Any = json.loads((folder / record).read_text(encoding="utf-8"))
        except OSError:
            continue
        except ValueError as error:
            raise UserError(f"{folder / record} is damaged: remove it, or train that run again") from error
        if isinstance(content, dict) and isinstance(content.get("seed"), int):
            arm = content.get("arm", content.get("name"))
            return (arm if isinstance(arm, str) else None), content["seed"]
    return None, None
