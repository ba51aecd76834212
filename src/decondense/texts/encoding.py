"""Documents and a tokenizer in; token ids, each document ended by the end-of-text token, and the bytes of each token out. Knows no windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from decondense.errors import UserError, require


@dataclass(frozen=True)
class Encoded:
    """The tokens of a document.

    Attributes:
        text: the document.
        ids: of its tokens, and of the end-of-text token.
        ends: where in the text each token but the last ends, in characters; None where the tokenizer cannot say.
    """

    text: str
    ids: list[int]
    ends: list[int] | None

    def bytes_of_tokens(self) -> list[float]:
        """UTF-8 bytes that each token stands for: they add up to those of the text. The end-of-text token, which is predicted too, has none."""
        size = len(self.text.encode("utf-8", "surrogatepass"))
        count = len(self.ids) - 1
        if not count:
            return [0.0]
        if self.ends is None:
            return [size / count] * count + [0.0]
        numpy = require("numpy", extra="hf")
        widths = [len(character.encode("utf-8", "surrogatepass")) for character in self.text]
        before = numpy.concatenate([[0], numpy.cumsum(widths)])
        # Several tokens may share a character, and a token may leave out white space before it; what ends the text goes to the last one.
        reached = before[numpy.maximum.accumulate(self.ends)]
        reached[-1] = size
        return [*map(float, numpy.diff(reached, prepend=0)), 0.0]


def encode(tokenizer: Any, texts: Sequence[str]) -> Iterator[Encoded]:
    """The tokens of each text.

    Raises:
        UserError: the tokenizer has no end-of-text token.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise UserError("the tokenizer has no end-of-text token (eos_token), which must stand between documents")
    fast = bool(getattr(tokenizer, "is_fast", False))
    # Without `verbose=False` a text that is longer than the model's context is a warning, and here each may be.
    given = tokenizer(list(texts), add_special_tokens=False, verbose=False, return_offsets_mapping=fast)
    for index, (text, ids) in enumerate(zip(texts, given["input_ids"], strict=True)):
        ends = [end for _, end in given["offset_mapping"][index]] if fast else None
        yield Encoded(text, [*ids, end], ends)
