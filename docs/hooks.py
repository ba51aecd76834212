"""Pages in, pages out: puts tables where a page asks for them, of formulations, of metrics, of results. Knows no row of them.

A new row shows up by itself.
"""

from __future__ import annotations

import json
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from decondense.geometry.metrics import METRICS
from decondense.losses.formulations import FORMULATIONS

RESULTS = Path(__file__).resolve().parent.parent / "results"


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put each table in place of its placeholder; called by mkdocs for each page."""
    tables = {
        "formulations": formulation_table,
        "metrics": metric_table,
        "compare-simulation": simulation_table,
        "updates": update_table,
        "updates that are wrong": lambda: update_table(mistakes=True),
    }
    for name, table in tables.items():
        placeholder = f"<!-- {name} -->"
        if placeholder in markdown:
            markdown = markdown.replace(placeholder, table())
    return markdown


def formulation_table() -> str:
    """The rows of `FORMULATIONS` as a table of name, formula and source."""
    return _table(
        ["name", "minimises", "source"], [[row.name, row.formula, row.source] for row in FORMULATIONS.values()]
    )


def metric_table() -> str:
    """The rows of `METRICS` as a table of name, what it is of, formula and source."""
    of = {"text": "a text", "layers": "layer means", "pairs": "all pairs", "texts": "all texts", "sample": "the sample"}
    rows = [[row.name, row.formula, of[row.level], row.source] for row in METRICS.values()]
    return _table(["name", "formula", "of", "source"], rows)


def simulation_table() -> str:
    """What `benchmarks/comparison.py` found, a row for each scenario and test, a column for each number of seeds."""
    content = json.loads((RESULTS / "compare-simulation.json").read_text(encoding="utf-8"))
    rows = content["rows"]
    seeds = list(dict.fromkeys(row["seeds"] for row in rows))
    lines = ["| scenario | test | found | " + " | ".join(f"{count} seeds" for count in seeds) + " |"]
    lines.append("|---|---|---|" + "---:|" * len(seeds))
    for scenario, test in dict.fromkeys((row["scenario"], row["test"]) for row in rows):
        chosen = [row for row in rows if (row["scenario"], row["test"]) == (scenario, test)]
        kinds = {"a task": "found", "any of ten tasks, corrected": "any_found_corrected"}
        if test == "average":
            kinds = {"the average of ten tasks": "found"}
        for found, name in kinds.items():
            shares = [f"{row[name]:.1%} ±{2 * row[f'{name}_error']:.1%}" for row in chosen]
            lines.append(f"| {scenario} | {test} | {found} | " + " | ".join(shares) + " |")
    return "\n".join(lines)


def update_table(mistakes: bool = False) -> str:
    """The rows of results/updates.json, those of `mistakes` or the others: a column for each accumulation.

    A cell is of the model that tells most against the row: the larger difference, of a mistake the smaller. Why a row was not run stands below.
    """
    found = json.loads((RESULTS / "updates.json").read_text(encoding="utf-8"))
    rows = [row for row in found["rows"] if row["group"].startswith("Mistakes") == mistakes]
    splits = sorted({row["accumulation"] for row in rows})
    heads = ["", *(f"{split} pass" + "es" * (split > 1) for split in splits)]
    lines = ["| " + " | ".join(heads) + " |", "|:---|" + "---:|" * len(splits)]
    for group, members in groupby(rows, lambda row: row["group"]):
        if not mistakes:
            lines.append(f"| **{_cell(group)}** |" + " |" * len(splits))
        for name, ways in groupby(members, lambda row: row["name"]):
            of_way = list(ways)
            cells = [_difference([row for row in of_way if row["accumulation"] == split]) for split in splits]
            lines.append(f"| {_cell(name)} | " + " | ".join(cells) + " |")
    left_out = {f"{row['group']}, {row['name']}: {row['not_run']}": None for row in rows if row["not_run"]}
    return "\n".join([*lines, *(f"\n{_cell(reason)}" for reason in left_out)])


def _difference(rows: list[dict[str, Any]]) -> str:
    if any(row["not_run"] for row in rows):
        return "not run"
    if not rows:
        return "–"
    worse = min if rows[0]["mistake"] else max
    value: float = worse(row["relative_difference"] for row in rows)
    return f"{value:.1f}" if value >= 0.1 else f"{value:.0e}"


def _table(heads: list[str], rows: list[list[str]]) -> str:
    name = '<code style="white-space: nowrap">{}</code>'.format
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for first, formula, *rest in rows:
        cells = [name(_cell(first)), f"<code>{_cell(formula)}</code>", *map(_cell, rest)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    # Bars would end the cell; stars and underscores would become emphasis.
    escaped = escape(text, quote=False)
    for character in "|*_":
        escaped = escaped.replace(character, f"&#{ord(character)};")
    return escaped
