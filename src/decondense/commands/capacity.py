"""`decondense capacity`: sizes of models and numbers of people in; bits of knowledge for each parameter, with and without dispersion, out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from decondense import __version__
from decondense.commands import capacity_report as report
from decondense.commands import folder as folders
from decondense.errors import UserError, check_least, choose, option
from decondense.files import RESULTS, write_json
from decondense.losses.formulations import FORMULATIONS
from decondense.models import choose_device
from decondense.progress import progress_bar
from decondense.studies.capacity_run import CapacityRun, Size, run_capacity, seconds_per_step
from decondense.studies.command_line import command_of
from decondense.studies.provenance import provenance

KIND = "capacity"


@dataclass(frozen=True)
class CapacityConfig:
    """Train tiny models on biographies of made-up people, and count the bits that each holds of them, with and without dispersion.

    Biographies, exposures and the count are those of Physics of Language Models, part 3.3 (arXiv 2404.05405). --out gets results.json, a figure,
    and a folder for each run. The same command goes on where it was stopped.
    """

    sizes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="LAYERSxWIDTHxHEADS ...")] = ("2x18x3", "3x24x4", "4x30x5")
    """Shapes of the models; these have 11, 26 and 50 thousand parameters."""

    people: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...")] = (500, 1000, 2000)
    """How many there are biographies of, for each size, or one number for all sizes. A person is worth about 65 bits."""

    exposures: int = 100
    """Biographies that a model reads of each person, each in words drawn anew; 1000 to fill a model as far as it goes."""

    formulation: Annotated[str, tyro.conf.arg(metavar="NAME")] = "dispersion"
    """Loss on hidden states of the other twin, a row of docs/losses.md."""

    weight: float = 1.0
    """Of that loss."""

    seeds: int = 1
    """Number of seeds; each trains all sizes with and without the loss. Intervals need at least two."""

    seed: int = 0
    """The first seed: of weights, people, and words."""

    learning_rate: float = 1e-2
    """At its peak."""

    batch_size: int = 0
    """Biographies in an update; 0 = one for every 62 people, so that all sizes make as many updates."""

    device: str = "auto"
    """cpu, cuda, mps, or auto."""

    out: Path = Path("runs/capacity")
    """Folder of the results."""

    def check(self) -> None:
        """Raise `UserError` at a value that cannot be run, before anything is written."""
        check_least(self, {"seeds": 1, "exposures": 1, "batch_size": 0, "seed": 0})
        for name in ("weight", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{option(name)} {getattr(self, name)}: expected a number above 0")
        choose("formulation", self.formulation, FORMULATIONS)
        shapes = [Size.parse(size) for size in self.sizes]
        if len(set(shapes)) != len(shapes) or not shapes:
            raise UserError(f"--sizes {' '.join(self.sizes)}: expected at least one, and none of them twice")
        if len(self.people) not in (1, len(self.sizes)):
            raise UserError(
                f"--people: expected one number, or one for each of {len(self.sizes)} sizes, given {len(self.people)}"
            )

    def runs(self) -> list[CapacityRun]:
        """All that is trained, seed by seed, so that the first seed is soon complete."""
        people = self.people * len(self.sizes) if len(self.people) == 1 else self.people
        losses: tuple[tuple[str | None, float], ...] = ((None, 0.0), (self.formulation, self.weight))
        return [
            CapacityRun(
                size=Size.parse(size),
                people=count,
                exposures=self.exposures,
                formulation=formulation,
                weight=weight,
                seed=seed,
                batch_size=self.batch_size or max(count // 62, 1),
                learning_rate=self.learning_rate,
            )
            for seed in range(self.seed, self.seed + self.seeds)
            for size, count in zip(self.sizes, people, strict=True)
            for formulation, weight in losses
        ]


def run(config: CapacityConfig) -> None:
    """Do what `CapacityConfig` says.

    Raises:
        UserError: an option is wrong, --out is not writable or holds another run, training diverged, the disk is full. What was saved is kept.
    """
    config.check()
    device = choose_device(config.device)
    origin = provenance()
    recorded = {
        name: value for name, value in dataclasses.asdict(config).items() if name not in ("out", "device", "seeds")
    }
    with folders.claimed(config.out, KIND, {**recorded, "device": str(device)}):
        runs = config.runs()
        found: list[dict[str, Any]] = []
        _tell_time(config, runs, device)
        for number, one in enumerate(runs):
            with progress_bar(f"{number + 1}/{len(runs)} {one.folder}", "step", one.steps) as bar:
                found.append(run_capacity(config.out, one, device, bar.reach))
            about = {
                "kind": KIND,
                "study": KIND,
                "version": __version__,
                "command": command_of(config, "capacity", ["out"]),
                "commit": origin["commit"],
            }
            content = {**about, "provenance": origin, "config": {**recorded, "seeds": config.seeds}, "runs": found}
            write_json(config.out / RESULTS, {**content, "summary": report.summarise(found)})
            last = found[-1]
            print(
                f"{one.folder}: {last['bits_per_parameter']:.3f} bits a parameter, {last['seconds']:.0f} s", flush=True
            )
    print(report.summary_table(found).plain())
    for line in report.verdicts(found):
        print(line)
    written = [config.out / RESULTS]
    if len(config.sizes) > 1:
        written += report.draw(found, config.out / "capacity")
    print(f"wrote {', '.join(path.name for path in written)} into {config.out}")


def _tell_time(config: CapacityConfig, runs: Sequence[CapacityRun], device: Any) -> None:
    """Say how long this will take: each kind of run is tried for a few steps."""
    open_runs = [one for one in runs if not (config.out / one.folder / "capacity.json").exists()]
    if not open_runs:
        return
    kinds = {dataclasses.replace(one, seed=config.seed): 0.0 for one in open_runs}
    for kind in kinds:
        kinds[kind] = seconds_per_step(kind, device)
    seconds = sum(kinds[dataclasses.replace(one, seed=config.seed)] * one.steps for one in open_runs)
    steps = sum(one.steps for one in open_runs)
    print(
        f"{len(open_runs)} of {len(runs)} runs to do, {steps:,} steps on {device}: about {_duration(seconds)} "
        f"(measured on a few steps of each kind; parts that were saved are not taken off)",
        flush=True,
    )


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )
