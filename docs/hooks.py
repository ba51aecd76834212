"""Pages in, pages out: puts the table of formulations where a page asks for it. Knows no formulation.

A new row shows up by itself.
"""

from __future__ import annotations

from html import escape

from decondense.losses.formulations import FORMULATIONS

PLACEHOLDER = "<!-- formulations -->"


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put the table in place of the placeholder; called by mkdocs for each page."""
    return markdown.replace(PLACEHOLDER, formulation_table()) if PLACEHOLDER in markdown else markdown


def formulation_table() -> str:
    """The rows of `FORMULATIONS` as a table of name, formula and source."""
    lines = ["| name | minimises | source |", "|---|---|---|"]
    name = '<code style="white-space: nowrap">{}</code>'.format
    lines += [
        f"| {name(_cell(row.name))} | <code>{_cell(row.formula)}</code> | {_cell(row.source)} |"
        for row in FORMULATIONS.values()
    ]
    return "\n".join(lines)


def _cell(text: str) -> str:
    # Bars would end the cell; stars and underscores would become emphasis.
    escaped = escape(text, quote=False)
    for character in "|*_":
        escaped = escaped.replace(character, f"&#{ord(character)};")
    return escaped
