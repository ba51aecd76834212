"""`decondense evaluate`: models, names of benchmarks and their data in; a table, `results.json` and the samples out.

Each model is loaded once and run task by task. What is finished is kept in --out and is not run again, by this command or a later one.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from decondense import models
from decondense.commands import evaluate_report as report
from decondense.commands import folder as folders
from decondense.commands.evaluate_config import EvaluateConfig
from decondense.commands.measure_report import stems, titles
from decondense.errors import UserError, require
from decondense.evaluate import presets
from decondense.evaluate.held_out_documents import HeldOutDocuments, open_held_out
from decondense.evaluate.runs import Candidate, find_models
from decondense.evaluate.state import State, digest_model
from decondense.files import RESULTS
from decondense.studies.command_line import command_of
from decondense.studies.provenance import provenance

if TYPE_CHECKING:
    from decondense.evaluate.scoring import Scorer
    from decondense.evaluate.tasks import Loaded

__all__ = ["EvaluateConfig", "run"]

KIND = "evaluation"


@dataclass
class Plan:
    """What a run evaluates: the models, lm-eval's tasks, the texts for perplexity; and which tasks, and which of the names given, have no data."""

    candidates: list[Candidate]
    loaded: Loaded
    texts: dict[str, HeldOutDocuments]
    absent: dict[str, str]
    empty: list[str]
    limit: int | None
    batch_size: int | None


def run(config: EvaluateConfig) -> None:
    """Do what `EvaluateConfig` says.

    Raises:
        UserError: an option is wrong, a model cannot be had, a file of a benchmark is broken (before anything is run); or, when all the rest is
            done and written, a task has no data or cannot be done by a model.
    """
    plan = _plan(config)
    recorded = _recorded(config, plan)
    names = titles(candidate.name for candidate in plan.candidates)
    files = dict(zip(names, stems(list(names.values())), strict=True))
    with folders.claimed(config.out, KIND, {}):
        for candidate in plan.candidates:
            models.check(candidate.name, trust_remote_code=config.trust_remote_code, allow_pickle=config.allow_pickle)
        finished: list[dict[str, Any]] = []
        rest: dict[str, Any] = {"command": command_of(config, "evaluate"), "provenance": provenance()}
        if plan.absent:
            rest["absent"] = plan.absent
        for candidate in plan.candidates:
            for entry in _evaluate(config, plan, candidate, files[candidate.name]):
                folders.write_results(config.out, KIND, recorded, [*finished, entry], **rest)
            finished.append(entry)
    for line in report.lines(finished, names, plan.loaded):
        print(line)
    print(f"wrote {config.out / RESULTS}")
    failed = [f"{names[entry['model']]}: {why}" for entry in finished for why in entry.get("failed", {}).values()]
    if failed:
        more = f" (and {len(failed) - 1} more, see results.json)" if len(failed) > 1 else ""
        raise UserError(f"{failed[0]}{more}; all others are done")
    if plan.empty:
        raise UserError(_about_absent(plan.empty, plan.absent, config) + "; all others are done")


def _plan(config: EvaluateConfig) -> Plan:
    """What is to be evaluated. Raises for options that no run can have."""
    config.check()
    given = config.names()
    candidates = find_models(config.models)
    for candidate in candidates:
        models.find(candidate.name, allow_pickle=config.allow_pickle)
    tasks = presets.expand(given)
    texts, absent = _open_texts([name for name in tasks if name.startswith(presets.PERPLEXITY)], config.data)
    require("lm_eval", extra="evaluate")
    # lm-eval takes seconds to import, and `--help` must not.
    from decondense.evaluate.tasks import load_tasks

    _tell("reading the benchmarks")
    benchmarks = {name: shots for name, shots in tasks.items() if not name.startswith(presets.PERPLEXITY)}
    loaded = load_tasks(benchmarks, config.data, config.shots)
    limit = config.limit or (presets.PAPER_LIMIT if given == ["paper"] else 0)
    size = None if config.batch_size == "auto" else int(config.batch_size)
    plan = Plan(candidates, loaded, texts, {**loaded.absent, **absent}, [*loaded.empty, *absent], limit or None, size)
    if not loaded.tasks and not texts:
        raise UserError(_about_absent(plan.empty, plan.absent, config))
    return plan


def _open_texts(names: list[str], data: Path | None) -> tuple[dict[str, HeldOutDocuments], dict[str, str]]:
    """The texts of each perplexity, and why there are none."""
    from decondense.evaluate.benchmarks.local import AbsentData

    texts, absent = {}, {}
    for name in names:
        try:
            texts[name] = open_held_out(name.removeprefix(presets.PERPLEXITY), data)
        except AbsentData as error:
            absent[name] = str(error)
    return texts, absent


def _recorded(config: EvaluateConfig, plan: Plan) -> dict[str, Any]:
    """What results.json says of the run."""
    options = ("shots", "batch_size", "context", "stride", "bootstrap", "log_samples", "dtype")
    return {
        "models": [candidate.name for candidate in plan.candidates],
        "tasks": list(config.tasks),
        "data": None if config.data is None else str(config.data),
        "limit": plan.limit,
        **{name: getattr(config, name) for name in options},
        "device": str(models.choose_device(config.device)),
        "lm_eval": require("lm_eval", extra="evaluate").__version__,
    }


