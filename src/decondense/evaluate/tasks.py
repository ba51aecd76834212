"""Names of benchmarks in, lm-eval's tasks with their data out: from the hub, or from local files. Knows no model and no score.

Prompts, metrics, versions and groups are lm-eval's own: only where the rows come from is exchanged. A task without data is kept by name, with
the reason, and leaves its group.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import lm_eval.api.task
import lm_eval.tasks
from lm_eval.tasks._factory import TaskFactory

from decondense import hub
from decondense.errors import UserError
from decondense.evaluate.benchmarks.local import AbsentData, read_splits

# Folders of lm-eval that hold the tasks of our presets. Reading all 14,000 of its tasks takes seconds.
_USUAL = (
    "blimp",
    "lambada",
    "piqa",
    "arc",
    "openbookqa",
    "winogrande",
    "mmlu/default",
    "truthfulqa",
    "hellaswag",
    "anli",
    "medmcqa",
    "paloma",
    "wikitext",
)

# (the data set's name on the hub, its configuration's, the task's) -> the rows of its splits.
Source = Callable[[str, str | None, str], dict[str, list[dict[str, Any]]]]


@dataclass
class Loaded:
    """lm-eval's tasks that can be run, and those that cannot.

    Attributes:
        tasks: by name, without their groups' other members.
        groups: lm-eval's groups by name, which hold the tasks that are here; a group comes before the groups in it.
        sizes: the number of tasks that a group has in lm-eval, here or not.
        shots: examples in the prompt, by task.
        absent: why a task cannot be run, by name.
        empty: of the names that were asked for, those of which no task can be run.
        notes: what the reader of a task's score should know.
    """

    tasks: dict[str, Any] = field(default_factory=dict)
    groups: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    shots: dict[str, int] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)

    def members(self, group: str) -> list[str]:
        """The tasks of a group that are here, at any depth."""
        return [task.task_name for task in self.groups[group].get_all_tasks()]


def load_tasks(names: Mapping[str, int | None], folder: Path | None, shots: int | None = None) -> Loaded:
    """Load tasks, groups and tags of lm-eval by name.

    Args:
        names: of lm-eval, each with the examples in its prompts (None: what its configuration says, or none).
        folder: of benchmarks to take all rows from; None for the hub, or its cache.
        shots: examples in the prompts of all tasks; a task whose configuration says 0 keeps that, as in lm-eval.

    Raises:
        UserError: a name is not known (the nearest are named), tasks are in two groups, or a file of a benchmark is broken (named with its line).
    """
    with quiet(), _hub_or_cache(folder) as there:
        source = _from_folder(folder) if folder is not None else None
        manager = _manager(names, source, there)
        loaded = Loaded()
        for name, wanted in names.items():
            try:
                found = manager.load([name])
            except UserError:
                raise
            except ImportError as error:
                loaded.absent[name] = f"it needs a package that is not installed: {error}"
                loaded.empty.append(name)
                continue
            twice = sorted(loaded.tasks.keys() & found["tasks"])
            if twice:
                raise UserError(f"--tasks {name}: {twice[0]} is named twice, alone or in two groups: name it once")
            _add(loaded, found, wanted if shots is None else shots)
            if not loaded.tasks.keys() & found["tasks"]:
                loaded.empty.append(name)
    return loaded


def _add(loaded: Loaded, found: Mapping[str, Any], shots: int | None) -> None:
    """Take in what lm-eval loaded for one name."""
    for group_name, group in found.get("groups", {}).items():
        loaded.sizes[group_name] = len(group.get_all_tasks())
    for task_name, task in found["tasks"].items():
        reason = getattr(task, "absent", None)
        if reason is not None:
            loaded.absent[task_name] = reason
            for group in found.get("groups", {}).values():
                group.pop(task_name)
            continue
        own = task.get_config("num_fewshot")
        wanted = own if own == 0 or shots is None else shots
        wanted = wanted or 0
        missing = getattr(task, "missing_fewshot", None)
        if wanted and missing:
            loaded.notes[task_name] = f"0-shot in place of {wanted}-shot: the data has no split {missing!r}"
            wanted = 0
        task.set_config(key="num_fewshot", value=wanted)
        loaded.tasks[task_name], loaded.shots[task_name] = task, wanted
    for group_name, group in found.get("groups", {}).items():
        if group.get_all_tasks():
            loaded.groups[group_name] = group


def _manager(names: Mapping[str, int | None], source: Source | None, there: bool) -> Any:
    """lm-eval's index of tasks, of the usual ones alone where these suffice."""
    root = Path(lm_eval.tasks.__file__).parent
    usual = [root / one for one in _USUAL if (root / one).is_dir()]
    manager = lm_eval.tasks.TaskManager(include_path=usual, include_defaults=False)
    if not set(names) <= set(manager.all_tasks):
        manager = lm_eval.tasks.TaskManager()
    for name in names:
        if name not in manager.all_tasks:
            near = difflib.get_close_matches(name, manager.all_tasks, n=3)
            hint = f"did you mean {', '.join(near)}? " if near else ""
            raise UserError(
                f"--tasks {name}: lm-eval {lm_eval.__version__} has no such task, group or tag: {hint}`lm-eval ls tasks` lists them"
            )
    manager._factory = _Factory(source, there)
    return manager


