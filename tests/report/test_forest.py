"""A forest plot shows what it is given: where marks, bars and points lie, what is filled, and the same numbers in the csv."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from decondense.errors import UserError
from decondense.report import canvas
from decondense.report.forest import ForestRow, forest

ROWS = [
    ForestRow("piqa", "dispersion", 0.1, 0.05, 0.15, (0.08, 0.12), clear=True),
    ForestRow("piqa", "effective_rank", -0.02, -0.06, 0.02, (0.0, -0.04)),
    ForestRow("arc_easy", "dispersion", 0.3, note="1 seed"),
]


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draw rows, and return the axes."""

    def draw(rows):
        kept = []
        save = canvas.save
        monkeypatch.setattr(canvas, "save", lambda figure, *more: kept.append(figure) or save(figure, *more))
        forest(rows, tmp_path / "forest", "difference", formats=("svg",))
        return kept[0].axes[0]

    return draw


def test_marks_and_bars_lie_where_the_numbers_say(drawn):
    axes = drawn(ROWS)
    marks = [line for line in axes.lines if line.get_marker() not in ("None", "|") and len(line.get_xdata()) == 1]
    assert [line.get_xdata()[0] for line in marks] == [0.1, -0.02, 0.3]
    assert [line.get_markerfacecolor() == line.get_color() for line in marks] == [True, False, False]
    bars = [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "None" and len(line.get_xdata()) == 2]
    assert [0.05, 0.15] in bars and [-0.06, 0.02] in bars
    points = [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "|"]
    assert points == [[0.08, 0.12], [0.0, -0.04], []]
    heights = [line.get_ydata()[0] for line in marks]
    assert heights == sorted(heights) and axes.yaxis_inverted()
    assert [text.get_text() for text in axes.get_yticklabels()] == ["dispersion", "effective rank", "dispersion"]
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["+0.10 [+0.05, +0.15]", "−0.02 [−0.06, +0.02]", "+0.30  1 seed", "piqa", "arc_easy"]


def test_one_line_a_group_is_named_by_the_group(drawn):
    axes = drawn([ROWS[0], ROWS[2]])
    assert [text.get_text() for text in axes.get_yticklabels()] == ["piqa", "arc_easy"]
    assert [text.get_text() for text in axes.texts] == ["+0.10 [+0.05, +0.15]", "+0.30  1 seed"]


def test_files_hold_the_numbers(tmp_path: Path):
    written = forest(ROWS, tmp_path / "forest-acc", "difference")
    assert sorted(path.name for path in written) == ["forest-acc.csv", "forest-acc.png", "forest-acc.svg"]
    rows = list(csv.DictReader((tmp_path / "forest-acc.csv").read_text().splitlines()))
    assert [float(row["value"]) for row in rows] == [0.1, -0.02, 0.3]
    assert (rows[2]["low"], rows[1]["clear"], rows[0]["points"]) == ("", "False", "0.08 0.12")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "there is no difference to draw"),
        ([replace(ROWS[0], high=None)], "dispersion of piqa: an interval needs low and high"),
        ([replace(ROWS[0], value=float("nan"))], "dispersion of piqa: a number is not finite"),
        ([replace(ROWS[0], low=0.5)], "low lies above high; are they swapped?"),
    ],
)
def test_what_cannot_be_drawn_leaves_nothing(rows, message, tmp_path):
    with pytest.raises(UserError, match=message):
        forest(rows, tmp_path / "forest", "difference")
    assert list(tmp_path.iterdir()) == []
