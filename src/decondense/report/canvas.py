"""A drawing in, picture files and a csv out, all of them or none. Must not know what is drawn.

Figures are matplotlib `Figure` objects, never pyplot's: no window, no global state. While one is drawn matplotlib has
the settings below and not those of the user's matplotlibrc.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from decondense.errors import choose, require
from decondense.files import replace_file
from decondense.report import style

FORMATS = ("png", "svg", "pdf")

# Settings over matplotlib's own defaults. Text becomes outlines in SVG, so that it looks the same where the font is
# absent; the salt makes the names inside an SVG, and with that the file, the same for the same numbers.
_SETTINGS: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": [style.FONT_FAMILY],
    "font.size": style.SMALL_POINTS,
    "axes.titlesize": style.TITLE_POINTS,
    "axes.labelsize": style.LABEL_POINTS,
    "xtick.labelsize": style.SMALL_POINTS,
    "ytick.labelsize": style.SMALL_POINTS,
    "legend.fontsize": style.SMALL_POINTS,
    "text.color": style.THEMES["light"]["text"],
    "axes.labelcolor": style.THEMES["light"]["text"],
    "axes.edgecolor": style.THEMES["light"]["muted"],
    "xtick.color": style.THEMES["light"]["text"],
    "ytick.color": style.THEMES["light"]["text"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": style.THEMES["light"]["grid"],
    "grid.linewidth": 0.8,
    "lines.linewidth": 2.0,
    "text.parse_math": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "decondense",
    "pdf.fonttype": 42,
}


@contextmanager
def figure(width_inches: float, height_inches: float) -> Iterator[Any]:
    """Yield an empty figure; while the block runs, matplotlib has our settings and nobody else's."""
    matplotlib = require("matplotlib", extra="report")
    figures = require("matplotlib.figure", extra="report")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield figures.Figure(figsize=(width_inches, height_inches), dpi=style.DOTS_PER_INCH, layout="constrained")


def save(figure: Any, path: Path, formats: Sequence[str], header: list[str], rows: Iterable[list[Any]]) -> list[Path]:
    """Render `figure` in memory, then write all pictures and the csv: every one of them, or none."""
    contents: dict[str, bytes] = {}
    for name in formats:
        choose("format", name, FORMATS)
        # Without a date the same numbers give the same file.
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(name)
        with io.BytesIO() as buffer:
            figure.savefig(buffer, format=name, metadata=metadata)
            contents[name] = buffer.getvalue()
    contents["csv"] = csv_text([header, *rows]).encode()
    targets = {name: path.with_name(f"{path.name}.{name}") for name in contents}
    with ExitStack() as stack:
        for name, target in targets.items():
            stack.enter_context(replace_file(target)).write_bytes(contents[name])
    return list(targets.values())


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as csv, the first being the header; floats are written by repr, so reading them gives the same numbers back."""
    with io.StringIO(newline="") as text:
        csv.writer(text, lineterminator="\n").writerows(rows)
        return text.getvalue()
