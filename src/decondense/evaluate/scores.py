"""A `results.json` in, its numbers out: one for each task, metric, arm and seed, with what must be alike for them to be compared.

Knows the files that the commands write, not what is done with the numbers. A kind of file is a row of `READERS`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from decondense.errors import UserError
from decondense.train.arms import BASELINE

HELD_OUT = "held-out text"

_HIGHER_IS_BETTER = ("acc", "exact_match", "em", "f1", "mcc", "mc1", "mc2", "acc_norm", "acc_bytes", "acc_mutual_info")
_LOWER_IS_BETTER = ("perplexity", "word_perplexity", "bits_per_byte", "byte_perplexity", "brier_score", "loss")
DIRECTIONS = {
    **dict.fromkeys(_HIGHER_IS_BETTER, 1),
    **dict.fromkeys(_LOWER_IS_BETTER, -1),
    "bits_per_parameter": 1,
}
"""+1 where more of a metric is better, -1 where less is. The first of a task's metrics in this order is its main one."""

_HIGHER = re.compile(r"(rouge|bleu|pass@|recall|precision|accuracy)")

_HOW_EVALUATED = ("texts", "texts_digest", "held_out", "evaluation_windows", "context", "tokenizer", "vocabulary")
"""Settings of a training on which its held-out numbers depend: where they differ, the numbers are of different things."""

_OF_AN_ARM = ("arm", "name", "formulation", "weight", "noise", "forget_every", "seed", "out", "device", "folder")
"""What may differ between arms without a word."""


@dataclass(frozen=True)
class Score:
    """One number of one run.

    Attributes:
        task, metric, arm, seed: what it is of.
        value: NaN where the file has no number.
        source: the file.
        conditions: of the task; scores that differ here are of different things.
        config: of the run; seeds of an arm must not differ here, and where arms do it is said.
        described: of the arm alone: seeds of an arm must not differ here, arms may.
        samples: the file that holds each item, where one was logged.
        direction: +1 where more is better, -1 where less is, 0 where neither is known to be.
        members: tasks of which the task is a group.
        part: whether the task is a member of a group that is there too; the group then stands for it.
        repeated: whether tasks are views of one thing, as the bits of one model: no average and no rank over them means anything.
    """

    task: str
    metric: str
    arm: str
    seed: int
    value: float
    source: Path
    conditions: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    described: Mapping[str, Any] = field(default_factory=dict)
    samples: Path | None = None
    direction: int = 0
    members: tuple[str, ...] = ()
    part: bool = False
    repeated: bool = False


def direction(metric: str) -> int:
    """+1 where more of a metric is better, -1 where less is, 0 where neither is known; a filter after / makes no difference.

    >>> direction("acc/strict"), direction("perplexity"), direction("mean_cosine")
    (1, -1, 0)
    """
    name = metric.partition("/")[0]
    return DIRECTIONS.get(name, 1 if _HIGHER.match(name) else 0)


def main_metric(metrics: list[str]) -> str:
    """The one metric of a task that is tested: the first by the order of `DIRECTIONS`, else the first given."""
    order = list(DIRECTIONS)
    return min(metrics, key=lambda metric: _place(order, metric.partition("/")[0]))


