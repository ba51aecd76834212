"""Documents in, what probes ask of them out: passages whose halves belong together, and blanks to fill in. Knows no model."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from decondense.errors import UserError
from decondense.texts.embedded import Document

PASSAGE_WORDS = 80
CHOICES = 4
EARLIEST = 30
"""Words before a blank, at least."""
NEAREST = 2
"""Words between a blank and where its word stands before it, at least: otherwise the last word alone would tell."""

WINDOW = 100
"""Words of nearly its frequency, on each side, among which a blank's other candidates are sought; the nearest are taken."""


@dataclass(frozen=True)
class Passage:
    """A piece of a document, in two halves of as many words.

    Attributes:
        document: name of its document.
        first: half.
        second: half.
    """

    document: str
    first: str
    second: str

    @property
    def text(self) -> str:
        """Both halves."""
        return f"{self.first} {self.second}"


@dataclass(frozen=True)
class Cloze:
    """A text without its last word, and words that might be it.

    Attributes:
        context: the text before.
        candidates: of which one is right.
        answer: which.
    """

    context: str
    candidates: tuple[str, ...]
    answer: int


def passages(documents: Sequence[Document], words: int = PASSAGE_WORDS) -> list[Passage]:
    """The passages of `words` words of each document, one after the other; what is left at its end belongs to none.

    >>> passages([Document("count", "one two three four five")], words=2)
    [Passage(document='count', first='one', second='two'), Passage(document='count', first='three', second='four')]
    """
    if words < 2:
        raise UserError(f"words={words}: a passage of two halves has at least 2 words")
    found = []
    for document in documents:
        given = document.text.split()
        for start in range(0, len(given) - words + 1, words):
            middle, end = start + words // 2, start + words
            found.append(Passage(document.name, " ".join(given[start:middle]), " ".join(given[middle:end])))
    return found


def labelled(given: Sequence[Passage], per_document: int = 8) -> list[Passage]:
    """The first `per_document` passages of every document that has as many: each document weighs the same."""
    counts = Counter(passage.document for passage in given)
    taken: Counter[str] = Counter()
    found = []
    for passage in given:
        taken[passage.document] += 1
        if counts[passage.document] >= per_document and taken[passage.document] <= per_document:
            found.append(passage)
    return found


def clozes(given: Sequence[Passage], seed: int = 0, choices: int = CHOICES) -> list[Cloze]:
    """One blank a passage, where it has one.

    The blank is the last word of the passage that has five letters or more and nothing else, stands behind at least thirty words, and
    stood before in the passage, though not among the two words next to it. The other candidates are words of this kind that do not occur
    in the passage and are as frequent in all passages as may be: neither frequency nor length nor form tells the word, only that the
    passage spoke of it. Candidates are shuffled by `seed`.
    """
    texts = [passage.text.split() for passage in given]
    counts = Counter(word for words in texts for word in words if _fits(word))
    by_count = sorted(counts, key=lambda word: (counts[word], word))
    place = {word: index for index, word in enumerate(by_count)}
    generator = random.Random(seed)
    found = []
    for words in texts:
        blank = next((index for index in range(len(words) - 1, EARLIEST - 1, -1) if _is_blank(words, index)), None)
        if blank is None:
            continue
        answer, around = words[blank], {word.lower() for word in words}
        middle = place[answer]
        near = sorted(by_count[max(middle - WINDOW, 0) : middle + WINDOW], key=lambda word: abs(place[word] - middle))
        others = [word for word in near if word.lower() not in around][: choices - 1]
        if len(others) < choices - 1:
            continue
        candidates = [answer, *others]
        generator.shuffle(candidates)
        found.append(Cloze(" ".join(words[:blank]), tuple(candidates), candidates.index(answer)))
    return found


def _fits(word: str) -> bool:
    return re.fullmatch("[A-Za-z]{5,}", word) is not None


def _is_blank(words: Sequence[str], index: int) -> bool:
    return _fits(words[index]) and words[index] in words[: index - NEAREST]
