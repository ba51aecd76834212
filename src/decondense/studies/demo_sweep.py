"""`python -m decondense.studies.demo_sweep`: the sweep that the demo's defaults were chosen by - weights, learning rates, budgets."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from decondense.files import claim_folder, write_json
from decondense.report.tables import Column, Table
from decondense.studies.demo import BASELINE, DemoConfig
from decondense.studies.provenance import provenance
from decondense.studies.twins import Arm, TwinSettings, middle_layers, run_arm
from decondense.studies.workers import available_cores, run_jobs


def cells() -> list[tuple[TwinSettings, Arm]]:
    """Weights of both losses over two seeds at the default budget; two other learning rates and twice the budget at one seed."""
    settings = DemoConfig(device="cpu").settings()
    baseline = (BASELINE, None, 0.0)
    weights = [("dispersion", "dispersion", weight) for weight in (0.3, 1.0, 3.0, 10.0)]
    weights += [("effective_rank", "effective_rank", weight) for weight in (0.03, 0.1, 0.3)]
    chosen = [
        baseline,
        *(kind for kind in weights if kind[2] in (1.0, 3.0) or kind == ("effective_rank", "effective_rank", 0.1)),
    ]
    found = [(settings, Arm(*kind, seed)) for seed in (0, 1) for kind in (baseline, *weights)]
    others = [dataclasses.replace(settings, learning_rate=rate) for rate in (1e-3, 4e-3)]
    others.append(dataclasses.replace(settings, steps=2 * settings.steps))
    return found + [(other, Arm(*kind, 0)) for other in others for kind in chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo-sweep"))
    parser.add_argument("--results", type=Path, default=Path("results/demo-sweep-tiny.json"))
    arguments = parser.parse_args()
    out = claim_folder(arguments.out, {"kind": "demo-sweep"})
    jobs = []
    for settings, arm in cells():
        cell = f"rate{settings.learning_rate}-steps{settings.steps}-weight{arm.weight}"
        jobs.append((out / cell, settings, arm))
    names = [f"{job[0].name}/{job[2].folder}" for job in jobs]
    found = run_jobs(run_arm, jobs, names, max(job[1].steps for job in jobs), available_cores())
    rows: list[dict[str, Any]] = []
    for (_, settings, _), numbers in zip(jobs, found, strict=True):
        kept = {name: numbers[name] for name in ("name", "weight", "seed", "steps", "perplexity", "seconds")}
        rows.append({**kept, "learning_rate": settings.learning_rate, "middle": middle_layers(numbers["mean_cosine"])})
    write_json(
        arguments.results,
        {"study": "demo-sweep", "command": "python -m decondense.studies.demo_sweep", **provenance(), "rows": rows},
    )
    columns: list[Column | str] = [
        "arm",
        Column("weight", "g"),
        "seed",
        "steps",
        Column("rate", "g"),
        Column("perplexity", ".1f"),
        Column("middle", ".3f"),
    ]
    keys = ("name", "weight", "seed", "steps", "learning_rate", "perplexity", "middle")
    print(Table(columns, [[row[key] for key in keys] for row in rows]).plain())


if __name__ == "__main__":
    main()