class _Factory(TaskFactory):
    """Builds lm-eval's tasks, those of configuration files with rows from elsewhere."""

    def __init__(self, source: Source | None, there: bool) -> None:
        super().__init__()
        self._source = source
        self._there = there

    def _build_task(self, entry: Any, overrides: dict[str, Any] | None) -> Any:
        config = self._load_full_config(entry, overrides)
        if "class" in config:
            return super()._build_task(entry, overrides)
        for key in ("tag", "group", "task_list"):
            config.pop(key, None)
        return Task(config, self._source, self._there)


class Task(lm_eval.api.task.ConfigurableTask):
    """A task of lm-eval whose rows come from `source`, or where that is None from the hub.

    Attributes:
        absent: why there are no rows to evaluate on; the task is not usable then. None where there are.
        missing_fewshot: the split that examples would come from, where the data lacks it.
        digest: of all rows.
    """

    absent: str | None = None
    missing_fewshot: str | None = None
    digest: str = ""

    def __init__(self, config: dict[str, Any], source: Source | None, there: bool) -> None:
        self._source = source
        self._there = there
        try:
            super().__init__(config=config)
        except AbsentData as error:
            self.absent = str(error)

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **_: Any) -> None:
        """Have the rows; what lm-eval calls when a task is made."""
        if self._source is None:
            self._download_from_hub(dataset_kwargs)
        else:
            splits = self._source(self.config.dataset_path or "", self.config.dataset_name, self.config.task)
            self.digest = hashlib.sha256(
                json.dumps(splits, sort_keys=True).encode("utf-8", "surrogatepass")
            ).hexdigest()[:16]
            self.dataset = datasets.DatasetDict(
                {name: datasets.Dataset.from_list(rows) for name, rows in splits.items()}
            )
        evaluated = self.config.test_split or self.config.validation_split
        if evaluated not in self.dataset:
            raise AbsentData(
                f"its data has no split {evaluated!r}, on which it is evaluated: there is {', '.join(self.dataset)}"
            )
        examples = self.fewshot_cfg.split or self.config.training_split or self.config.validation_split or evaluated
        if examples not in self.dataset and self.fewshot_cfg.samples is None:
            self.missing_fewshot = examples
        self._forget_missing_splits()

    def _forget_missing_splits(self) -> None:
        """lm-eval reads each split that its configuration names when the task is made."""
        for name in ("training_split", "validation_split", "test_split", "fewshot_split"):
            if getattr(self.config, name) not in (None, *self.dataset):
                setattr(self.config, name, None)
        if self.fewshot_cfg.split not in (None, *self.dataset):
            self.fewshot_cfg.split = None

    def _download_from_hub(self, dataset_kwargs: dict[str, Any] | None) -> None:
        try:
            super().download(dataset_kwargs)
            self.digest = hashlib.sha256(
                "".join(one._fingerprint for one in self.dataset.values()).encode()
            ).hexdigest()[:16]
        except (*hub.failures(), datasets.exceptions.DatasetsError) as error:
            first, *_ = str(error).strip().splitlines() or [type(error).__name__]
            reason = hub.refusal(error) or (first if self._there else hub.UNREACHABLE)
            raise AbsentData(f"{self.config.dataset_path}: {reason}; --data DIR reads local files") from error


def _from_folder(folder: Path) -> Source:
    return lambda path, name, task: read_splits(folder, path, name, task)


@contextmanager
def _hub_or_cache(folder: Path | None) -> Iterator[bool]:
    """Ask the hub once whether it is there, where it is needed at all."""
    if folder is not None:
        yield True
        return
    with hub.asked_once() as there:
        yield there


@contextmanager
def quiet() -> Iterator[None]:
    """Keep lm-eval's notes, and those of what it uses, off standard error: what matters in them is said by us."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def config_digest(task: Any) -> str:
    """16 digits that change with anything in a task's configuration: prompt, metrics, functions."""
    configuration = json.dumps(task.dump_config(), sort_keys=True, default=str)
    return hashlib.sha256(configuration.encode()).hexdigest()[:16]


def split_names(text: Sequence[str]) -> list[str]:
    """Names that commas or blanks stand between."""
    return [name for part in text for name in part.split(",") if name]
