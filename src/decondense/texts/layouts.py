"""The path of one file in, the texts of its records out. Knows the layouts of files, and nothing of what comes after.

Text: a record a line. JSON lines, JSON (a list of objects, or SQuAD's articles of paragraphs), CSV, TSV and parquet:
records with fields, of which one holds the text. All but parquet may be gzipped. Blank records are skipped.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from decondense.errors import UserError, require

FIELDS = ("text", "long_answer", "context", "story", "content")
SUFFIXES = (
    ".txt",
    ".txt.gz",
    ".jsonl",
    ".jsonl.gz",
    ".json",
    ".json.gz",
    ".csv",
    ".csv.gz",
    ".tsv",
    ".tsv.gz",
    ".parquet",
)

# A record with fields, and where it stands, for the reader of an error.
Row = tuple[str, Mapping[str, Any]]


def read(path: Path, field: str | None = None) -> list[str]:
    """The texts of a file's records, stripped; what it holds is told by its suffix, unknown ones are read as text.

    Args:
        path: the file.
        field: the field that holds the text, where records have fields; by default the first of `FIELDS` with text.

    Raises:
        UserError: the file is empty, damaged, not UTF-8 or not of the layout its suffix says; there is no such field.
    """
    kind = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    if kind == "parquet":
        return _pick(path, parquet_rows(path), field)
    content = decode(path)
    if kind == "jsonl":
        return _pick(path, _json_lines(path, content), field)
    if kind == "json":
        return _pick(path, _json(path, content), field)
    if kind in ("csv", "tsv"):
        return _pick(path, _table(path, content, "," if kind == "csv" else "\t"), field)
    return _with_text(path, _lines(content))


def decode(path: Path) -> str:
    """The text of a file, unpacked where its name ends in .gz; `UserError` where it is empty, damaged or not UTF-8."""
    try:
        content = path.read_bytes()
        if path.name.endswith(".gz"):
            content = gzip.decompress(content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(
            f"{path} is not a whole gzip file ({error}): copy it again, or give the file unpacked"
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    if not content:
        raise UserError(f"{path} is empty: give a file with text in it")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8: byte {error.start} is 0x{content[error.start]:02x}; convert it, "
            "for example with iconv --from-code=LATIN1 --to-code=UTF-8"
        ) from error


def _lines(content: str) -> list[str]:
    # Line ends of all systems; str.splitlines would cut at form feeds and at separators inside a JSON string too.
    return list(io.StringIO(content, newline=None))


def _with_text(path: Path, texts: Sequence[str]) -> list[str]:
    stripped = [text.strip() for text in texts]
    if not any(stripped):
        raise UserError(f"{path} holds no text: all of its records are blank")
    return [text for text in stripped if text]


def parse_json(where: str, content: str) -> Any:
    """What `content` holds; `UserError` that says `where` it is no JSON."""
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON that can be read: {error}") from error


def _json_lines(path: Path, content: str) -> list[Row]:
    return [
        _row(f"{path} line {number}", parse_json(f"{path} line {number}", line.rstrip()))
        for number, line in enumerate(_lines(content), start=1)
        if line.strip()
    ]


def _json(path: Path, content: str) -> list[Row]:
    try:
        whole = json.loads(content)
    except json.JSONDecodeError:
        # JSON lines are often called .json; and where it is neither, their error names the line.
        return _json_lines(path, content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON that can be read: {error}") from error
    records = whole.get("data") if isinstance(whole, dict) and "data" in whole else whole
    if isinstance(records, dict):
        records = [records]
    if not isinstance(records, list):
        raise UserError(
            f"{path} is neither a list of objects nor in SQuAD's layout: it is one {type(records).__name__}"
        )
    rows = [_row(f"{path} item {number}", record) for number, record in enumerate(records)]
    if rows and all(isinstance(record.get("paragraphs"), list) for _, record in rows):
        return [
            _row(f"{where} paragraph {number}", paragraph)
            for where, article in rows
            for number, paragraph in enumerate(article["paragraphs"])
        ]
    return rows


def _row(where: str, record: Any) -> Row:
    if not isinstance(record, dict):
        raise UserError(f'{where} is a {type(record).__name__}: an object such as {{"text": "..."}} is expected')
    return where, record


def _table(path: Path, content: str, separator: str) -> list[Row]:
    pandas = require("pandas", extra="hf")
    try:
        # Everything as it is written: "1" stays text and "NA" is no missing value.
        table = pandas.read_csv(io.StringIO(content), sep=separator, dtype=str, keep_default_na=False)
    except ValueError as error:
        raise UserError(f"{path} cannot be read as a table: {str(error).strip()}") from error
    return [(f"{path} row {number}", record) for number, record in enumerate(table.to_dict("records"), start=1)]


def parquet_rows(path: Path) -> list[Row]:
    """The rows of a parquet file, each with where it stands."""
    parquet = require("pyarrow.parquet", extra="hf")
    try:
        records = parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        first, *_ = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{path} cannot be read as parquet: {first}") from error
    return [(f"{path} row {number}", record) for number, record in enumerate(records)]


def _pick(path: Path, rows: Sequence[Row], field: str | None) -> list[str]:
    """The text of one field of every record; a record without it counts as blank."""
    if not rows:
        raise UserError(f"{path} holds no records: give a file with text in it")
    names = dict.fromkeys(name for _, record in rows for name in record)
    if field is None:
        usable = [name for name in FIELDS if any(isinstance(record.get(name), str) for _, record in rows)]
        if not usable:
            raise UserError(
                f"{path} has none of the fields {', '.join(FIELDS)} with text: its fields are {', '.join(names)}; "
                "choose one with --field NAME"
            )
        field = usable[0]
    elif field not in names:
        raise UserError(f"{path} has no field {field!r}: its fields are {', '.join(names)}")
    texts = []
    for where, record in rows:
        value = record.get(field)
        if value is not None and not isinstance(value, str):
            raise UserError(
                f"{where}: its field {field!r} holds a {type(value).__name__}, not text; --field NAME chooses another"
            )
        texts.append(value or "")
    return _with_text(path, texts)
