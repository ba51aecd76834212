"""Rows of benchmarks are read from every layout, and what is broken is named with its file and line."""

import gzip
import json
from pathlib import Path

import pytest

from decondense.errors import UserError
from decondense.evaluate.benchmarks.files import Row, read_lines, read_rows

ROWS = [{"text": "one", "label": 1}, {"text": "two\nlines", "label": 2}]


def written(path: Path, content: str) -> Path:
    path.write_bytes(gzip.compress(content.encode()) if path.name.endswith(".gz") else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", "\n".join(map(json.dumps, ROWS)) + "\n\n"),
        ("rows.jsonl.gz", "\n".join(map(json.dumps, ROWS))),
        ("rows.json", json.dumps(ROWS, indent=2)),
        ("rows.json", json.dumps(ROWS)),
        ("lines.json", "\n".join(map(json.dumps, ROWS))),
    ],
)
def test_the_same_rows_come_from_each_layout(tmp_path: Path, name: str, content: str) -> None:
    assert [dict(row.fields) for row in read_rows(written(tmp_path / name, content))] == ROWS


def test_a_table_has_a_heading_or_numbers(tmp_path: Path) -> None:
    path = written(tmp_path / "table.csv", 'question,answer\n"one, or\ntwo",A\nthree,B\n')
    headed, bare = read_rows(path), read_rows(path, heading=False)
    assert [dict(row.fields) for row in headed] == [
        {"question": "one, or\ntwo", "answer": "A"},
        {"question": "three", "answer": "B"},
    ]
    assert headed[1].where == f"{path} line 4"
    assert bare[0].fields == {"0": "question", "1": "answer"}


def test_rows_of_parquet_are_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / "rows.parquet")
    assert [dict(row.fields) for row in read_rows(tmp_path / "rows.parquet")] == ROWS


def test_a_row_of_a_list_knows_the_line_where_it_begins(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.json", json.dumps(ROWS, indent=2))
    assert [row.where for row in read_rows(path)] == [f"{path} line 2", f"{path} line 6"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", '{"text": "one"}\n{"text": \n', "line 2 is not JSON"),
        ("rows.jsonl", '{"text": "one"}\n[1]\n', "line 2 is a list: an object with named fields is expected"),
        ("rows.json", '[\n {"text": "one"},\n {"text": two}\n]', "line 3 is not JSON"),
        ("rows.json", '[\n {"text": "one"},\n "two"]', "line 3 is a str"),
        ("rows.json", '[\n {"text": "one"},\n', "line 3 is not JSON: the list that the file begins with does not end"),
        ("table.csv", "a,b\n1,2\n3\n", "line 3 has 1 cells: the heading has 2"),
        ("table.csv", 'a,b\n"1,2\n', "cannot be read as a table"),
    ],
)
def test_what_is_broken_is_named_with_its_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = written(tmp_path / name, content)
    with pytest.raises(UserError, match=message) as raised:
        read_rows(path)
    assert str(raised.value).startswith(str(path))


def test_a_field_that_is_missing_or_of_another_kind_is_named() -> None:
    row = Row("file line 3", {"text": "one", "label": True})
    assert row.take("text") == "one"
    with pytest.raises(UserError, match="file line 3 has no field 'goal': its fields are text, label"):
        row.take("goal")
    with pytest.raises(UserError, match="file line 3: its field 'label' holds a bool, expected int or str"):
        row.take("label", (int, str))


def test_lines_are_numbered_and_blank_ones_left_out(tmp_path: Path) -> None:
    path = written(tmp_path / "labels.lst", "0\n\n1\n")
    assert read_lines(path) == [(f"{path} line 1", "0"), (f"{path} line 3", "1")]