def read_scores(path: Path) -> list[Score]:
    """All numbers of a file.

    Raises:
        UserError: it cannot be read, is no file of a kind that has numbers to compare, or is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path} is no JSON: it is damaged, or no results file") from error
    kind = content.get("kind") if isinstance(content, dict) else None
    if kind not in READERS:
        raise UserError(
            f"{path}: results of the kind {kind!r} have no arms to compare; kinds that do: {', '.join(READERS)}"
        )
    try:
        scores = list(READERS[kind](content, path))
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path} is damaged: {type(error).__name__} {error} where a {kind} has its numbers") from error
    if not scores:
        raise UserError(f"{path}: holds no result yet; run its command again, or leave it out")
    return scores


def _training(content: dict[str, Any], source: Path) -> Iterator[Score]:
    config = {**content["config"], "steps": content["steps"], "texts_digest": content.get("texts_digest")}
    yield from _held_out(content, content["arm"], config, source)


def _trainings(content: dict[str, Any], source: Path) -> Iterator[Score]:
    for run in content["runs"]:
        yield from _training(run, source)


def _demo(content: dict[str, Any], source: Path) -> Iterator[Score]:
    settings = content.get("settings", {})
    for entry in content["arms"]:
        config = {**settings, "formulation": entry.get("formulation"), "weight": entry.get("weight")}
        yield from _held_out(entry, entry["name"], config, source)


def _held_out(entry: dict[str, Any], arm: str, config: dict[str, Any], source: Path) -> Iterator[Score]:
    """The numbers on held-out text: prediction, and condensation as a description, since less of it is better only if something else is."""
    layers = entry["mean_cosine"][1:]
    values = {
        "perplexity": entry["perplexity"],
        "bits_per_byte": entry["bits_per_byte"],
        "mean_cosine": sum(layers) / len(layers),
        "mean_cosine_last": layers[-1],
    }
    conditions = {name: config[name] for name in _HOW_EVALUATED if name in config}
    yield from _scores(HELD_OUT, values, (arm, entry["seed"]), source, conditions, config)


def _evaluation(content: dict[str, Any], source: Path) -> Iterator[Score]:
    limit = content.get("config", {}).get("limit")
    for entry in content["models"]:
        who = _who(entry)
        parts = {name for found in entry["tasks"].values() for name in found.get("tasks", ())}
        for task, found in entry["tasks"].items():
            conditions = {name: found.get(name) for name in ("version", "shots", "samples")} | {"limit": limit}
            samples = _samples_file(found.get("samples_file") or entry.get("samples_file"), task, source)
            better = found.get("higher_is_better") or {}
            for metric, number in (found.get("metrics") or {}).items():
                given = number if isinstance(number, dict) else {"value": number}
                rises = given.get("higher_is_better", better.get(metric))
                yield Score(
                    task,
                    metric,
                    *who,
                    _number(given.get("value")),
                    source,
                    conditions,
                    samples=samples,
                    direction=direction(metric) if rises is None else 1 if rises else -1,
                    members=tuple(found.get("tasks", ())),
                    part=task in parts,
                )


def _quantization(content: dict[str, Any], source: Path) -> Iterator[Score]:
    for entry in content["models"]:
        for point in entry["curve"]:
            values = {name: point[name] for name in ("perplexity", "bits_per_byte")}
            task = f"{point['bits']} bits, {point['scheme']}"
            for score in _scores(task, values, _who(entry), source, {}, {}):
                yield replace(score, repeated=True)


def _capacity(content: dict[str, Any], source: Path) -> Iterator[Score]:
    for run in content["runs"]:
        weight = run["dispersion_weight"]
        arm = run.get("arm") or (f"dispersion-{weight:g}" if weight else BASELINE)
        task = f"{run['people']:,} people, {run['parameters']:,} parameters, {run['exposures']:,} exposures"
        values = {"bits_per_parameter": run["bits_per_parameter"]}
        config = {name: run[name] for name in ("learning_rate", "batch_size", "steps") if name in run}
        yield from _scores(task, values, (arm, run["seed"]), source, {}, {**config, "weight": weight})


def _scores(
    task: str,
    values: Mapping[str, Any],
    who: tuple[str, int],
    source: Path,
    conditions: Mapping[str, Any],
    config: Mapping[str, Any],
) -> Iterator[Score]:
    shared = {name: value for name, value in config.items() if name not in _OF_AN_ARM}
    described = {name: config[name] for name in _OF_AN_ARM if name in config and name not in ("seed", "out", "folder")}
    for metric, value in values.items():
        yield Score(task, metric, *who, _number(value), source, conditions, shared, described, None, direction(metric))


def _who(entry: Mapping[str, Any]) -> tuple[str, int]:
    """Arm and seed of a model: as recorded, else as the folder that `decondense train` gives it says, else its name and seed 0."""
    model = str(entry["model"]).rstrip("/")
    end = model.rpartition("/")[2]
    named = re.fullmatch(r"(.+)-seed(\d+)", end)
    # A name on the hub has one slash; of a path its end is enough.
    name = end if model.startswith((".", "/")) or model.count("/") > 1 else model
    arm = entry.get("arm") or (named[1] if named else name)
    seed = entry.get("seed")
    return arm, int(seed if seed is not None else named[2] if named else 0)


def _samples_file(given: Any, task: str, source: Path) -> Path | None:
    """Where the samples of a task are: a file of all tasks, a folder with a file for each, or a mapping from tasks to files."""
    if isinstance(given, Mapping):
        given = given.get(task)
    if not given:
        return None
    path = source.parent / str(given)  # an absolute path stays as it is
    if not path.exists():
        path = Path(str(given))
    if path.is_dir():
        # lm-eval's own names: samples_TASK_DATE.jsonl
        found = sorted(
            one for one in path.glob("*.jsonl") if re.fullmatch(rf"(samples_)?{re.escape(task)}(_[\dT.:-]+)?", one.stem)
        )
        return found[-1] if found else None
    return path


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _place(order: list[str], name: str) -> int:
    return order.index(name) if name in order else len(order)


READERS: dict[str, Callable[[dict[str, Any], Path], Iterator[Score]]] = {
    "demo": _demo,
    "training": _training,
    "trainings": _trainings,
    "evaluation": _evaluation,
    "quantization": _quantization,
    "capacity": _capacity,
}
