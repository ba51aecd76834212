"""CPython's own reference manual in, documents and a held-out split that shares no text out. Knows no tokens, no model.

The corpus is `pydoc_data.topics`, the text behind `help("TOPIC")`: 370 to 410 kB of English prose and code that every
Python carries, so that something real can be trained and measured without a network. It differs between the versions of
Python, and the figures with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from decondense.errors import UserError

# A run of this many words in two documents is one text quoted twice; shorter runs may be phrases that both use.
SHINGLE_WORDS = 12
# Topics such as `if` are sections of larger ones (`compound`), word for word but for their heading: 0.78 and more of
# their runs are found there. Any other two topics have less than 0.36 of their runs in common.
DUPLICATE_SHARE = 0.75


@dataclass(frozen=True)
class Document:
    """A named text."""

    name: str
    text: str


def documents() -> list[Document]:
    """The embedded corpus, sorted by name, without topics that larger ones contain or that hold less than twelve words.

    Raises `UserError` where this Python was installed without its help texts.

    >>> len(documents()) > 40, sum(len(document.text) for document in documents()) > 300_000
    (True, True)
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise UserError(
            "this Python was installed without its help texts (pydoc_data.topics), which are the embedded corpus: "
            "give --texts PATH, or install the whole standard library"
        ) from error
    return without_duplicates(Document(name, text) for name, text in sorted(topics.items()))


def without_duplicates(documents: Iterable[Document]) -> list[Document]:
    """The documents in their order, without those that a larger one contains or that hold less than twelve words.

    Contained means: 75 % of a document's runs of twelve words occur in one larger document, however lines are wrapped.

    >>> text = " ".join(str(number) for number in range(100))
    >>> [document.name for document in without_duplicates([Document("part", text[:80]), Document("whole", text)])]
    ['whole']
    """
    given = list(documents)
    shingles = {document: _shingles(document.text) for document in given}
    # Larger first, then by name: of two equal documents one stays, and always the same one.
    by_size = sorted(given, key=lambda document: (-len(document.text), document.name))
    kept: list[Document] = []
    for document in by_size:
        own = shingles[document]
        if own and all(len(own & shingles[larger]) < DUPLICATE_SHARE * len(own) for larger in kept):
            kept.append(document)
    staying = set(kept)
    return [document for document in given if document in staying]


def split(documents: Sequence[Document], held_out: float = 0.1) -> tuple[list[Document], list[Document]]:
    """Split documents into (training, held out) so that no run of twelve words of one side occurs in the other.

    Documents that share such a run stay together. Groups are held out in the order of a hash of their first name, as
    long as they fit into the share `held_out` of all characters; those that fill more than a quarter of it come last,
    so that more than one subject is held out. The split thus depends neither on the order of the documents nor on a
    seed, and both sides keep the documents' order.

    Raises `UserError` for a share outside (0, 1), and where the documents cannot be split that way.

    >>> training, validation = split([Document(str(n), " ".join(f"{n}x{k}" for k in range(50))) for n in range(20)])
    >>> len(training), len(validation)
    (18, 2)
    """
    if not 0 < held_out < 1:
        raise UserError(
            f"held_out={held_out}: the share of text that is held out lies between 0 and 1, for example 0.1"
        )
    budget = held_out * sum(len(document.text) for document in documents)
    groups = sorted(_groups(documents), key=lambda group: hashlib.sha256(group[0].name.encode()).digest())
    taken: set[Document] = set()
    used = 0
    for limit in (budget / 4, budget):
        for group in groups:
            size = sum(len(document.text) for document in group)
            if size <= limit and used + size <= budget and group[0] not in taken:
                taken.update(group)
                used += size
    if not taken:
        raise UserError(
            f"{len(documents)} documents cannot be split: none without text that others share makes up at most "
            f"{held_out:.0%} of the text; give more documents or hold out more"
        )
    training = [document for document in documents if document not in taken]
    return training, [document for document in documents if document in taken]


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[start : start + SHINGLE_WORDS]) for start in range(len(words) - SHINGLE_WORDS + 1)}


def _groups(documents: Sequence[Document]) -> list[list[Document]]:
    """Connected components of "shares a run of words", each sorted by name."""
    parent = {document: document for document in documents}

    def root(document: Document) -> Document:
        while parent[document] is not document:
            parent[document] = parent[parent[document]]
            document = parent[document]
        return document

    first_seen: dict[tuple[str, ...], Document] = {}
    for document in documents:
        for shingle in _shingles(document.text):
            parent[root(document)] = root(first_seen.setdefault(shingle, document))
    members: dict[Document, list[Document]] = {}
    for document in documents:
        members.setdefault(root(document), []).append(document)
    return [sorted(group, key=lambda document: document.name) for group in members.values()]
