"""A scorer and a task of lm-eval in, its metrics with their standard errors and its samples out, as `results.json` holds them."""

from __future__ import annotations

import contextlib
import io
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lm_eval.api.metrics
import lm_eval.api.task
import lm_eval.defaults
import numpy
import torch
from lm_eval.evaluator import evaluate

from decondense.errors import UserError
from decondense.evaluate.scoring import Scorer
from decondense.evaluate.tasks import Loaded, quiet


@dataclass(frozen=True)
class Finished:
    """What came of a task.

    Attributes:
        entry: for `results.json`: version, samples, shots, metrics, and what was truncated.
        samples: lm-eval's record of each item.
    """

    entry: dict[str, Any]
    samples: list[dict[str, Any]]


def run_task(scorer: Scorer, loaded: Loaded, name: str, limit: int | None, bootstrap: int = 0) -> Finished:
    """Evaluate a model on one task, on its first `limit` items or all.

    Args:
        scorer: the model.
        loaded: the tasks.
        name: of the one to run.
        limit: items; None for all.
        bootstrap: resamples for the standard errors that lm-eval takes from resampling; 0: none of these, but that of a perplexity, which
            then is its value times the standard error of the mean log likelihood (the delta method).

    Raises:
        UserError: the task runs code that a model wrote.
    """
    task = loaded.tasks[name]
    if getattr(task, "UNSAFE_CODE", False):
        raise UserError(
            f"--tasks {name}: it runs code that the model writes, and is not run here; lm-eval's own command can"
        )
    _seed(task)
    scorer.reset()
    try:
        with quiet(), _without_bars():
            found = evaluate(
                scorer,
                {"tasks": {name: task}, "groups": {}, "group_map": {}},
                limit=limit,
                bootstrap_iters=0,
                log_samples=True,
            )
    except AssertionError as error:
        # So lm-eval refuses what a model cannot do, such as to write more tokens than it has positions.
        raise UserError(f"--tasks {name}: lm-eval refuses: {error}") from error
    except UserError as error:
        raise UserError(f"--tasks {name}: {error}") from error
    samples = found["samples"][name]
    metrics = {}
    for key, value in found["results"][name].items():
        metric, comma, kind = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        items = [sample[metric] for sample in samples if sample["filter"] == kind and metric in sample]
        metrics[_label(metric, kind)] = {
            "value": _finite(value),
            "stderr": _stderr(task.aggregation().get(metric), items, value, bootstrap),
        }
    entry: dict[str, Any] = {
        "version": task.VERSION,
        "samples": found["n-samples"][name]["effective"],
        "shots": loaded.shots[name],
        "metrics": metrics,
        "higher_is_better": {
            metric: better for metric, better in task.higher_is_better().items() if better is not None
        },
        "batch_size": scorer.batch_size,
        "requests": scorer.requests,
        "truncated": scorer.truncated,
    }
    if scorer.rolled:
        entry["scored_in_pieces"] = scorer.rolled
    if name in loaded.notes:
        entry["note"] = loaded.notes[name]
    return Finished(entry, samples)


def aggregate(loaded: Loaded, group: str, entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """The entry of a group from those of its tasks, by lm-eval's rule; None where it has none, or not all its tasks are there."""
    one = loaded.groups[group]
    members = loaded.members(group)
    if not one.has_aggregation or not set(members) <= set(entries):
        return None
    given = {}
    for name in members:
        given[name] = {"sample_len": entries[name]["samples"]}
        for label, scores in entries[name]["metrics"].items():
            metric, _, kind = label.partition("/")
            kind = kind or "none"
            given[name][f"{metric},{kind}"] = scores["value"]
            given[name][f"{metric}_stderr,{kind}"] = "N/A" if scores["stderr"] is None else scores["stderr"]
    with quiet():
        found = one.aggregate(given)
    metrics = {}
    for key, value in found.items():
        metric, comma, kind = key.partition(",")
        if comma and not metric.endswith("_stderr"):
            stderr = found.get(f"{metric}_stderr,{kind}", "N/A")
            metrics[_label(metric, kind)] = {
                "value": _finite(value),
                "stderr": None if stderr == "N/A" else _finite(stderr),
            }
    shots = {entries[name]["shots"] for name in members}
    return {
        "version": one.version,
        "samples": sum(entries[name]["samples"] for name in members),
        "shots": shots.pop() if len(shots) == 1 else None,
        "metrics": metrics,
        "tasks": members,
        "of": loaded.sizes[group],
        "truncated": sum(entries[name]["truncated"] for name in members),
        "requests": sum(entries[name]["requests"] for name in members),
    }


def _seed(task: Any) -> None:
    """As lm-eval's command does before its tasks; which examples stand in a prompt depends on no other task."""
    random.seed(lm_eval.defaults.DEFAULT_RANDOM_SEED)
    numpy.random.seed(lm_eval.defaults.DEFAULT_OTHER_SEED)  # noqa: NPY002 - lm-eval draws from it
    torch.manual_seed(lm_eval.defaults.DEFAULT_OTHER_SEED)
    task.set_fewshot_seed(seed=lm_eval.defaults.DEFAULT_OTHER_SEED)


def _label(metric: str, kind: str) -> str:
    return metric if kind == "none" else f"{metric}/{kind}"


def _stderr(aggregation: Any, items: Sequence[Any], value: float, bootstrap: int) -> float | None:
    if len(items) < 2:
        return None
    if aggregation is lm_eval.api.metrics.perplexity and not bootstrap:
        return _finite(value * lm_eval.api.metrics.mean_stderr(items))
    exact = aggregation in (lm_eval.api.metrics.mean, lm_eval.api.metrics.acc_all)
    # lm-eval has the exact ones only where it may resample.
    compute = lm_eval.api.metrics.stderr_for_metric(aggregation, 1 if exact else bootstrap)
    if compute is None:
        return None
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return _finite(compute(items))


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


@contextlib.contextmanager
def _without_bars() -> Any:
    """lm-eval draws a bar over the prompts that it makes, whatever it is told."""
    bar = lm_eval.api.task.tqdm
    lm_eval.api.task.tqdm = lambda items, **_: items
    try:
        yield
    finally:
        lm_eval.api.task.tqdm = bar
