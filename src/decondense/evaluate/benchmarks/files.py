"""A file of a benchmark in, its rows out, each with the file and the line where it stands. Knows no benchmark."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from decondense.errors import UserError
from decondense.texts import layouts

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".parquet")


@dataclass(frozen=True)
class Row:
    """One record of a file.

    Attributes:
        where: the file and the line, for the reader of an error.
        fields: what it holds, by name; of a table without a heading by number, from "0".
    """

    where: str
    fields: Mapping[str, Any]

    def take(self, name: str, kind: type | tuple[type, ...] = str) -> Any:
        """The value of a field; `UserError` where it is missing or of another kind."""
        if name not in self.fields:
            raise UserError(f"{self.where} has no field {name!r}: its fields are {', '.join(map(str, self.fields))}")
        value = self.fields[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            raise UserError(
                f"{self.where}: its field {name!r} holds a {type(value).__name__}, expected {' or '.join(one.__name__ for one in kinds)}"
            )
        return value


# The 57 subjects of MMLU, or the splits of one file, are read one by one from it.
@lru_cache(maxsize=16)
def read_rows(path: Path, heading: bool = True) -> tuple[Row, ...]:
    """The rows of a JSON lines, JSON (a list of objects), CSV or parquet file, all but the last also gzipped.

    Raises:
        UserError: it is empty, damaged, or a line is not what the layout says; names the line.
    """
    name = path.name.lower()
    if name.endswith(".parquet"):
        return tuple(Row(where, fields) for where, fields in layouts.parquet_rows(path))
    content = layouts.decode(path)
    if name.removesuffix(".gz").endswith(".csv"):
        return _table(path, content, heading)
    if content.lstrip().startswith("["):
        return _list(path, content)
    lines = enumerate(io.StringIO(content, newline=None), start=1)
    return tuple(_object(f"{path} line {number}", line.rstrip()) for number, line in lines if line.strip())


def read_lines(path: Path) -> list[tuple[str, str]]:
    """The lines of a text file, stripped, each with where it stands."""
    lines = enumerate(io.StringIO(layouts.decode(path), newline=None), start=1)
    return [(f"{path} line {number}", line.strip()) for number, line in lines if line.strip()]


def _object(where: str, content: str) -> Row:
    return _row(where, layouts.parse_json(where, content))


def _row(where: str, value: Any) -> Row:
    if not isinstance(value, dict):
        raise UserError(f"{where} is a {type(value).__name__}: an object with named fields is expected")
    return Row(where, value)


def _list(path: Path, content: str) -> tuple[Row, ...]:
    """Items one by one, so that each is known by its line, as is the first that is broken."""
    decoder = json.JSONDecoder()
    rows: list[Row] = []
    place, line = content.index("[") + 1, 1
    counted = 0
    while True:
        while place < len(content) and content[place] in " \t\r\n,":
            place += 1
        line, counted = line + content.count("\n", counted, place), place
        where = f"{path} line {line}"
        if place == len(content):
            raise UserError(f"{where} is not JSON: the list that the file begins with does not end")
        if content[place] == "]":
            return tuple(rows)
        try:
            value, place = decoder.raw_decode(content, place)
        except json.JSONDecodeError as error:
            raise UserError(f"{path} line {error.lineno} is not JSON: {error.msg} at column {error.colno}") from error
        rows.append(_row(where, value))


def _table(path: Path, content: str, heading: bool) -> tuple[Row, ...]:
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    rows: list[Row] = []
    names: list[str] | None = None
    try:
        for cells in reader:
            if not cells:
                continue
            if heading and names is None:
                names = cells
                continue
            keys = names if names is not None else [str(number) for number in range(len(cells))]
            where = f"{path} line {reader.line_num}"
            if len(cells) != len(keys):
                raise UserError(f"{where} has {len(cells)} cells: the heading has {len(keys)}")
            rows.append(Row(where, dict(zip(keys, cells, strict=True))))
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num} cannot be read as a table: {error}") from error
    return tuple(rows)
