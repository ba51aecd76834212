"""Token vectors in, sums over the tokens of each sequence out; below both the losses and the measurement, and knows nothing of either."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from decondense.shapes import Bool, Float, Int


class Sequences(NamedTuple):
    """Which sequence each token of a batch belongs to: a row of the batch, or a document of a packed row.

    Attributes:
        index: [batch, length] int64, the number of the token's sequence; meaningless where `valid` is false.
        valid: [batch, length] bool, true where the token is real.
        tokens: [sequences] int64, the number of real tokens of each sequence.
    """

    index: Int[Tensor, "batch length"]
    valid: Bool[Tensor, "batch length"]
    tokens: Int[Tensor, " sequences"]


def find_sequences(
    valid: Bool[Tensor, "batch length"], documents: Int[Tensor, "batch length"] | None = None
) -> Sequences:
    """Number the sequences of a batch: its rows, or, with `documents`, its documents in row order.

    Tokens of one row with the same document id are one sequence; the same id in another row is another sequence.
    A row without real tokens is a sequence of none; a document without real tokens is no sequence.
    """
    batch, length = valid.shape
    rows = torch.arange(batch, device=valid.device)[:, None].expand(batch, length)
    if documents is None:
        return Sequences(rows, valid, valid.sum(dim=1))
    pairs = torch.stack([rows[valid], documents[valid].to(torch.int64)], dim=1)
    _, sorted_index, tokens = torch.unique(pairs, dim=0, return_inverse=True, return_counts=True)
    # `unique` numbers documents by their id; renumber them by where they begin.
    first = torch.full_like(tokens, len(pairs)).scatter_reduce(
        0, sorted_index, torch.arange(len(pairs), device=valid.device), "amin"
    )
    order = torch.argsort(first)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=valid.device)
    index = torch.zeros((batch, length), dtype=torch.int64, device=valid.device)
    index[valid] = rank[sorted_index]
    return Sequences(index, valid, tokens[order])


def sum_by_sequence(values: Tensor, index: Int[Tensor, " items"], count: int) -> Tensor:
    """Add up the rows of `values` (of any dtype) that have the same `index`: [items, *rest] -> [count, *rest]."""
    return torch.zeros((count, *values.shape[1:]), dtype=values.dtype, device=values.device).index_add(0, index, values)


def unit(hidden: Float[Tensor, "*tokens features"], epsilon: float = 0.0) -> Float[Tensor, "*tokens features"]:
    """Scale each vector to (almost) unit length: u = z / (||z|| + epsilon); a zero vector stays zero, also with epsilon = 0."""
    length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True) + epsilon
    return hidden / length.masked_fill(length == 0, 1.0)
