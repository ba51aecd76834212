"""Pages in, pages out: puts the tables of formulations and of metrics where a page asks for them. Knows none of either.

A new row shows up by itself.
"""

from __future__ import annotations

from html import escape

from decondense.geometry.metrics import METRICS
from decondense.losses.formulations import FORMULATIONS


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put each table in place of its placeholder; called by mkdocs for each page."""
    for name, table in (("formulations", formulation_table), ("metrics", metric_table)):
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
