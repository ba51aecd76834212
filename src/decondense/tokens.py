"""Texts and a tokenizer in; token ids, their order in batches, and what is known of each token out. Knows models by their limits alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from decondense.draws import token_keys
from decondense.errors import UserError
from decondense.geometry.causes import Marks
from decondense.shapes import Bool, Int


@dataclass(frozen=True)
class TokenizedTexts:
    """Texts as token ids.

    Attributes:
        ids: of each text, int32 [tokens].
        digest: of the texts as they were given: 16 hexadecimal digits.
    """

    ids: list[Tensor]
    digest: str

    @property
    def lengths(self) -> list[int]:
        """Tokens of each text."""
        return [len(ids) for ids in self.ids]


def tokenize(
    tokenizer: Any, texts: Iterable[str], limit: int, windows: bool = False, max_tokens: int | None = None
) -> TokenizedTexts:
    """Encode texts: of each its first `limit` tokens, or all of it in windows of `limit` tokens.

    With `max_tokens` reading stops where that many tokens are together; the last text is cut there.

    Raises:
        UserError: there is no text, a text has fewer than two tokens, or the tokenizer is none.
    """
    if isinstance(texts, str):
        raise UserError("texts is one string: give a list of strings, one a text")
    found: list[Tensor] = []
    digest, total = hashlib.sha256(), 0
    with _cutting_at_the_end(tokenizer):
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise UserError(f"texts[{index}] is {type(text).__name__}: each text must be a string")
            digest.update(f"{len(text)} ".encode() + text.encode("utf-8", "surrogatepass"))
            ids = _encode(tokenizer, text, None if windows else limit)
            if len(ids) < 2:
                raise UserError(
                    f"texts[{index}] has {len(ids)} token(s), a pair needs 2: leave it out or join it to another"
                )
            for piece in ids.split(limit):
                room = len(piece) if max_tokens is None else min(len(piece), max_tokens - total)
                if room >= 2:  # the rest of a text, or of the budget, may be too short for a pair
                    found.append(piece[:room])
                    total += room
            if max_tokens is not None and total >= max_tokens - 1:
                break
    if not found:
        raise UserError("texts is empty: give at least one text")
    return TokenizedTexts(found, digest.hexdigest()[:16])


def _encode(tokenizer: Any, text: str, limit: int | None) -> Int[Tensor, " tokens"]:
    if callable(tokenizer):
        options: dict[str, Any] = {"verbose": False} if limit is None else {"truncation": True, "max_length": limit}
        ids = tokenizer(text, **options)["input_ids"]
    elif hasattr(tokenizer, "encode") and not isinstance(tokenizer, str):
        ids = tokenizer.encode(text)
        ids = getattr(ids, "ids", ids)
    else:
        raise UserError(
            f"tokenizer is {type(tokenizer).__name__}: give transformers' tokenizer, or an object whose "
            "encode(text) gives token ids"
        )
    return torch.tensor(ids[:limit], dtype=torch.int32)


@contextmanager
def _cutting_at_the_end(tokenizer: Any) -> Iterator[None]:
    """Some tokenizers of transformers cut a long text at its beginning unless told otherwise."""
    side = getattr(tokenizer, "truncation_side", None)
    if side is None:
        yield
        return
    tokenizer.truncation_side = "right"
    try:
        yield
    finally:
        tokenizer.truncation_side = side


def check_vocabulary(texts: TokenizedTexts, vocabulary: int) -> None:
    """Raise UserError where a token id is no row of an embedding table of `vocabulary` rows."""
    for index, ids in enumerate(texts.ids):
        strange = ids[(ids >= vocabulary) | (ids < 0)]
        if len(strange):
            raise UserError(
                f"texts[{index}] has token id {int(strange[0])}, the model's embedding table has {vocabulary} rows: "
                "this is not the model's tokenizer; load the one that was saved with it"
            )


def plan_batches(lengths: Sequence[int], batch_size: int, padding_share: float) -> list[list[int]]:
    """Indices of texts in batches, longest first (so that memory runs out at once or never).

    At most `padding_share` of a batch's tokens is padding.
    """
    batches: list[list[int]] = []
    real = 0
    for text in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        batch = batches[-1] if batches else []
        padded = (len(batch) + 1) * lengths[batch[0]] if batch else 0
        if not batch or len(batch) == batch_size or padded - real - lengths[text] > padding_share * padded:
            batches.append([])
            real = 0
        batches[-1].append(text)
        real += lengths[text]
    return batches


class Marker:
    """Marks the tokens of batches: which are the same, which may be sinks, which are frequent, and their random keys.

    Frequent are the most frequent token ids that together make up half of all tokens. Separators are the tokenizer's special tokens and those
    without a letter or a digit; a tokenizer that cannot decode has none.
    """

    def __init__(self, texts: TokenizedTexts, tokenizer: Any, seed: int) -> None:
        self._seed = seed
        counts = torch.zeros(1 + max(int(ids.max()) for ids in texts.ids), dtype=torch.int64)
        for ids in texts.ids:
            counts += torch.bincount(ids, minlength=len(counts))
        falling, order = counts.sort(descending=True, stable=True)
        before = falling.cumsum(0) - falling
        self._frequent = torch.zeros(len(counts), dtype=torch.bool)
        self._frequent[order[2 * before < counts.sum()]] = True
        self._separators = torch.zeros(len(counts), dtype=torch.bool)
        self._separators[_find_separators(tokenizer, counts.nonzero()[:, 0].tolist())] = True

    def mark(
        self, batch: Sequence[int], inputs: Int[Tensor, "batch length"], real: Bool[Tensor, "batch length"]
    ) -> Marks:
        """Marks of the texts numbered `batch`, given as ids [batch, length] of which the first of each row are real."""
        inputs, real = inputs.cpu(), real.cpu()
        kinds = torch.zeros_like(inputs)
        for row, count in enumerate(real.sum(dim=1).tolist()):
            kinds[row, :count] = torch.unique(inputs[row, :count], return_inverse=True)[1]
        known = inputs.clamp(max=len(self._frequent) - 1)
        sinks = self._separators[known]
        sinks[:, 0] = True
        keys = token_keys(torch.tensor(batch), inputs.shape[1], self._seed)
        return Marks(kinds, sinks, self._frequent[known], keys)


def _find_separators(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    decode = getattr(tokenizer, "decode", None)
    if decode is None:
        return []
    special = set(getattr(tokenizer, "all_special_ids", ()))
    # Part of a character of several bytes decodes to the replacement character: it is a letter's, as far as one can tell.
    return [
        token
        for token in ids
        if token in special or not any(one.isalnum() or one == "\ufffd" for one in decode([token]))
    ]