def _evaluate(config: EvaluateConfig, plan: Plan, candidate: Candidate, stem: str) -> Iterator[dict[str, Any]]:
    """Evaluate one model; gives its entry in results.json after each task, and at the end with groups and samples."""
    state = State(config.out / "tasks" / stem)
    keys = _keys(config, plan, candidate)
    done = {name: entry for name in keys if (entry := state.read(name, keys[name], config.log_samples)) is not None}
    waiting = [name for name in keys if name not in done]
    failed: dict[str, str] = {}
    if waiting:
        scorer = _load(config, plan, candidate)
        try:
            for number, name in enumerate(waiting, start=1):
                _tell(f"{candidate.name}: {name} ({number} of {len(waiting)})")
                try:
                    entry, samples = _run_one(config, plan, scorer, name)
                except UserError as error:
                    # The other tasks may do: what failed is told at the end.
                    failed[name] = str(error)
                    continue
                state.write(name, keys[name], entry, samples if config.log_samples else None)
                done[name] = entry
                yield _entry(config, plan, candidate, state, _in_order(done, keys), failed, None)
        finally:
            del scorer
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    samples_file = None
    if config.log_samples:
        samples_file = f"samples-{stem}.jsonl"
        state.join_samples(list(_in_order(done, keys)), config.out / samples_file)
    yield _entry(config, plan, candidate, state, _in_order(done, keys), failed, samples_file)


def _in_order(done: Mapping[str, dict[str, Any]], keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What is finished, in the order of the command line."""
    return {name: done[name] for name in keys if name in done}


def _keys(config: EvaluateConfig, plan: Plan, candidate: Candidate) -> dict[str, dict[str, Any]]:
    """All that the score of each task depends on."""
    from decondense.evaluate.tasks import config_digest
    from decondense.evaluate.text_task import VERSION

    place = models.find(candidate.name, allow_pickle=config.allow_pickle)
    model = {
        "model": digest_model(Path(place.name)) if place.local else str(place),
        "dtype": config.dtype,
        "limit": plan.limit,
    }
    fixed = {"batch_size": plan.batch_size} if plan.batch_size else {}
    version = require("lm_eval", extra="evaluate").__version__
    tasks = {
        name: {
            **model,
            **fixed,
            "lm_eval": version,
            "task": config_digest(task),
            "version": str(task.VERSION),
            "shots": plan.loaded.shots[name],
            "data": getattr(task, "digest", ""),
            "bootstrap": config.bootstrap,
        }
        for name, task in plan.loaded.tasks.items()
    }
    window = {"context": config.context, "stride": config.stride, "version": VERSION}
    return {**tasks, **{name: {**model, **window, "data": one.digest} for name, one in plan.texts.items()}}


def _load(config: EvaluateConfig, plan: Plan, candidate: Candidate) -> Scorer:
    from decondense.evaluate.scoring import Scorer

    model, tokenizer = models.load(
        candidate.name,
        trust_remote_code=config.trust_remote_code,
        allow_pickle=config.allow_pickle,
        dtype=config.dtype,
        device=config.device,
    )
    return Scorer(model, tokenizer, plan.batch_size, show_progress=sys.stderr.isatty())


def _run_one(
    config: EvaluateConfig, plan: Plan, scorer: Scorer, name: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The entry and the samples of one task."""
    from decondense.evaluate.run_task import run_task
    from decondense.evaluate.text_task import run_texts

    if name in plan.texts:
        return run_texts(scorer, plan.texts[name], plan.limit, config.context or None, config.stride or None)
    finished = run_task(scorer, plan.loaded, name, plan.limit, config.bootstrap)
    return finished.entry, finished.samples


def _entry(
    config: EvaluateConfig,
    plan: Plan,
    candidate: Candidate,
    state: State,
    done: Mapping[str, dict[str, Any]],
    failed: Mapping[str, str],
    samples_file: str | None,
) -> dict[str, Any]:
    """One entry of "models" in results.json: the tasks, and the groups whose tasks are finished."""
    from decondense.evaluate.run_task import aggregate

    tasks: dict[str, Any] = {}
    for group in plan.loaded.groups:
        whole = aggregate(plan.loaded, group, done)
        if whole is not None:
            # A mean over some of a group's tasks is not the group's: it has a name of its own.
            count = len(whole["tasks"])
            tasks[group if count == whole["of"] else f"{group} ({count} of {whole['of']})"] = whole
    for name, entry in done.items():
        logged = {"samples_file": str(state.samples_file(name).relative_to(config.out))} if config.log_samples else {}
        tasks[name] = {**entry, **logged}
    average = presets.mean_of_ten(tasks)
    return {
        "model": candidate.name,
        "arm": candidate.arm,
        "seed": candidate.seed,
        "samples_file": samples_file,
        **({"average_of_ten": average} if average else {}),
        **({"failed": dict(failed)} if failed else {}),
        "tasks": tasks,
    }


def _about_absent(empty: Sequence[str], absent: Mapping[str, str], config: EvaluateConfig) -> str:
    """Which of the names given have no data, and for the first why."""
    # A group is absent by its tasks, which have reasons of their own.
    reason = absent.get(empty[0]) or next(
        (why for name, why in absent.items() if name.startswith(empty[0])), min(absent.values())
    )
    mend = "put the data there" if config.data is not None else "connect, or give --data DIR with local files"
    return f"--tasks {', '.join(empty)}: no data, not evaluated: {reason}; {mend}"


def _tell(line: str) -> None:
    """Say what goes on, where somebody looks on."""
    if sys.stderr.isatty():
        print(line, file=sys.stderr)
