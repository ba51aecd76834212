"""The name of a source in, its documents out, each for training or held out. Knows no tokens and no model.

A document is a record of the source (a row, a line), or many that follow one another, joined: the lines of a novel, the rows of WikiText.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decondense import hub
from decondense.errors import UserError, choose, require
from decondense.texts import embedded, layouts, sources

JOIN = ("auto", "yes", "no", "file")
# Words of a joined document, where a source has enough of them.
JOINED_WORDS = 4096
_BUILDERS = {"jsonl": "json", "json": "json", "csv": "csv", "tsv": "csv", "parquet": "parquet"}


@dataclass(frozen=True)
class Documents:
    """The documents of a source, read anew each time.

    Attributes:
        name: of the source.
        identity: what tells that they are the same documents, without reading them; JSON can hold it.
        streamed: they come one by one, and there may be more than anybody wants to read.
        read: gives each document, and whether it is held out.
    """

    name: str
    identity: Mapping[str, Any]
    streamed: bool
    read: Callable[[], Iterator[tuple[str, bool]]]

    def held_out(self) -> Iterator[str]:
        """Those that are held out."""
        return (text for text, held_out in self.read() if held_out)


def open_documents(source: str, field: str | None, join: str, streaming: bool, held_out: float) -> Documents:
    """Say where the documents of `source` are; they are read when `.read()` is called.

    Args:
        source: "embedded"; a named data set of `texts.sources`; the path of a file or folder; a data set of the hub, NAME or NAME:CONFIGURATION.
        field: that holds the text, where records have fields.
        join: "yes": records that follow one another are joined; "no": each is a document; "file": all of a file are one, as of a novel;
            "auto": WikiText and text files are joined.
        streaming: read records one by one as they are needed (by `datasets`), and keep no other.
        held_out: share of the text that is held out, by whole documents, chosen by a hash of their text, so that equal ones are on one side.

    Raises:
        UserError: there is no such source, or an argument is out of range. `.read()` raises it for what `texts.sources.load` raises it for, and
            where the documents cannot be split.
    """
    choose("--join", join, JOIN)
    if not 0 < held_out < 1:
        raise UserError(f"--held-out {held_out}: a share of the text between 0 and 1 is expected, such as 0.1")
    how = {"field": field, "held_out": held_out}
    if source == sources.EMBEDDED:
        if join in ("yes", "file") or streaming:
            raise UserError("--texts embedded is small and has whole documents: leave --join and --streaming out")
        return Documents(
            source, {"python": platform.python_version(), "held_out": held_out}, False, _embedded(held_out)
        )
    path = Path(source).expanduser()
    local = source not in sources.HUB and path.exists()
    joined = join == "yes" or (join == "auto" and (source == "wikitext" or (local and _is_prose(path))))
    whole_files = join == "file"
    if whole_files and (streaming or not (local and path.is_dir())):
        raise UserError(
            f"--join file makes a document of each file: --texts {source} must be a folder, without --streaming"
        )
    identity: dict[str, Any] = {**how, "joined": join if whole_files else joined}
    if local:
        files = sources.find_files(path)
        stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        identity["files"] = stats
    else:
        identity["hub"] = source

    def read() -> Iterator[tuple[str, bool]]:
        if streaming:
            texts = _stream(source, files if local else None, field)
            return _split_stream(_joined(texts, JOINED_WORDS) if joined else texts, held_out)
        if whole_files:
            return _split(source, ["\n".join(layouts.read(file, field)) for file in files], held_out)
        if local or source in sources.HUB or not _may_be_on_hub(source):
            records: Iterable[str] = sources.load(source, field)
        else:
            records = _stream(source, None, field, streaming=False)
        given = [text for text in records if text.strip()]
        if joined:
            words = int(sum(len(text.split()) for text in given) * held_out / 4)
            given = list(_joined(given, max(min(words, JOINED_WORDS), 1)))
        return _split(source, given, held_out)

    if not local and source not in sources.HUB and not _may_be_on_hub(source):
        sources.load(source, field)  # raises, and says what there is
    return Documents(source, identity, streaming, read)


def _embedded(held_out: float) -> Callable[[], Iterator[tuple[str, bool]]]:
    def read() -> Iterator[tuple[str, bool]]:
        # No run of twelve words is on both sides.
        training, validation = embedded.split(embedded.documents(), held_out)
        yield from ((document.text, False) for document in training)
        yield from ((document.text, True) for document in validation)

    return read


def _is_prose(path: Path) -> bool:
    """Whether records are lines of text."""
    names = (
        [file.name for file in path.rglob("*") if file.name.endswith(layouts.SUFFIXES)]
        if path.is_dir()
        else [path.name]
    )
    others = tuple(suffix for suffix in layouts.SUFFIXES if not suffix.startswith(".txt"))
    return not any(name.lower().endswith(others) for name in names)


def _may_be_on_hub(source: str) -> bool:
    name = source.partition(":")[0]
    return name.count("/") == 1 and not name.startswith((".", "~", "/")) and not name.endswith("/")


def _joined(texts: Iterable[str], words: int) -> Iterator[str]:
    """Texts joined by line breaks to documents of at least so many words, but for the last."""
    parts: list[str] = []
    held = 0
    for text in texts:
        parts.append(text)
        held += len(text.split())
        if held >= words:
            yield "\n".join(parts)
            parts, held = [], 0
    if parts:
        yield "\n".join(parts)


def _place(text: str) -> float:
    """A number in [0, 1) that is as good as random and depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:7], "big") / 2**56


