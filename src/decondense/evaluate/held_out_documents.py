"""The name of a source of text in, its held-out documents out, whole, for perplexity: local files beside the benchmarks, or the hub. Knows no tokens.

A document is an article of WikiText, a row of a table, a story between end-of-text marks, else a whole file of text.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from decondense.errors import UserError, choose
from decondense.evaluate.benchmarks.local import AbsentData
from decondense.evaluate.benchmarks.schemas import plain
from decondense.texts import embedded, layouts, sources

# The split that was not trained on; PubMedQA has one split alone.
HUB_SPLITS = {"wikitext": "test", "tinystories": "validation", "imdb": "test", "squad": "validation", "pubmed": "train"}
_HELD_OUT = ("test", "valid", "validation", "val", "dev")
_ARTICLE = re.compile(r"(?m)^ ?= [^=\n]+ = ?$")
_END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class HeldOutDocuments:
    """Documents to take the perplexity on.

    Attributes:
        name: as it was asked for.
        origin: the files, or the data set and its split.
        documents: strings.
    """

    name: str
    origin: tuple[str, ...]
    documents: tuple[str, ...]

    @property
    def digest(self) -> str:
        """16 digits that tell these documents from others."""
        hashed = hashlib.sha256()
        for text in self.documents:
            hashed.update(f"{len(text)} ".encode() + text.encode("utf-8", "surrogatepass"))
        return hashed.hexdigest()[:16]


def open_held_out(source: str, folder: Path | None) -> HeldOutDocuments:
    """The held-out documents of a source.

    Args:
        source: a path; "embedded" (those documents of it that our own training holds out); or a name, looked for as a folder or file in
            `folder`, in its `texts` and in the `texts` beside it ("wikitext" also means wikitext2), or without a `folder` on the hub. Of a folder,
            the files whose names say that they are held out (test, else valid) are read, and all files where none says so.
        folder: of local data; None for the hub.

    Raises:
        AbsentData: it is not there.
        UserError: no such name; a file is damaged.
    """
    if source == sources.EMBEDDED:
        _, held_out = embedded.split(embedded.documents())
        return HeldOutDocuments(source, (source,), tuple(document.text for document in held_out))
    path = Path(source).expanduser()
    if folder is not None:
        found = _find(folder, source) or (path if path.exists() else None)
        if found is None:
            raise AbsentData(f"{folder} and {folder.resolve().parent / 'texts'} have no folder or file {source!r}")
        return _from_files(source, found)
    if source in HUB_SPLITS:
        try:
            records = sources.load(source, split=HUB_SPLITS[source])
        except UserError as error:
            raise AbsentData(str(error)) from error
        return HeldOutDocuments(
            source,
            (f"{source}, split {HUB_SPLITS[source]}",),
            tuple(_split_text("".join(records)) if source == "wikitext" else records),
        )
    if path.exists() and source:
        return _from_files(source, path)
    choose("--tasks perplexity:SOURCE", source, (sources.EMBEDDED, *HUB_SPLITS, "PATH"))
    raise AssertionError  # choose raises for what is not one of these


def _find(folder: Path, name: str) -> Path | None:
    for place in (folder, folder / "texts", folder.resolve().parent / "texts"):
        if not place.is_dir():
            continue
        inside = sorted(one for one in place.iterdir() if not one.name.startswith("."))
        for matches in (
            lambda one: plain(one) == plain(name),
            lambda one: re.fullmatch(rf"{plain(name)}_?\d+(_raw)?(_v1)?", plain(one)),
        ):
            for one in inside:
                if matches(one.name if one.is_dir() else one.name.split(".")[0]):
                    return one
    return None


def _from_files(name: str, path: Path) -> HeldOutDocuments:
    files = _held_out(sources.find_files(path)) if path.is_dir() else [path]
    documents = [text for file in files for text in _read(file) if text.strip()]
    if not documents:
        raise UserError(f"{path} holds no text")
    return HeldOutDocuments(name, tuple(str(file) for file in files), tuple(documents))


def _held_out(files: Sequence[Path]) -> list[Path]:
    """The files that one word of `_HELD_OUT` names, the first word that any file has; all where none has one."""
    for word in _HELD_OUT:
        found = [file for file in files if word in plain(file.name).split("_")]
        if found:
            return found
    return list(files)


def _read(file: Path) -> list[str]:
    if file.name.removesuffix(".gz").lower().endswith(".txt"):
        return _split_text(layouts.decode(file))
    return layouts.read(file)


def _split_text(text: str) -> list[str]:
    """Articles of WikiText, stories between end-of-text marks, or the whole."""
    if _END_OF_TEXT in text:
        return [part.strip() for part in text.split(_END_OF_TEXT)]
    headings = [found.start() for found in _ARTICLE.finditer(text)]
    if not headings:
        return [text.strip()]
    return [text[start:stop].strip() for start, stop in zip([0, *headings], [*headings, len(text)], strict=True)]
