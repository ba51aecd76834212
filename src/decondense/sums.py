"""Token vectors in, sums over the tokens of each sequence out; below both the losses and the measurement, and knows nothing of either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from decondense.shapes import Bool, Float, Int


@dataclass(frozen=True)
class Sequences:
    """Which sequence each token of a batch belongs to: a row of the batch, or a document of a packed row.

    Attributes:
        index: [batch, length] int64, the number of the token's sequence; meaningless where the token is padding and rows are packed.
        valid: [batch, length] bool, true where the token is real; None where every token is.
        tokens: [sequences] int64, the number of real tokens of each sequence.
        packed: whether a row may hold several sequences.
    """

    index: Int[Tensor, "batch length"]
    valid: Bool[Tensor, "batch length"] | None
    tokens: Int[Tensor, " sequences"]
    packed: bool
    split: ClassVar[bool] = False
    """Whether other ranks hold a part of these sequences; then `tokens` counts those too (`losses/parallel.py`)."""

    @property
    def here(self) -> Int[Tensor, " sequences"]:
        """The number of real tokens of each sequence that this rank holds."""
        return self.tokens

    def over_ranks(self, part: Tensor) -> Tensor:
        """What this rank has summed over its tokens, added up over the ranks that hold the sequences: `part` itself where no other does."""
        return part

    def as_part(self, term: Tensor, averaged: bool) -> Tensor:
        """What this rank adds to its loss so that all ranks together have `term` and its gradient once; whether they are `averaged` or summed."""
        return term

    def to(self, device: torch.device) -> Sequences:
        """The same on another device."""
        valid = None if self.valid is None else self.valid.to(device)
        return Sequences(self.index.to(device), valid, self.tokens.to(device), self.packed)


def find_sequences(
    shape: Sequence[int], device: torch.device, mask: Tensor | None, documents: Tensor | None
) -> Sequences:
    """Number the sequences of a batch: its rows, or, with `documents`, its documents in row order.

    Tokens of one row with the same document id are one sequence; the same id in another row is another sequence. A row without real tokens is
    a sequence of none; a document without real tokens is no sequence.

    Args:
        shape: batch, length.
        device: of the result.
        mask: [batch, length], nonzero = real token; None = all are.
        documents: [batch, length] integer ids; None = a row is a sequence.
    """
    batch, length = shape
    rows = torch.arange(batch, device=device)[:, None].expand(batch, length)
    valid = None if mask is None else mask.to(device) != 0
    if documents is None:
        tokens = torch.full((batch,), length, device=device) if valid is None else valid.sum(dim=1)
        return Sequences(rows, valid, tokens, packed=False)
    real = torch.ones((batch, length), dtype=torch.bool, device=device) if valid is None else valid
    pairs = torch.stack([rows[real], documents.to(device)[real].to(torch.int64)], dim=1)
    _, sorted_index, tokens = torch.unique(pairs, dim=0, return_inverse=True, return_counts=True)
    # `unique` numbers documents by their id; renumber them by where they begin.
    places = torch.arange(len(pairs), device=device)
    order = torch.argsort(torch.full_like(tokens, len(pairs)).scatter_reduce(0, sorted_index, places, "amin"))
    rank = torch.empty_like(order).scatter(0, order, torch.arange(len(order), device=device))
    index = torch.zeros((batch, length), dtype=torch.int64, device=device)
    index[real] = rank[sorted_index]
    return Sequences(index, valid, tokens[order], packed=True)


def flat(of_tokens: Tensor | None) -> Tensor | None:
    """[batch, length] as one row [1, batch length]."""
    return None if of_tokens is None else of_tokens.reshape(1, -1)


def sum_by_sequence(values: Tensor, index: Int[Tensor, " items"], count: int) -> Tensor:
    """Add up the rows of `values` (of any dtype) that have the same `index`: [items, *rest] -> [count, *rest]."""
    return torch.zeros((count, *values.shape[1:]), dtype=values.dtype, device=values.device).index_add(0, index, values)


def unit(hidden: Float[Tensor, "*tokens features"], epsilon: float = 0.0) -> Float[Tensor, "*tokens features"]:
    """Scale each vector to (almost) unit length: u = z / (||z|| + epsilon); a zero vector stays zero, also with epsilon = 0."""
    length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True) + epsilon
    return hidden / length.masked_fill(length == 0, 1.0)
