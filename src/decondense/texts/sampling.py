"""Records in, texts of the paper's length out: joined from random starts. Knows no file, no tokenizer and no model."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

from decondense.errors import UserError, require

# The paper's: enough words for 512 tokens of any tokenizer.
WORDS = (1024, 1280)


def draw(records: Sequence[str], count: int, seed: int, words: tuple[int, int] = WORDS) -> list[str]:
    """Draw texts as the paper does: from a random start records are joined, going round at the end, to so many words.

    The number is drawn for each text, between the two of `words`, both included, and the last record is cut there (the
    authors keep it whole, so theirs may be longer). No two texts have the same start and no text has a record twice:
    texts are shorter where all records together are, and fewer, with a warning, where there are fewer records than
    texts. The first texts of a seed are the same whatever `count` is.

    Args:
        records: strings; blank ones are passed over.
        count: how many texts.
        seed: of the starts and lengths.
        words: the smallest and the largest number of words of a text; a word is what white space surrounds.

    Raises:
        UserError: `count` or `words` ask for nothing, or all records are blank.

    >>> [len(text.split()) for text in draw(["one two", "three", "", "four five six"], count=2, seed=0, words=(4, 4))]
    [4, 4]
    """
    least, most = words
    if count < 1:
        raise UserError(f"{count} texts: at least 1 must be drawn")
    if not 1 <= least <= most:
        raise UserError(f"words={words}: give the smallest and the largest number of words, such as {WORDS}")
    random = require("numpy", extra="hf").random.default_rng(seed)
    order = random.permutation(len(records))
    starts: list[int] = []
    for start in order.tolist():
        if len(starts) == count:
            break
        if records[start].strip():
            starts.append(start)
    name = getattr(records, "name", "the source")
    if not starts:
        raise UserError(f"{name} holds no text: all of its records are blank")
    if len(starts) < count:
        warnings.warn(
            f"{name} has {len(starts)} records with text: as many texts are drawn, not {count}, each from its own",
            stacklevel=2,
        )
    targets = random.integers(least, most, size=len(starts), endpoint=True).tolist()
    return [_join(records, start, target) for start, target in zip(starts, targets, strict=True)]


def _join(records: Sequence[str], start: int, words: int) -> str:
    parts: list[str] = []
    missing = words
    for step in range(len(records)):
        record = records[(start + step) % len(records)].strip()
        ends = [word.end() for word in re.finditer(r"\S+", record)]
        if len(ends) >= missing:
            parts.append(record[: ends[missing - 1]])
            break
        if ends:
            parts.append(record)
            missing -= len(ends)
    return "\n".join(parts)


def stream(records: Sequence[str], total: int, words: int = WORDS[0]) -> list[str]:
    """Texts of the source in its order: records are joined to at least `words` words each, until `total` words are together or it ends.

    Records beyond are not read.

    Raises:
        UserError: all records are blank.

    >>> stream(["one two", "", "three", "four five six"], total=4, words=3)
    ['one two\\nthree', 'four five six']
    """
    texts: list[str] = []
    parts: list[str] = []
    held = seen = 0
    for record in records:
        count = len(record.split())
        if count:
            parts.append(record.strip())
            held, seen = held + count, seen + count
        if held >= words:
            texts.append("\n".join(parts))
            parts, held = [], 0
        if seen >= total:
            break
    if parts:
        texts.append("\n".join(parts))
    if not texts:
        raise UserError(f"{getattr(records, 'name', 'the source')} holds no text: all of its records are blank")
    return texts
