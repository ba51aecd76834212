"""The name of a source of text in, its records out: files, folders, named data sets. Knows no file layout, no tokens.

A record is a line of a text file, a row of a table, a paragraph of SQuAD or of the embedded corpus.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, overload

from decondense import hub
from decondense.errors import UserError, require
from decondense.texts import embedded, layouts

EMBEDDED = "embedded"
# The data sets of the paper, and one for tiny models: the name on the hub, the configuration, the field that holds the text.
HUB = {
    "wikitext": ("Salesforce/wikitext", "wikitext-103-raw-v1", "text"),
    "pubmed": ("qiaojin/PubMedQA", "pqa_labeled", "long_answer"),
    "imdb": ("stanfordnlp/imdb", None, "text"),
    "squad": ("rajpurkar/squad", None, "context"),
    "tinystories": ("roneneldan/TinyStories", None, "text"),
}
NAMES = (EMBEDDED, *HUB)


class Records(Sequence[str]):
    """The texts of a source in its order, and its `name`. Those of the hub are read when asked for, also blank ones."""

    def __init__(self, name: str, texts: Sequence[str]) -> None:
        self.name = name
        self._texts = texts

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        return self._texts[index]

    def __repr__(self) -> str:
        return f"Records({self.name!r}, {len(self)} texts)"


def load(source: str, field: str | None = None, split: str = "train") -> Records:
    """Read the records of `source`; a name of the list below is that data set, also where a folder is called so.

    Args:
        source: "embedded"; "wikitext", "pubmed", "imdb", "squad" or "tinystories" (on the hub, or in its cache);
            or the path of a file (txt, jsonl, json, csv, tsv; each also gzipped; parquet) or of a folder of such files.
        field: the field that holds the text where records have fields; by default the first that there is of text,
            long_answer, context, story, content.
        split: of a data set of the hub.

    Raises:
        UserError: there is no such source; the hub is not reachable and the data set not in its cache; a file is
            empty, damaged, not UTF-8 or of no known layout; there is no such field, or no text in it.

    >>> records = load("embedded")
    >>> records.name, len(records) > 1000
    ('embedded', True)
    """
    if source == EMBEDDED:
        return Records(source, _paragraphs())
    if source in HUB:
        return _load_from_hub(source, field, split)
    path = Path(source).expanduser()
    if not source or not path.exists():
        near = difflib.get_close_matches(source, NAMES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"texts {source!r}: no such file or folder; {hint}the named data sets are {', '.join(NAMES)}")
    return Records(source, [text for file in find_files(path) for text in layouts.read(file, field)])


def find_files(path: Path) -> list[Path]:
    """The file itself, or the files of a folder that have a layout that is read here, in the order of their names.

    Raises:
        UserError: a folder holds none.
    """
    if not path.is_dir():
        return [path]
    files = [
        file
        for file in sorted(path.rglob("*"))
        if file.name.endswith(layouts.SUFFIXES)
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    if not files:
        raise UserError(f"texts '{path}': the folder holds no file that ends in {', '.join(layouts.SUFFIXES)}")
    return files


def _paragraphs() -> list[str]:
    paragraphs = (text for document in embedded.documents() for text in re.split(r"\n\s*\n", document.text))
    return [text for text in paragraphs if text.strip()]


def _load_from_hub(name: str, field: str | None, split: str) -> Records:
    repository, configuration, usual_field = HUB[name]
    datasets = require("datasets", extra="hf")
    with _quiet(datasets), hub.asked_once() as there:
        try:
            rows = datasets.load_dataset(repository, configuration, split=split)
        except (*hub.failures(), datasets.exceptions.DatasetsError) as error:
            first, *_ = str(error).strip().splitlines() or [type(error).__name__]
            reason = hub.refusal(error) or (first if there else hub.UNREACHABLE)
            folder = f" (./{name} is what is here)" if Path(name).exists() else ""
            raise UserError(
                f"texts {name!r} ({repository}): {reason}; --texts PATH reads local files{folder}, --texts embedded "
                "needs neither"
            ) from error
    chosen = field or usual_field
    if chosen not in rows.column_names:
        raise UserError(f"texts {name!r} has no field {chosen!r}: its fields are {', '.join(rows.column_names)}")
    if getattr(rows.features[chosen], "dtype", None) not in ("string", "large_string"):
        raise UserError(f"texts {name!r}: its field {chosen!r} holds no text; {usual_field!r} does")
    return Records(name, rows[chosen])


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Keep the notes of `datasets` off standard error, and its progress bars too where nobody watches."""
    verbosity, bars = datasets.logging.get_verbosity(), not datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()
