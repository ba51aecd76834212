"""`decondense demo`: twins on the embedded corpus - cross entropy, the paper's dispersion, effective rank - compared on held-out text."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decondense.errors import UserError, check_least, choose, option
from decondense.evaluate.intervals import Estimate, mean_interval, paired_difference
from decondense.files import claim_folder, write_json
from decondense.losses.formulations import FORMULATIONS
from decondense.models import choose_device
from decondense.studies import demo_report
from decondense.studies.provenance import provenance
from decondense.studies.twins import Arm, TwinSettings, middle_layers, run_arm
from decondense.studies.verdict import describe_condensation, describe_difference, verdict
from decondense.studies.workers import available_cores, run_jobs

BASELINE = "cross_entropy"


@dataclass(frozen=True)
class DemoConfig:
    """Train twins of a tiny GPT-2 on text that comes with Python, with and without dispersion, and compare them.

    Attributes:
        out: folder for results, models, pictures and the page; the same command continues a run that was stopped.
        seeds: number of seeds; each trains every arm, and intervals need at least two.
        seed: the first seed.
        steps: updates of each arm.
        weight: of the paper's dispersion loss in its arm.
        effective_rank_weight: of the effective-rank loss in its arm.
        formulation: a further arm with this formulation.
        formulation_weight: of the loss in that further arm.
        layers: blocks of the model.
        width: features of a hidden state; a multiple of 32.
        mlp_width: features inside a block's MLP; 0 = four times the width.
        context: tokens of a training window.
        batch_size: windows a step.
        vocabulary: tokens of the byte-level BPE.
        learning_rate: at its peak.
        checkpoints: log-spaced checkpoints of each arm to keep, from step 0.
        device: cpu, cuda, mps, or auto.
        workers: arms trained side by side; 0 = one a core, or 1 on a GPU.
    """

    out: Path = Path("runs/demo")
    seeds: int = 1
    seed: int = 0
    steps: int = 300
    weight: float = 3.0
    effective_rank_weight: float = 0.1
    formulation: str | None = None
    formulation_weight: float = 0.1
    layers: int = 6
    width: int = 128
    mlp_width: int = 0
    context: int = 128
    batch_size: int = 8
    vocabulary: int = 1024
    learning_rate: float = 2e-3
    checkpoints: int = 0
    device: str = "auto"
    workers: int = 0

    def check(self) -> None:
        """Raise `UserError` at a value that cannot be run, before anything is written."""
        least = {**dict.fromkeys(("seeds", "steps", "layers", "width", "batch_size"), 1), "context": 8}
        least |= dict.fromkeys(("mlp_width", "checkpoints", "workers", "seed"), 0)
        check_least(self, least)
        for name in ("weight", "effective_rank_weight", "formulation_weight", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{option(name)} {getattr(self, name)}: expected a number above 0")
        if self.width % 32:
            raise UserError(f"--width {self.width}: expected a multiple of 32, the width of an attention head")
        if self.vocabulary < 300:
            raise UserError(f"--vocabulary {self.vocabulary}: must be at least 300 (256 bytes and some merges)")
        if self.formulation is not None:
            choose("formulation", self.formulation, FORMULATIONS)
            if self.formulation in ("dispersion", "effective_rank"):
                raise UserError(
                    f"--formulation {self.formulation}: has an arm already; give --weight or --effective-rank-weight"
                )

    def arms(self) -> list[Arm]:
        """The runs, seed by seed."""
        kinds: list[tuple[str, str | None, float]] = [
            (BASELINE, None, 0.0),
            ("dispersion", "dispersion", self.weight),
            ("effective_rank", "effective_rank", self.effective_rank_weight),
        ]
        if self.formulation is not None:
            kinds.append((self.formulation, self.formulation, self.formulation_weight))
        return [Arm(*kind, seed) for seed in range(self.seed, self.seed + self.seeds) for kind in kinds]

    def settings(self) -> TwinSettings:
        """What all arms share."""
        return TwinSettings(
            steps=self.steps,
            layers=self.layers,
            width=self.width,
            heads=self.width // 32,
            mlp_width=self.mlp_width or 4 * self.width,
            context=self.context,
            batch_size=self.batch_size,
            vocabulary=self.vocabulary,
            learning_rate=self.learning_rate,
            device=str(choose_device(self.device)),
            checkpoints=self.checkpoints,
        )


def run(config: DemoConfig, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Train the arms, compare them, write everything into `config.out`; returns the content of `results.json`."""
    config.check()
    settings, arms = config.settings(), config.arms()
    recorded = {
        name: value for name, value in dataclasses.asdict(config).items() if name not in ("out", "workers", "device")
    }
    out = claim_folder(config.out, {"kind": "demo", **recorded, "device": settings.device})
    workers = config.workers or (available_cores() if settings.device == "cpu" else 1)
    say(
        f"{len(arms)} runs of {settings.steps} steps, {min(workers, len(arms))} side by side on {settings.device}; "
        f"results go to {out}"
    )
    began, origin = time.perf_counter(), provenance()
    jobs = [(out, settings, arm) for arm in arms]
    found = run_jobs(run_arm, jobs, [arm.folder for arm in arms], settings.steps, min(workers, len(arms)))
    results = summarise(config, settings, found, origin)
    write_json(out / "results.json", results)
    demo_report.write(out, results)
    say(f"{demo_report.caption(results)}:")
    say(demo_report.summary_table(results).plain())
    say("")
    say(results["verdict"])
    say("")
    say(f"{time.perf_counter() - began:.0f} s; open {out / 'report.html'}")
    return results


