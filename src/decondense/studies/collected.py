"""Folders of finished training runs in (`decondense train`, `distill`), one file of results out: a row a run, means with t intervals. Trains nothing.

python -m decondense.studies.collected --study novels --out results/novels-tiny.json runs/novels-seed0 runs/novels-seed1
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from decondense.errors import UserError
from decondense.evaluate.intervals import mean_interval, paired_difference, write_estimate
from decondense.evaluate.runs import runs_in
from decondense.files import prepare_folder, write_json
from decondense.report.tables import Column, Table
from decondense.studies.command_line import command_line
from decondense.studies.twins import middle_layers
from decondense.train.arms import BASELINE, Arm, write_arm
from decondense.train.config import RunConfig, TrainConfig
from decondense.train.distill_config import DistillConfig

# What differs from one run of a study to the next.
_OF_A_RUN = ("arm", "seed", "formulation", "weight", "schedule", "noise", "forget_every")
_CURVE = ("step", "perplexity")


@dataclass(frozen=True)
class CollectConfig:
    """Gather runs of `decondense train` that differ in arm and seed alone into one file of results."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of runs, or folders that hold such folders."""

    study: str
    """What the study is called in its results."""

    out: Path
    """The file to write."""

    baseline: str = BASELINE
    """The arm that the others are compared with, seed by seed."""


def collect(folders: Sequence[Path], study: str, baseline: str = BASELINE) -> dict[str, Any]:
    """The results of a study: its rows, and for each arm the mean of the seeds and the difference from `baseline`, paired by seed.

    Raises:
        UserError: a folder holds no finished run; runs differ in more than arm and seed; an arm lacks a seed that another has.
    """
    runs = [run for folder in folders for run in _read(folder)]
    first, *others = runs
    for other in others:
        differing = [name for name, value in _shared(first).items() if _shared(other).get(name) != value]
        if differing:
            raise UserError(
                f"run {other['folder']}: differs from {first['folder']} in {', '.join(differing)}, so that they are no one study"
            )
    arms = {name: {run["seed"]: run for run in runs if run["arm"] == name} for name in (run["arm"] for run in runs)}
    if baseline not in arms:
        raise UserError(f"--baseline {baseline}: there is no such arm among {', '.join(arms)}")
    for name, of_seed in arms.items():
        missing = sorted(set(arms[baseline]) ^ set(of_seed))
        if missing:
            raise UserError(f"arms {baseline} and {name}: only one of them has seed {', '.join(map(str, missing))}")
    firsts = [next(iter(of_seed.values())) for of_seed in arms.values()]
    rows = [_row(run) for run in sorted(runs, key=lambda run: (list(arms).index(run["arm"]), run["seed"]))]
    return {
        "study": study,
        "command": command([run["config"] for run in firsts], sorted(arms[baseline])),
        "commit": first["commit"],
        "provenance": first["provenance"],
        "texts_digest": first["texts_digest"],
        "steps": first["steps"],
        "tokens": first["tokens"],
        "parameters": first["parameters"],
        **_teacher(first),
        "rows": rows,
        "summary": [_summary(name, rows, baseline) for name in arms],
    }


def command(configs: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> str:
    """The command that makes such runs again, from the configuration of one run of each arm; of paths the names alone are told."""
    words, config = ["decondense", "train"], configs[0]
    defaults: RunConfig = TrainConfig()
    if "teacher" in config:
        words = ["decondense", "distill", *(Path(config[name]).name for name in ("teacher", "student"))]
        defaults = DistillConfig(config["teacher"], config["student"], config["from_scratch"])
        words += ["--from-scratch"] if config["from_scratch"] else []
    usual = dataclasses.asdict(defaults.filled(None))
    arms = []
    for one in configs:
        fields = ("formulation", "weight", "noise", "forget_every", "schedule")
        arm = Arm(one["arm"], **{name: one[name] for name in fields if name in one})
        arms.append(write_arm(arm, defaults.plain_arms, defaults.weight))
    # Tokens follow from the steps.
    told = [name for name in config if name in usual and name not in (*_OF_A_RUN, "tokens")]
    options = {**{name: config[name] for name in told}, "arms": arms, "seed": seeds[0], "seeds": len(seeds)}
    return command_line(words, options, {name: usual[name] for name in told}, ["texts"])


def table(results: Mapping[str, Any]) -> Table:
    """The summary as a table; half a 95 % interval after ±."""
    columns: list[Column | str] = ["arm", "seeds", "bits a byte", "difference", "perplexity", "middle layers"]
    rows = []
    for one in results["summary"]:
        difference = one.get("bits_per_byte_difference")
        rows.append(
            [
                one["arm"],
                str(one["bits_per_byte"]["count"]),
                write_estimate(one["bits_per_byte"], ".4f"),
                "" if difference is None else write_estimate(difference, "+.4f"),
                write_estimate(one["perplexity"], ".2f"),
                write_estimate(one["mean_cosine_middle"], ".3f"),
            ]
        )
    return Table(columns, rows)


def _read(folder: Path) -> list[dict[str, Any]]:
    found = [{**run.results, "folder": str(run.folder)} for run in runs_in(folder) if run.is_training]
    if not found:
        raise UserError(f"{folder}: holds no finished run of decondense train")
    return found


def _shared(run: Mapping[str, Any]) -> dict[str, Any]:
    config = {name: value for name, value in run["config"].items() if name not in _OF_A_RUN}
    return {"texts_digest": run["texts_digest"], "commit": run["commit"], **config}


def _teacher(run: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of the teacher of a distillation; of its path the name alone."""
    return {"teacher": {**run["teacher"], "model": Path(run["teacher"]["model"]).name}} if "teacher" in run else {}


def _row(run: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("arm", "seed", "steps", "tokens", "seconds", "perplexity", "bits_per_byte", "mean_cosine", "effective_rank")
    return {
        **{name: run[name] for name in kept},
        "weight": run["config"]["weight"],
        "mean_cosine_middle": middle_layers(run["mean_cosine"]),
        "history": [{name: entry[name] for name in _CURVE} for entry in run["history"]],
    }


def _summary(arm: str, rows: Sequence[Mapping[str, Any]], baseline: str) -> dict[str, Any]:
    told: dict[str, Any] = {"arm": arm}
    for name in ("bits_per_byte", "perplexity", "mean_cosine_middle"):
        values, before = ([row[name] for row in rows if row["arm"] == which] for which in (arm, baseline))
        told[name] = dataclasses.asdict(mean_interval(values))
        if arm != baseline:
            told[f"{name}_difference"] = dataclasses.asdict(paired_difference(values, before))
    return told


def main(config: CollectConfig) -> None:
    """Write what `collect` gives and print its table."""
    results = collect(config.runs, config.study, config.baseline)
    prepare_folder(config.out.parent)
    write_json(config.out, results)
    print(table(results).plain())
    print(f"wrote {config.out}")


if __name__ == "__main__":
    main(tyro.cli(CollectConfig))
