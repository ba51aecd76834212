"""The name of a source of text in, its records out: files of many layouts and named data sets. Knows no model or tokenizer.

A record is a line of a text file, a row of a table, a paragraph of SQuAD or of the embedded corpus; blank ones are skipped.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decondense import hub
from decondense.errors import UserError, require
from decondense.texts import embedded, files

# The data sets of the paper: the hub's name, its configuration, and the field with the text.
HUB = {
    "wikitext": ("Salesforce/wikitext", "wikitext-103-raw-v1", "text"),
    "pubmed": ("qiaojin/PubMedQA", "pqa_labeled", "long_answer"),
    "imdb": ("stanfordnlp/imdb", None, "text"),
    "squad": ("rajpurkar/squad", None, "context"),
}
EMBEDDED = "embedded"
NAMES = (EMBEDDED, *HUB)


@dataclass(frozen=True)
class Records:
    """The texts of a source, in its order. `texts` may be read lazily, and of a data set of the hub may hold blank ones."""

    name: str
    texts: Sequence[str]


def load(source: str, field: str | None = None) -> Records:
    """Read all records of `source`.

    Args:
        source: "embedded"; "wikitext", "pubmed", "imdb" or "squad" (from the hub, or its cache); or the path of a file
            (txt, jsonl, json, csv, tsv, parquet; all but parquet also gzipped) or of a folder of such files.
        field: the field that holds the text, where records have fields; by default the first there is of text,
            long_answer, context, story, content.

    Raises:
        UserError: there is no such source; the hub is not reachable and the data set not in its cache; a file is empty,
            damaged, not UTF-8 or of no known layout; there is no such field, or no text in it.

    >>> load("embedded").texts[0][:46]
    'The "assert" statement\\n**********************'
    """
    if source == EMBEDDED:
        return Records(source, _paragraphs())
    if source in HUB:
        return _load_from_hub(source, field)
    path = Path(source).expanduser()
    if not source or not path.exists():
        near = difflib.get_close_matches(source, NAMES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"texts {source!r}: no such file or folder; {hint}the data sets are {', '.join(NAMES)}")
    texts = [text for file in _files_of(path) for text in _texts_of(file, field)]
    return Records(source, texts)
