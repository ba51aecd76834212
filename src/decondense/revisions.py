"""The name of a series of checkpoints in, its members in the order of training out: revisions on the hub, or folders in a folder."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decondense import hub
from decondense.errors import UserError, require

_SCALES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


@dataclass(frozen=True)
class Checkpoint:
    """One member of a series.

    Attributes:
        name: what `models.load` takes: a folder, or NAME@REVISION.
        label: the folder's name, or the revision.
        tokens: seen so far, where the label says so ("stage1-step1000-tokens5B").
        step: of the training, where the label says so ("step512", "checkpoint-200").
    """

    name: str
    label: str
    tokens: float | None
    step: float | None


def find_revisions(name: str, patterns: str) -> tuple[list[Checkpoint], str]:
    """Checkpoints of a training whose labels match one of the patterns ("step*", names with commas between), in its order; and the unit of it.

    Args:
        name: of a model on the hub, whose branches and tags are its revisions, or a folder that holds a folder for each checkpoint.
        patterns: with `*` and `?`, or exact; commas between.

    Returns:
        The checkpoints by what was seen, and "tokens" where all labels tell tokens, else "steps".

    Raises:
        UserError: nothing matches, the hub is not reachable, or a label says neither tokens nor step.
    """
    folder = Path(name).expanduser()
    labels = _labels_of_folder(folder) if folder.is_dir() else _labels_of_hub(name)
    asked = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]
    unmatched = [pattern for pattern in asked if not any(fnmatch.fnmatchcase(label, pattern) for label in labels)]
    if not asked or unmatched:
        raise UserError(
            f"--revisions {patterns}: {name} has none called {', '.join(unmatched) or '(nothing given)'}; it has {_some(labels)}"
        )
    chosen = [label for label in labels if any(fnmatch.fnmatchcase(label, pattern) for pattern in asked)]
    found = [
        Checkpoint(str(folder / label) if folder.is_dir() else f"{name}@{label}", label, _tokens(label), _step(label))
        for label in chosen
    ]
    unit = "tokens" if all(one.tokens is not None for one in found) else "steps"
    told = {one.label: one.tokens if unit == "tokens" else one.step for one in found}
    silent = [label for label, seen in told.items() if seen is None]
    if silent:
        raise UserError(
            f"--revisions {patterns}: {_some(silent)} of {name} tell neither a step nor tokens: name those that do, as step*"
        )
    return sorted(found, key=lambda one: told[one.label] or 0.0), unit


def _labels_of_folder(folder: Path) -> list[str]:
    labels = sorted(one.name for one in folder.iterdir() if (one / "config.json").is_file())
    if not labels:
        raise UserError(
            f"{folder} holds no folders of checkpoints (each with config.json): give the folder that they are in"
        )
    return labels


def _labels_of_hub(name: str) -> list[str]:
    api: Any = require("huggingface_hub", extra="hf").HfApi()
    with hub.asked_once() as there:
        try:
            if not there:
                raise UserError(f"{name}: {hub.UNREACHABLE}; a local folder of checkpoints works too")
            refs = api.list_repo_refs(name)
        except hub.failures() as error:
            raise UserError(
                f"{name}: {hub.refusal(error) or error}; give a model on the hub, or a folder of checkpoints"
            ) from error
    return [ref.name for ref in (*refs.branches, *refs.tags)]


def _tokens(label: str) -> float | None:
    found = re.search(r"tokens[-_]?([\d.]+)([KMBT]?)", label, re.IGNORECASE)
    return float(found[1]) * _SCALES[found[2].upper()] if found else None


def _step(label: str) -> float | None:
    found = re.search(r"(?:step|checkpoint|iter)[-_]?(\d+)", label, re.IGNORECASE) or re.fullmatch(r"(\d+)", label)
    return float(found[1]) if found else None


def _some(labels: Sequence[str], most: int = 6) -> str:
    return ", ".join(labels[:most]) + (f" and {len(labels) - most} more" if len(labels) > most else "")
