"""Pages in, pages out: puts tables where a page asks for them: of formulations, of metrics, of what a simulation found. Knows none of these.

A new row shows up by itself.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

from decondense.geometry.metrics import METRICS
from decondense.losses.formulations import FORMULATIONS

RESULTS = Path(__file__).resolve().parent.parent / "results"


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put each table in place of its placeholder; called by mkdocs for each page."""
    tables = {"formulations": formulation_table, "metrics": metric_table, "compare-simulation": simulation_table}
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
