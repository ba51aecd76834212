"""Sections in, one HTML file out that works offline and asks nothing of the network. Must not know what they say.

The page holds plotly's script once, its own style and script, and the figures as JSON. All that comes from data is
escaped by jinja2. A content security policy forbids every request and lets run only the two scripts whose hashes it
names, so that markup in a model's name or a text could do nothing even if it were not escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from decondense.errors import UserError, require
from decondense.files import write_text
from decondense.report import plots, style
from decondense.report.sections import (
    Block,
    Code,
    Details,
    Grid,
    Plots,
    Scale,
    Section,
    Text,
    curve_section,
    details_section,
    heatmap_section,
    table_section,
    text_section,
    trajectory_section,
)

__all__ = [
    "Block",
    "Code",
    "Details",
    "Grid",
    "Plots",
    "Scale",
    "Section",
    "Text",
    "curve_section",
    "details_section",
    "heatmap_section",
    "table_section",
    "text_section",
    "trajectory_section",
    "write_page",
]

TEMPLATES = Path(__file__).parent / "templates"


def write_page(path: Path, title: str, sections: Sequence[Section], subtitle: str = "") -> Path:
    """Write one self-contained page and return its path.

    Args:
        path: the HTML file to write, all of it or nothing.
        title: what stands in the browser's tab and at the top.
        sections: as the `..._section` functions return them, in the order in which they are read.
        subtitle: one line under the title, such as what was run and when.

    Raises:
        UserError: where there is no section.

    A page with plots is about 5 MB, nearly all of it plotly's script.
    """
    if not sections:
        raise UserError("a page needs at least one section")
    jinja2 = require("jinja2", extra="report")
    markup = require("markupsafe", extra="report").Markup
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["identity"] = id
    panels = [panel for section in sections for panel in _panels(section.blocks)]
    scripts = [(TEMPLATES / "page.js").read_text(encoding="utf-8")]
    if panels:
        # A browser hashes a script after turning every line end into \n, so that is the form to write and to hash.
        scripts.insert(0, require("plotly.offline", extra="report").get_plotlyjs().replace("\r\n", "\n"))
    text = environment.get_template("page.html.jinja").render(
        title=title,
        subtitle=subtitle,
        sections=sections,
        # A plot on the page and its figure in the JSON know each other by this number.
        numbers={id(panel): index for index, panel in enumerate(panels)},
        figures=[{"figure": panel.figure, "dark": panel.dark} for panel in panels],
        themes=style.THEMES,
        css=markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        scripts=[markup(script) for script in scripts],
        hashes=[_hash(script) for script in scripts],
    )
    write_text(path, text)
    return path


def _panels(blocks: Sequence[Block]) -> Iterator[plots.Panel]:
    for block in blocks:
        if isinstance(block, Plots):
            yield from block.panels
        elif isinstance(block, Details):
            yield from _panels(block.blocks)


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
