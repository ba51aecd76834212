"""Results of a demo in, its table, pictures and page out. Computes nothing but what a picture needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decondense.evaluate.intervals import mean_interval, write_estimate
from decondense.report import figures
from decondense.report.page import Section, write_page
from decondense.report.sections import (
    curve_section,
    details_section,
    heatmap_section,
    table_section,
    text_section,
    trajectory_section,
)
from decondense.report.series import Series, Trajectory
from decondense.report.tables import Column, Table
from decondense.studies.command_line import command_line
from decondense.studies.twins import Arm, read_condensation

LABELS = {"cross_entropy": "cross entropy", "effective_rank": "effective rank"}


def write(out: Path, results: dict[str, Any]) -> None:
    """Draw the pictures and the page of `results` into `out`. Heatmaps and trajectories are those of the first seed."""
    seed = results["config"]["seed"]
    first = [arm for arm in results["arms"] if arm["seed"] == seed]
    titles = [label(arm["name"]) for arm in first]
    measured = [read_condensation(out / Arm(arm["name"], None, 0.0, seed).folder) for arm in first]
    trajectories = [
        Trajectory(
            label(arm["name"]),
            [seen["step"] for seen in arm["history"]],
            [seen["mean_cosine"] for seen in arm["history"]],
        )
        for arm in first
    ]
    curves = perplexity_curves(results)
    figures.heatmaps(measured, titles, out / "heatmaps")
    figures.trajectory(trajectories, out / "trajectory")
    figures.curves(
        curves, out / "perplexity", x_label="step", y_label="held-out perplexity", x_scale="steps", y_scale="log"
    )
    of_seed = f" Of seed {seed}." if results["config"]["seeds"] > 1 else ""
    sections: list[Section] = [
        text_section("Verdict", results["verdict"], emphasis=True),
        table_section("Arms", summary_table(results), caption=caption(results)),
        curve_section(
            curves,
            "step",
            "held-out perplexity",
            heading="Prediction of held-out text over training",
            text="What holds at one budget need not hold at another: compare the arms along the whole curve.",
            x_scale="steps",
            y_scale="log",
        ),
        trajectory_section(
            trajectories,
            text="Condensation is worst when a model has learnt little but how frequent words are." + of_seed,
        ),
        heatmap_section(measured, titles, text=of_seed.strip()),
        details_section(
            "How this was made", {**results["settings"], **results["provenance"]}, command=results["command"]
        ),
    ]
    subtitle = f"decondense {results['provenance']['decondense']}: a tiny GPT-2 on the text that comes with Python, with and without dispersion"
    write_page(out / "report.html", "decondense demo", sections, subtitle)


def label(name: str) -> str:
    """An arm's name for people."""
    return LABELS.get(name, name)


def summary_table(results: dict[str, Any]) -> Table:
    """One row an arm; with several seeds means, half widths of 95 % t intervals, and the paired difference in perplexity."""
    several = results["config"]["seeds"] > 1
    columns = [Column("arm", align="left"), Column("perplexity", align="right")]
    if several:
        columns.append(Column("difference (paired)", align="right"))
    columns += [
        Column(name, align="right") for name in ("bits/byte", "cosine first", "middle", "last", "rho", "seconds")
    ]
    rows = []
    for row in results["summary"]:
        cells: list[str | None] = [label(row["name"]), write_estimate(row["perplexity"], ".1f")]
        if several:
            difference = row.get("perplexity_difference")
            cells.append(write_estimate(difference, "+.1f") if difference else None)
        cells += [
            write_estimate(row["bits_per_byte"], ".3f"),
            write_estimate(row["mean_cosine_first"], ".3f"),
            write_estimate(row["mean_cosine_middle"], ".3f"),
            write_estimate(row["mean_cosine_last"], ".3f"),
            format(row["spearman"]["mean"], "+.2f"),
            format(row["seconds"]["mean"], ".0f"),
        ]
        rows.append(cells)
    return Table(columns, rows)


def caption(results: dict[str, Any]) -> str:
    """What the summary table shows."""
    seeds = results["config"]["seeds"]
    if seeds == 1:
        return "Each arm on held-out text at the end of training"
    return (
        f"Each arm on held-out text at the end of training: means over {seeds} seeds, ± half of the 95 % t interval; "
        "differences are to cross entropy, paired by seed"
    )


def perplexity_curves(results: dict[str, Any]) -> list[Series]:
    """Held-out perplexity of each arm over steps, the mean over seeds with its t interval."""
    series = []
    for name in dict.fromkeys(arm["name"] for arm in results["arms"]):
        histories = [arm["history"] for arm in results["arms"] if arm["name"] == name]
        steps = [seen["step"] for seen in histories[0]]
        estimates = [
            mean_interval([history[index]["perplexity"] for history in histories]) for index in range(len(steps))
        ]
        low = high = None
        if len(histories) > 1:
            low, high = [estimate.low for estimate in estimates], [estimate.high for estimate in estimates]
        series.append(Series(label(name), steps, [estimate.mean for estimate in estimates], low, high))
    return series


def command(config: Mapping[str, Any]) -> str:
    """The command that makes this run again."""
    return command_line(["decondense", "demo"], {name: value for name, value in config.items() if name != "workers"})
