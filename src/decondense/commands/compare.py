"""`decondense compare`: folders of runs in; what their arms show, as sentences, tables, `results.json` and forest plots, out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from decondense import __version__
from decondense.commands import compare_report as report
from decondense.commands import folder as folders
from decondense.commands.measure_report import split
from decondense.errors import UserError, choose
from decondense.evaluate.alignment import ALL
from decondense.evaluate.comparing import AUTO, TESTS, compare_runs
from decondense.files import RESULTS, write_json
from decondense.report.canvas import FORMATS
from decondense.studies.command_line import command_of
from decondense.studies.provenance import provenance

KIND = "comparison"


@dataclass(frozen=True)
class CompareConfig:
    """Compare the arms of runs: means over seeds, paired differences with intervals and tests, effect sizes, ranks over tasks.

    A run is what demo, train, evaluate, quantize or capacity wrote: its folder, its results.json, or a folder of such folders. Arms must have the
    same seeds and tasks, evaluated alike. Prints sentences and a table; writes both, results.json, csv, LaTeX and a forest plot for each metric.
    """

    runs: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="")
    ]
    """Folder of a run, folder of such folders, or a results file."""

    baseline: Annotated[str | None, tyro.conf.arg(metavar="ARM")] = None
    """The arm that the others are compared with. By default cross_entropy."""

    tasks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")] = ()
    """Compare by these tasks alone."""

    metrics: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")] = ()
    """Compare by these metrics alone, each of them tested; by default all are shown and the main one of each task is tested."""

    seeds: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SEED [SEED ...]")] = (ALL,)
    """all (arms must have the same), common (those that all arms have), or numbers of seeds."""

    test: Annotated[str, tyro.conf.arg(metavar="NAME")] = AUTO
    """What differences are held to generalise to: seeds, items (of logged samples), both, or auto: both where samples were logged, else seeds."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/compare")
    """Folder for the results."""

    formats: Annotated[str, tyro.conf.arg(metavar="NAMES")] = "png,svg"
    """Of the figures: any of png, svg, pdf."""


def run(config: CompareConfig) -> None:
    """Do what `CompareConfig` says.

    Raises:
        UserError: there is nothing to compare, arms were not evaluated alike, or --out is not writable or holds something else.
    """
    if not config.runs:
        raise UserError("no RUN is given: name the folders of runs, as in decondense compare runs/train")
    choose("--test", config.test, TESTS)
    formats = split(config.formats)
    for name in formats:
        choose("--formats", name, FORMATS)
    comparison = compare_runs(config.runs, config.baseline, config.seeds, config.tasks, config.metrics, config.test)
    recorded = {
        "runs": list(config.runs),
        "baseline": comparison.baseline,
        "tasks": list(config.tasks),
        "metrics": list(config.metrics),
        "seeds": list(config.seeds),
        "test": config.test,
    }
    with folders.claimed(config.out, KIND, recorded):
        names = report.write(comparison, config.out, formats)
        content = {
            "kind": KIND,
            "version": __version__,
            "command": command_of(config, "compare", ["formats"]),
            "provenance": provenance(),
            "config": recorded,
            **comparison.summary(),
            "sentences": report.sentences(comparison),
        }
        # Written last: its presence says that all is there.
        write_json(config.out / RESULTS, content)
    print(report.table(comparison).plain())
    print(f"{report.caption(comparison)}\n")
    for line in report.short_sentences(comparison):
        print(line)
    print(f"wrote into {config.out}: {', '.join([RESULTS, *names])}")
