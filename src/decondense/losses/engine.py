"""Hidden states, groups of tokens and a formulation in, the value of each sequence out: the definition in plain torch, differentiable twice."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from decondense.losses.aggregate import aggregate, count_items
from decondense.losses.pairs import Grouping
from decondense.losses.row import Formulation, PairFunction, Settings
from decondense.shapes import Bool, Float
from decondense.sums import sum_by_sequence


def eager(
    hidden: Float[Tensor, "batch length features"], grouping: Grouping, row: Formulation, settings: Settings
) -> Float[Tensor, " sequences"]:
    """Value of each sequence by `row`'s formula, holding every pair of a group; not meaningful for a sequence of fewer than two tokens."""
    tokens = grouping.gather(hidden)
    valid = tokens.new_ones(tokens.shape[:2], dtype=torch.bool) if grouping.valid is None else grouping.valid
    vectors = row.transform(tokens, valid, settings)
    if row.function is not None:
        return row.function(vectors, valid, settings)
    assert row.pair is not None, "a formulation without a function has a pair function"
    return aggregate_pairs(_pair_arguments(vectors, row.distances), valid, grouping, row, row.pair, settings)


def penalty(
    hidden: Float[Tensor, "batch length features"], grouping: Grouping, of_token: Callable[[Tensor], Tensor]
) -> Float[Tensor, " sequences"]:
    """Mean over the tokens of each sequence of a term that reads one token."""
    terms = of_token(grouping.gather(hidden))  # padding is zero there, and so is its term
    return sum_by_sequence(terms.sum(dim=1), grouping.sequence, len(grouping.tokens)) / grouping.tokens.clamp(min=1)


def aggregate_pairs(
    arguments: Float[Tensor, "groups items items"],
    valid: Bool[Tensor, "groups size"],
    grouping: Grouping,
    row: Formulation,
    pair: PairFunction,
    settings: Settings,
) -> Float[Tensor, " sequences"]:
    """Value of each sequence from the inner products, or squared distances, of the pairs in its groups."""
    sequences = len(grouping.tokens)
    items = count_items(grouping.tokens, arguments.shape[1], row)
    if row.features:
        valid = valid.new_ones(arguments.shape[:2])

    values = pair(arguments, settings)
    between = valid[:, :, None] & valid[:, None, :]
    between = between & ~torch.eye(arguments.shape[1], dtype=torch.bool, device=arguments.device)
    itself = values.diagonal(dim1=1, dim2=2)
    shift = torch.zeros(sequences, dtype=values.dtype, device=values.device)
    if row.aggregate == "log_mean_exp":
        shift = _largest(values, between, itself, valid & row.diagonal, grouping, sequences)
        values = (values - shift[grouping.sequence][:, None, None]).exp()
        itself = values.diagonal(dim1=1, dim2=2)

    sampled = sum_by_sequence(between.sum(dim=(1, 2)), grouping.sequence, sequences)
    total = sum_by_sequence(torch.where(between, values, 0.0).sum(dim=(1, 2)), grouping.sequence, sequences)
    # The pairs inside the groups stand for all pairs of the sequence; with all pairs in one group the factor is 1.
    total = total * ((items * (items - 1)).to(total) / sampled.clamp(min=1))
    if row.diagonal:
        total = total + sum_by_sequence(torch.where(valid, itself, 0.0).sum(dim=1), grouping.sequence, sequences)
    return aggregate(total, items, row, shift)


def _pair_arguments(
    vectors: Float[Tensor, "groups items width"], distances: bool
) -> Float[Tensor, "groups items items"]:
    products = vectors @ vectors.mT
    if not distances:
        return products
    squares = vectors.square().sum(dim=-1)
    squared = (squares[:, :, None] + squares[:, None, :] - 2 * products).clamp(min=0)
    return squared.masked_fill(torch.eye(vectors.shape[1], dtype=torch.bool, device=vectors.device), 0.0)


def _largest(
    logits: Float[Tensor, "groups items items"],
    between: Bool[Tensor, "groups items items"],
    itself: Float[Tensor, "groups items"],
    counted: Bool[Tensor, "groups items"],
    grouping: Grouping,
    sequences: int,
) -> Float[Tensor, " sequences"]:
    """Largest logit of each sequence, a constant that is subtracted before `exp` so that nothing overflows; 0 where there is none."""
    lowest = torch.finfo(logits.dtype).min
    of_pairs = logits.detach().masked_fill(~between, lowest).amax(dim=(1, 2))
    of_tokens = itself.detach().masked_fill(~counted, lowest).amax(dim=1)
    start = torch.full((sequences,), lowest, dtype=logits.dtype, device=logits.device)
    largest = start.scatter_reduce(0, grouping.sequence, torch.maximum(of_pairs, of_tokens), "amax")
    return largest.masked_fill(largest == lowest, 0.0)