def summarise(
    config: DemoConfig, settings: TwinSettings, found: list[dict[str, Any]], origin: dict[str, Any]
) -> dict[str, Any]:
    """The content of `results.json` from the numbers of the arms."""
    names = list(dict.fromkeys(arm["name"] for arm in found))
    of_name = {name: [arm for arm in found if arm["name"] == name] for name in names}
    perplexities = {name: [run["perplexity"] for run in runs] for name, runs in of_name.items()}
    middles = {name: mean_interval([middle_layers(run["mean_cosine"]) for run in of_name[name]]) for name in names}
    base = mean_interval(perplexities[BASELINE]).mean
    summary, sentences = [], []
    for name in names:
        runs, middle = of_name[name], middles[name]
        row: dict[str, Any] = {
            "name": name,
            "perplexity": _estimate(mean_interval(perplexities[name])),
            "bits_per_byte": _estimate(mean_interval([run["bits_per_byte"] for run in runs])),
            "mean_cosine_first": _estimate(mean_interval([run["mean_cosine"][0] for run in runs])),
            "mean_cosine_middle": _estimate(middle),
            "mean_cosine_last": _estimate(mean_interval([run["mean_cosine"][-1] for run in runs])),
            "spearman": _estimate(mean_interval([run["spearman"] or 0.0 for run in runs])),
            "seconds": _estimate(mean_interval([run["seconds"] for run in runs])),
        }
        if name != BASELINE:
            difference = paired_difference(perplexities[name], perplexities[BASELINE])
            row["perplexity_difference"] = _estimate(difference)
            condensation = describe_condensation(middle.mean, middles[BASELINE].mean)
            sentences.append((name, condensation, describe_difference(difference, base)))
        summary.append(row)
    return {
        "kind": "demo",
        "study": "demo",
        "commit": origin["commit"],
        "command": demo_report.command(dataclasses.asdict(config)),
        "provenance": origin,
        "config": {**dataclasses.asdict(config), "out": str(config.out)},
        "settings": dataclasses.asdict(settings),
        "arms": found,
        "summary": summary,
        "verdict": verdict(settings.steps, found[0]["tokens"], config.seeds, BASELINE, sentences),
    }


def _estimate(estimate: Estimate) -> dict[str, float | int | None]:
    return dataclasses.asdict(estimate)