def _split_stream(texts: Iterable[str], held_out: float) -> Iterator[tuple[str, bool]]:
    return ((text, _place(text) < held_out) for text in texts)


def _split(name: str, texts: Sequence[str], held_out: float) -> Iterator[tuple[str, bool]]:
    """As many documents as fit into the share are held out, in the order of their hashes."""
    budget = held_out * sum(map(len, texts))
    used, chosen = 0, set()
    lengths: dict[str, int] = {}
    for text in texts:
        lengths[text] = lengths.get(text, 0) + len(text)
    for text in sorted(lengths, key=_place):
        if used + lengths[text] <= budget:
            chosen.add(text)
            used += lengths[text]
    if not chosen:
        raise UserError(
            f"texts {name!r}: none of its {len(texts)} documents is as small as the share {held_out} of the text that is held out: "
            "give more documents, a larger --held-out, or --join yes where records follow one another"
        )
    return ((text, text in chosen) for text in texts)


def _stream(source: str, files: Sequence[Path] | None, field: str | None, streaming: bool = True) -> Iterator[str]:
    """Texts of a data set of the hub, or of files, as `datasets` reads them."""
    datasets = require("datasets", extra="hf")
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    given: dict[str, Any] = {}
    if files is not None:
        kind = files[0].name.removesuffix(".gz").rpartition(".")[2].lower()
        builder: str = _BUILDERS.get(kind, "text")
        given = {"data_files": [str(file) for file in files], **({"sep": "\t"} if kind == "tsv" else {})}
    elif source in sources.HUB:
        builder, configuration, usual = sources.HUB[source]
        given, field = {"name": configuration}, field or usual
    else:
        builder, _, named = source.partition(":")
        given = {"name": named or None}
    try:
        with hub.asked_once():
            rows = datasets.load_dataset(builder, split="train", streaming=streaming, **given)
            column = _find_column(source, rows, field)
            for row in rows:
                text = row[column]
                if text and text.strip():
                    yield text
    except UserError:
        raise
    except (*hub.failures(), datasets.exceptions.DatasetsError) as error:
        first, *_ = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"texts {source!r}: {hub.refusal(error) or first}; --texts PATH reads local files, --texts embedded needs neither"
        ) from error


def _find_column(source: str, rows: Any, field: str | None) -> str:
    """The field that holds the text of a data set; `UserError` names those that it has."""
    if rows.features is None:
        names = list(next(iter(rows), {}))
        strings = [name for name, value in next(iter(rows), {}).items() if isinstance(value, str)]
    else:
        names = list(rows.features)
        strings = [name for name in names if getattr(rows.features[name], "dtype", None) in ("string", "large_string")]
    if field is not None and field in names:
        return field
    usable = [name for name in layouts.FIELDS if name in strings]
    if field is not None or not usable:
        wanted = f"field {field!r}" if field is not None else f"of the fields {', '.join(layouts.FIELDS)} with text"
        raise UserError(
            f"texts {source!r} has no{'ne' if field is None else ''} {wanted}: its fields are {', '.join(names)}; choose one with --field NAME"
        )
    return usable[0]
