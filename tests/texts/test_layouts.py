"""Each layout of file gives its texts, and each fault in one is an error of one line that says where."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from decondense.errors import UserError
from decondense.texts.layouts import FIELDS, read

TEXTS = ["One, two.", 'Three "four"', "naïve – 文字"]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def json_lines(records: list[dict[str, object]]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def squad(texts: list[str]) -> str:
    articles = [{"title": "t", "paragraphs": [{"context": text, "qas": []}]} for text in texts]
    return json.dumps({"version": "1.1", "data": articles})


def table(separator: str) -> str:
    rows = ['"' + text.replace('"', '""') + '"' for text in TEXTS]
    return "\n".join(
        [separator.join(["label", "text"]), *(separator.join([str(n), row]) for n, row in enumerate(rows))]
    )


LAYOUTS: dict[str, Callable[[], str]] = {
    "a.txt": lambda: "\n".join(TEXTS),
    "no-suffix": lambda: "\n".join(TEXTS),
    "blank-lines.txt": lambda: "\n\n  " + "  \n \n".join(TEXTS) + "\n\n",
    "windows.txt": lambda: "\ufeff" + "\r\n".join(TEXTS),
    "a.jsonl": lambda: json_lines([{"label": 1, "text": text} for text in TEXTS]),
    "blank.jsonl": lambda: (
        "\n" + json_lines([{"text": text} for text in ["", *TEXTS]]) + json_lines([{"text": None}, {}])
    ),
    "array.json": lambda: json.dumps([{"text": text} for text in TEXTS]),
    "data.json": lambda: json.dumps({"data": [{"text": text} for text in TEXTS]}),
    "lines.json": lambda: json_lines([{"text": text} for text in TEXTS]),
    "squad.json": lambda: squad(TEXTS),
    "a.csv": lambda: table(","),
    "a.tsv": lambda: table("\t"),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("zipped", [False, True])
def test_each_layout_gives_its_texts(tmp_path: Path, name: str, zipped: bool) -> None:
    content = LAYOUTS[name]().encode()
    path = write(tmp_path / (f"{name}.gz" if zipped else name), gzip.compress(content) if zipped else content)
    assert read(path) == TEXTS


def test_parquet_gives_its_texts(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "a.parquet"
    datasets.Dataset.from_dict({"label": [0, 1, 2, 3], "text": [*TEXTS, None]}).to_parquet(path)
    assert read(path) == TEXTS


@given(st.lists(st.text(), min_size=1))
def test_json_lines_give_what_was_written(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("layouts") / "a.jsonl"
    path.write_text(json_lines([{"text": text.encode(errors="replace").decode()} for text in texts]), encoding="utf-8")
    kept = [text.encode(errors="replace").decode().strip() for text in texts]
    if any(kept):
        assert read(path) == [text for text in kept if text]
    else:
        with pytest.raises(UserError, match="no text"):
            read(path)


def test_the_text_is_in_the_first_field_that_is_known_and_holds_text(tmp_path: Path) -> None:
    for place, field in enumerate(FIELDS):
        # PubMedQA's hub form has a `context` that is no text, beside a `long_answer` that is.
        record = {**dict.fromkeys(FIELDS[:place], 1), **{name: f"in {name}" for name in FIELDS[place:]}}
        assert read(write(tmp_path / "a.jsonl", json_lines([record]))) == [f"in {field}"]


def test_a_field_can_be_chosen(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", json_lines([{"text": "no", "question": "yes?"}]))
    assert read(path, field="question") == ["yes?"]


def test_numbers_in_a_table_stay_as_they_are_written(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.csv", "text\n007\nNA\n1.50\n")) == ["007", "NA", "1.50"]


BAD = {
    "empty.txt": (b"", "is empty"),
    "blank.txt": (b" \n\n\t", "holds no text"),
    "latin.txt": ("na\u00efve".encode("latin-1"), "not UTF-8: byte 2 is 0xef"),
    "sixteen.jsonl": ('{"text": "a"}'.encode("utf-16"), "not UTF-8: byte 0 is 0xff"),
    "cut.txt.gz": (gzip.compress(b"some text that is long enough")[:-6], "not a whole gzip file"),
    "plain.txt.gz": (b"some text", "not a whole gzip file"),
    "bad.jsonl": (b'{"text": "a"}\n\n{"text": \n', "bad.jsonl line 3 is not JSON: Expecting value at column 9"),
    "list.jsonl": (b'{"text": "a"}\n["a"]\n', "list.jsonl line 2 is a list"),
    "fields.jsonl": (b'{"title": "a", "body": "b"}\n', "its fields are title, body"),
    "numbers.jsonl": (b'{"text": 3}\n', "none of the fields text"),
    "mixed.jsonl": (b'{"text": "a"}\n{"text": ["b"]}\n', "mixed.jsonl line 2: its field 'text' holds a list, not text"),
    "blank.jsonl": (b'{"text": ""}\n{"text": null}\n', "holds no text"),
    "digits.jsonl": (b'{"text": ' + b"1" * 5000 + b"}", "line 1 is not JSON that can be read"),
    "deep.jsonl": (b"[" * 100_000, "line 1 is not JSON that can be read"),
    "bad.json": (b'[{"text": "a"}', "not JSON"),
    "number.json": (b"3", "one int"),
    "strings.json": (b'["a", "b"]', "item 0 is a str"),
    "none.json": (b"[]", "holds no records"),
    "fields.json": (b'{"data": [{"paragraphs": [{"question": "a"}]}]}', "its fields are question"),
    "ragged.csv": (b'text\na\n"b', "cannot be read as a table"),
    "headless.csv": (b"a,b\n1,2\n", "its fields are a, b"),
    "short.csv": (b"text\n", "holds no records"),
    "bad.parquet": (b"PAR1 but nothing else", "cannot be read as parquet"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_fault_is_one_line_that_names_the_file(tmp_path: Path, name: str) -> None:
    content, message = BAD[name]
    with pytest.raises(UserError) as raised:
        read(write(tmp_path / name, content))
    assert message in str(raised.value)
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_field_that_is_not_there_is_an_error_that_lists_the_fields(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", json_lines([{"text": "a"}, {"title": "b"}]))
    with pytest.raises(UserError, match="has no field 'txt': its fields are text, title"):
        read(path, field="txt")


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: "):
        read(tmp_path)
