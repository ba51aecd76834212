"""Names and numbers in, aligned text for a terminal, Markdown or LaTeX out. Must not know what the numbers mean.

A column is set to the right where all its cells are numbers, or texts that begin like one ("94.2 ± 1.3"), so that
digits line up.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from decondense.errors import UserError, choose

Cell = str | int | float | None

_NUMBER = re.compile(r"[+\-−±<>~]?\s?(\d|\.\d|nan\b|inf\b|[-–]$)", re.IGNORECASE)


@dataclass(frozen=True)
class Column:
    """A column: its heading, the format of its numbers (such as ".2f"), its alignment, "left", "right" or "auto"."""

    name: str
    format: str = ""
    align: str = "auto"

    def __post_init__(self) -> None:
        choose("align", self.align, ("auto", "left", "right"))


class Table:
    """Rows of cells under named columns; a cell is text, a number, or None where there is nothing to say.

    Raises `UserError` where a row has not one cell for each column, or a number does not fit its column's format.

    >>> table = Table(["arm", Column("perplexity", ".1f")], [["cross entropy", 114.34], ["dispersion", 94.0]])
    >>> print(table.plain())
    arm            perplexity
    -------------  ----------
    cross entropy       114.3
    dispersion           94.0
    """

    def __init__(self, columns: Sequence[Column | str], rows: Sequence[Sequence[Cell]]) -> None:
        self.columns = [column if isinstance(column, Column) else Column(column) for column in columns]
        for row in rows:
            if len(row) != len(self.columns):
                raise UserError(f"table: {len(self.columns)} cells in each row expected, given {len(row)}: {list(row)}")
        self.rows = [list(row) for row in rows]
        self.headings = [_clean(column.name) for column in self.columns]
        self.cells = [
            [_write(cell, column) for cell, column in zip(row, self.columns, strict=True)] for row in self.rows
        ]
        self.right = [self._is_right(index) for index in range(len(self.columns))]

    def plain(self, missing: str = "-") -> str:
        """Return the table as lines of equal columns for a terminal; `missing` stands where a cell is None."""
        rows = [[cell if cell is not None else missing for cell in row] for row in self.cells]
        widths = [max(map(_width, column)) for column in zip(self.headings, *rows, strict=True)]
        lines = [self.headings, ["-" * width for width in widths], *rows]
        return "\n".join("  ".join(map(_pad, line, widths, self.right)).rstrip() for line in lines)

    def markdown(self, missing: str = "–") -> str:
        """Return the table in Markdown, its source aligned too; what Markdown would read as markup is escaped.

        >>> print(Table(["name", "bits"], [["a|b", 8]]).markdown())
        | name | bits |
        | :--- | ---: |
        | a\\|b |    8 |
        """
        rows = [[_escape(cell) if cell is not None else missing for cell in row] for row in self.cells]
        headings = [_escape(heading) for heading in self.headings]
        widths = [max(4, *map(_width, column)) for column in zip(headings, *rows, strict=True)]
        rule = [
            "-" * (width - 1) + ":" if right else ":" + "-" * (width - 1)
            for width, right in zip(widths, self.right, strict=True)
        ]
        return "\n".join(
            "| " + " | ".join(map(_pad, line, widths, self.right)) + " |" for line in [headings, rule, *rows]
        )

    def latex(self, missing: str = "--") -> str:
        """Return the table as a LaTeX `tabular` with the rules of the booktabs package; what LaTeX would read as commands is escaped.

        >>> print(Table(["name", "bits"], [["a_b", 8]]).latex())
        \\begin{tabular}{lr}
        \\toprule
        name & bits \\\\
        \\midrule
        a\\_b & 8 \\\\
        \\bottomrule
        \\end{tabular}
        """
        rows = [[_escape_latex(cell) if cell is not None else missing for cell in row] for row in self.cells]
        lines = [" & ".join(line) + r" \\" for line in [list(map(_escape_latex, self.headings)), *rows]]
        places = "".join("r" if right else "l" for right in self.right)
        top = [rf"\begin{{tabular}}{{{places}}}", r"\toprule", lines[0], r"\midrule"]
        return "\n".join([*top, *lines[1:], r"\bottomrule", r"\end{tabular}"])

    def _is_right(self, index: int) -> bool:
        if self.columns[index].align != "auto":
            return self.columns[index].align == "right"
        values = [row[index] for row in self.rows if row[index] is not None]
        return bool(values) and all(not isinstance(value, str) or _NUMBER.match(value.strip()) for value in values)


def _write(cell: Cell, column: Column) -> str | None:
    if cell is None or isinstance(cell, str):
        return cell if cell is None else _clean(cell)
    if isinstance(cell, float) and not math.isfinite(cell):
        return str(cell)  # a format such as "," or "d" has no word for it
    try:
        return format(cell, column.format)
    except ValueError as error:
        raise UserError(
            f"table: column {column.name!r} has the format {column.format!r}, which cannot write {cell!r}"
        ) from error


def _clean(text: str) -> str:
    """Line breaks and control codes would break the rows, or reach the terminal as commands."""
    return "".join(character if character.isprintable() else " " for character in text)


def _escape(text: str) -> str:
    return re.sub(r"([\\|*`\[\]<])", r"\\\1", text)


_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "<": "$<$",
    ">": "$>$",
    "–": "--",
    "ρ": r"$\rho$",
    "×": r"$\times$",
}


def _escape_latex(text: str) -> str:
    # A hyphen before a digit is a minus sign.
    text = re.sub(r"(?<![\w.])-(?=\.?\d)", "−", text)
    return "".join(_LATEX.get(character, character) for character in text)


def _width(text: str) -> int:
    """Columns that `text` takes in a terminal: wide characters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def _pad(text: str, width: int, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space
