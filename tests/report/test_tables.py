"""Tables line up in a terminal and stay tables in Markdown, whatever their cells hold."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decondense.errors import UserError
from decondense.report.tables import Column, Table

CELLS = st.one_of(st.none(), st.text(max_size=12), st.integers(), st.floats())


def test_numbers_are_set_to_the_right_and_names_to_the_left() -> None:
    table = Table(
        ["arm", Column("perplexity", ".1f"), "difference", Column("seed", align="left")],
        [["cross entropy", 114.34, None, 0], ["dispersion", 94.0, "−20.3 [−25.1, −15.5]", 10]],
    )
    assert table.plain().split("\n") == [
        "arm            perplexity            difference  seed",
        "-------------  ----------  --------------------  ----",
        "cross entropy       114.3                     -  0",
        "dispersion           94.0  −20.3 [−25.1, −15.5]  10",
    ]


def test_a_column_of_names_that_begin_with_letters_is_no_column_of_numbers() -> None:
    assert Table(["a", "b"], [["x1", "12 %"], ["3", "-"]]).right == [False, True]


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=4))
def test_every_line_is_as_wide_as_the_rule(rows: list[tuple[object, ...]]) -> None:
    table = Table([Column("one", align="left"), "two", Column("three", align="right")], rows)  # type: ignore[arg-type]
    lines = table.plain().split("\n")
    assert len(lines) == len(rows) + 2

    def width(line: str) -> int:
        return sum(0 if unicodedata.combining(x) else 2 if unicodedata.east_asian_width(x) in "WF" else 1 for x in line)

    # The last column is set to the right, so that no line ends in padding, unless the cell itself ends in a space.
    assert all(width(line) <= width(lines[1]) for line in lines)
    assert all(
        width(line) == width(lines[1])
        for line, row in zip(lines[2:], rows, strict=True)
        if isinstance(row[2], float | int)
    )
    assert all(character.isprintable() for line in lines for character in line)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=4))
def test_markdown_has_as_many_cells_as_columns(rows: list[tuple[object, ...]]) -> None:
    lines = Table(["one", "two"], rows).markdown().split("\n")  # type: ignore[arg-type]
    assert len(lines) == len(rows) + 2
    for line in lines:
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 3


def test_what_is_not_a_number_is_said_in_words_even_where_the_format_has_none() -> None:
    assert Table([Column("tokens", ",d")], [[1_000_000], [float("nan")]]).cells == [["1,000,000"], ["nan"]]


def test_control_codes_do_not_reach_the_terminal() -> None:
    assert Table(["model"], [["a\x1b[2Jb\nc"]]).plain().split("\n")[2] == "a [2Jb c"


def test_a_row_that_does_not_fit_is_named() -> None:
    with pytest.raises(UserError, match=r"2 cells in each row expected, given 1: \[3\]"):
        Table(["a", "b"], [[3]])


def test_a_format_that_cannot_write_a_number_is_named() -> None:
    with pytest.raises(UserError, match=r"column 'steps' has the format 'd', which cannot write 1\.5"):
        Table([Column("steps", "d")], [[1.5]])


def test_an_unknown_alignment_is_named() -> None:
    with pytest.raises(UserError, match="align 'centre' is not known"):
        Column("a", align="centre")


def test_latex_escapes_and_sets_numbers_to_the_right() -> None:
    table = Table(["a_b & c", Column("x", ".1f"), "y"], [["50% of $_{}", 1.25, "-32.7 ±4.9"], ["~^\\", None, "<0.001"]])
    assert table.latex().splitlines() == [
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"a\_b \& c & x & y \\",
        r"\midrule",
        r"50\% of \$\_\{\} & 1.2 & $-$32.7 $\pm$4.9 \\",
        r"\textasciitilde{}\textasciicircum{}\textbackslash{} & -- & $<$0.001 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
