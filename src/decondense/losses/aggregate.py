"""Sums over pairs in, the value of each sequence out: what every engine does last. Knows no tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from decondense.losses.row import Formulation
from decondense.shapes import Float, Int


def count_items(tokens: Int[Tensor, " sequences"], features: int, row: Formulation) -> Int[Tensor, " sequences"]:
    """How many vectors of each sequence are paired: its tokens, or all features."""
    return torch.full_like(tokens, features) if row.features else tokens


def aggregate(
    total: Float[Tensor, " sequences"],
    items: Int[Tensor, " sequences"],
    row: Formulation,
    shift: Float[Tensor, " sequences"],
) -> Float[Tensor, " sequences"]:
    """Value of each sequence.

    Args:
        total: sum over all pairs that the row counts; under `log_mean_exp` of exp(logit - shift).
        items: vectors that are paired.
        row: says how to aggregate, and whether an item is paired with itself.
        shift: see `total`.
    """
    if row.aggregate == "sum":
        return total
    items = items.to(total)
    pairs = items * items if row.diagonal else items * (items - 1)
    mean = total / pairs.clamp(min=1)
    if row.aggregate == "mean":
        return mean
    # A sequence without pairs, or of zero vectors only, has no logarithm: the smallest number stands in, without a gradient.
    return mean.clamp(min=torch.finfo(mean.dtype).tiny).log() + shift
