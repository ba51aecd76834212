"""The results of capacity runs in; their summary over seeds, a table, sentences and a figure out. Trains nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from decondense.evaluate.intervals import Estimate, mean_interval, paired_difference, write_estimate
from decondense.report.figures import curves
from decondense.report.series import Series
from decondense.report.tables import Column, Table

BASELINE = "cross_entropy"
LIMIT = 2.0
"""Bits a parameter that Allen-Zhu & Li 2024 find after 1,000 exposures; after 100 they find 1."""


def summarise(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each size and arm the mean over seeds with its t interval, and the difference to the baseline, paired by seed."""
    rows = []
    for size, arm in dict.fromkeys((one["size"], one["arm"]) for one in found):
        mine = {one["seed"]: one for one in found if (one["size"], one["arm"]) == (size, arm)}
        base = {one["seed"]: one for one in found if (one["size"], one["arm"]) == (size, BASELINE)}
        first = next(iter(mine.values()))
        row = {
            name: first[name]
            for name in (
                "size",
                "arm",
                "parameters",
                "people",
                "exposures",
                "dispersion_weight",
                "most_bits_per_parameter",
            )
        }
        for name in ("bits_per_parameter", "bits_per_parameter_without_embedding"):
            row[name] = dataclasses.asdict(mean_interval([one[name] for one in mine.values()]))
        row["mean_cosine"] = dataclasses.asdict(mean_interval([_blocks(one) for one in mine.values()]))
        both = [seed for seed in mine if seed in base]
        if arm != BASELINE and both:
            pairs = [[runs[seed]["bits_per_parameter"] for seed in both] for runs in (mine, base)]
            row["difference"] = dataclasses.asdict(paired_difference(*pairs))
        rows.append(row)
    return rows


def _blocks(one: dict[str, Any]) -> float:
    """Mean cosine over the layers that a loss acts on: all but the embeddings."""
    layers: list[float] = one["mean_cosine"][1:]
    return sum(layers) / len(layers)


def summary_table(found: Sequence[dict[str, Any]]) -> Table:
    """A row for each size and arm."""
    columns: list[Column | str] = [
        Column("size", align="left"),
        Column("parameters", ","),
        Column("people", ","),
        "arm",
    ]
    columns += [
        Column(name, align="right")
        for name in ("bits/parameter", "difference (paired)", "without embedding", "at most", "mean cosine")
    ]
    rows = []
    for row in summarise(found):
        difference = row.get("difference")
        rows.append(
            [
                *(row[name] for name in ("size", "parameters", "people", "arm")),
                write_estimate(row["bits_per_parameter"], ".3f"),
                None if difference is None else write_estimate(difference, "+.3f"),
                write_estimate(row["bits_per_parameter_without_embedding"], ".3f"),
                f"{row['most_bits_per_parameter']:.2f}",
                write_estimate(row["mean_cosine"], ".2f"),
            ]
        )
    return Table(columns, rows)


def verdicts(found: Sequence[dict[str, Any]]) -> list[str]:
    """One sentence a size on what the loss did, and no more than its seeds can tell."""
    lines = []
    for row in summarise(found):
        if "difference" not in row:
            continue
        difference = Estimate(**row["difference"])
        arm = f"{row['arm']} at weight {row['dispersion_weight']:g}"
        what = f"{row['size']}, {row['people']} people: {arm} changes bits a parameter by {difference.mean:+.3f}"
        if difference.count == 1:
            lines.append(f"{what} at one seed, which tells no interval")
        else:
            says = "" if difference.excludes_zero else ", within noise"
            lines.append(
                f"{what} (95 % interval {difference.low:+.3f} to {difference.high:+.3f}, {difference.count} seeds{says})"
            )
    return lines


def draw(found: Sequence[dict[str, Any]], path: Path) -> list[Path]:
    """Bits a parameter against parameters, a line an arm, with the 2 bits of the paper; returns the paths written."""
    rows = summarise(found)
    lines = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        mine = sorted((row for row in rows if row["arm"] == arm), key=lambda row: row["parameters"])
        estimates = [row["bits_per_parameter"] for row in mine]
        ends: list[list[float] | None] = [None, None]
        if all(one["low"] is not None for one in estimates):
            ends = [[one[end] for one in estimates] for end in ("low", "high")]
        lines.append(Series(arm, [row["parameters"] for row in mine], [one["mean"] for one in estimates], *ends))
    span = sorted({row["parameters"] for row in rows})
    lines.append(Series("2 bits (the paper)", [span[0], span[-1]], [LIMIT, LIMIT]))
    exposures = found[0]["exposures"]
    label = f"bits a parameter after {exposures:,} exposures"
    # Within a decade a logarithmic axis has hardly a number to show.
    scale = "log" if span[-1] >= 10 * span[0] else "linear"
    return curves(lines, path, x_label="parameters", y_label=label, x_scale=scale)
