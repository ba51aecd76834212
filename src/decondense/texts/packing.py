"""Texts and a tokenizer in, fixed windows of tokens with document boundaries out, and batches of them by step number.

Knows no model. A batch is computed from its step's number alone, so a run that goes on after a stop replays nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from decondense.errors import UserError, require


@dataclass(frozen=True, eq=False)
class Windows:
    """Rows of `context` tokens that follow one another in the text.

    `tokens` and `documents` are int64 [windows, context]; `documents` holds for each token the index of its text.
    """

    tokens: Tensor
    documents: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: Tensor | slice | list[int]) -> Windows:
        return Windows(self.tokens[index], self.documents[index])


def pack(texts: Sequence[str], tokenizer: Any, context: int) -> Windows:
    """Tokenize texts, end each with the tokenizer's end-of-text token, join them in order and cut windows.

    Nothing is dropped but what is left after the last whole window.

    Args:
        texts: strings, each a document.
        tokenizer: transformers' tokenizer with an `eos_token_id`.
        context: tokens in a window.

    Raises:
        UserError: `context` is below 2, the tokenizer has no end-of-text token, or the texts do not fill one window.

    >>> from decondense.texts.tokenizer import train
    >>> tokenizer = train(["ab", "c"], vocabulary_size=257)
    >>> pack(["ab", "c", "d"], tokenizer, context=3).documents.tolist()
    [[0, 0, 0], [1, 1, 2]]
    """
    if context < 2:
        raise UserError(f"context={context}: a window needs at least 2 tokens, one to predict from the other")
    end = tokenizer.eos_token_id
    if end is None:
        raise UserError("the tokenizer has no end-of-text token (eos_token), which must stand between documents")
    # Without `verbose=False` a text that is longer than the model's context is a warning, and here each may be.
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []
    documents = [torch.tensor([*ids, end]) for ids in encoded]
    lengths = torch.tensor([len(ids) for ids in documents], dtype=torch.int64)
    count = int(lengths.sum()) // context
    if count == 0:
        raise UserError(
            f"{len(texts)} texts make {int(lengths.sum())} tokens: one window needs {context}, give more text"
        )
    tokens = torch.cat(documents)[: count * context]
    indices = torch.repeat_interleave(torch.arange(len(documents)), lengths)[: count * context]
    return Windows(tokens.reshape(count, context), indices.reshape(count, context))


def batch(windows: Windows, batch_size: int, step: int, seed: int) -> Windows:
    """The batch of training step `step`, counted from 0: a function of its arguments, whatever was asked for before.

    Windows come in the order of one permutation an epoch, drawn from (seed, epoch); a batch may reach into the next.

    >>> windows = Windows(torch.arange(10).reshape(5, 2), torch.zeros(5, 2, dtype=torch.int64))
    >>> epoch = torch.cat([batch(windows, 1, step, seed=0).tokens for step in range(5)])
    >>> sorted(epoch.flatten().tolist())
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    if batch_size < 1 or step < 0:
        raise UserError(f"batch_size={batch_size}, step={step}: a batch has at least 1 window, steps count from 0")
    places = range(step * batch_size, (step + 1) * batch_size)
    rows = [_permutation(len(windows), seed, place // len(windows))[place % len(windows)] for place in places]
    return windows[rows]


def batches(windows: Windows, batch_size: int, steps: int, seed: int, start: int = 0) -> Iterator[Windows]:
    """The batches of steps `start` to `steps` - 1 in turn."""
    for step in range(start, steps):
        yield batch(windows, batch_size, step, seed)


# Steps come in order, and a batch touches two epochs at most while windows outnumber its rows.
@lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> tuple[int, ...]:
    random = require("numpy", extra="hf").random.default_rng([seed, epoch])
    return tuple(random.permutation(count).tolist())
