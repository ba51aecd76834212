"""Vectors of groups in, the blocks of the matrix of their pairs out, and what a pair function gives on a block. Knows no gradient by a vector."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from decondense.losses.portions import block_size
from decondense.losses.row import Formulation, Settings
from decondense.shapes import Bool, Float, Int

Block = tuple[slice, slice, Tensor, Tensor | None]
"""(rows, columns, inner products or squared distances [groups, rows, columns], true where there is no pair; None = everywhere is one)."""


def evaluate(
    row: Formulation,
    settings: Settings,
    arguments: Float[Tensor, "groups rows columns"],
    outside: Bool[Tensor, "groups rows columns"] | Bool[Tensor, "1 rows columns"] | None,
    level: Float[Tensor, "groups 1 1"],
    taken_off: list[Float[Tensor, "groups 1 1"]] | None,
    want_slope: bool,
) -> tuple[Float[Tensor, " groups"], Float[Tensor, "groups rows columns"] | None]:
    """The pair function of a block: its sum in each group and, where wanted, its slope at each pair, zero where there is no pair."""
    exponential = row.aggregate == "log_mean_exp"
    values = row.pair(arguments, settings)  # type: ignore[misc]
    if exponential:
        values = exponentials = values.sub_(level).exp_()
    if taken_off is not None:
        at, height, steepness, bend = taken_off
        away = arguments - at
        values = values - (height + steepness * away + 0.5 * bend * away.square())
    if outside is not None:
        values.masked_fill_(outside, 0.0)
    total = values.sum(dim=(1, 2))
    if not want_slope:
        return total, None
    slope = row.slope(arguments, settings)  # type: ignore[misc]
    if exponential:
        slope.mul_(exponentials)
    if taken_off is not None:
        slope = slope - (steepness + bend * away)
    if outside is not None:
        slope.masked_fill_(outside, 0.0)
    return total, slope


def blocks(
    vectors: Float[Tensor, "groups items width"],
    valid: Bool[Tensor, "groups items"] | None,
    distances: bool,
    others: Float[Tensor, "groups others width"] | None = None,
    others_valid: Bool[Tensor, "groups others"] | None = None,
) -> Iterator[Block]:
    """Blocks on and above the diagonal of the matrix of pairs among `vectors`; or, with `others`, all blocks of the pairs between the two."""
    between = others is not None
    others, others_valid = (vectors, valid) if others is None else (others, others_valid)
    size, across = block_size(vectors.device, vectors.shape[1]), block_size(vectors.device, others.shape[1])
    squares = vectors.square().sum(dim=-1) if distances else None
    others_squares = others.square().sum(dim=-1) if distances and between else squares
    for start in range(0, vectors.shape[1], size):
        rows = slice(start, min(start + size, vectors.shape[1]))
        for other in range(0 if between else start, others.shape[1], across):
            columns = slice(other, min(other + across, others.shape[1]))
            arguments = torch.bmm(vectors[:, rows], others[:, columns].mT)
            if squares is not None and others_squares is not None:
                arguments.mul_(-2).add_(squares[:, rows, None]).add_(others_squares[:, None, columns]).clamp_(min=0)
            outside = None
            if start == other and not between:
                outside = torch.eye(arguments.shape[1], dtype=torch.bool, device=vectors.device)[None]
            if valid is not None and others_valid is not None:
                padding = ~(valid[:, rows, None] & others_valid[:, None, columns])
                outside = padding if outside is None else padding | outside
            yield rows, columns, arguments, outside


def finish_pull(
    pull: Float[Tensor, "groups items width"],
    slopes: Float[Tensor, "groups items"] | None,
    vectors: Float[Tensor, "groups items width"],
    factor: float | Float[Tensor, "groups 1 1"],
) -> None:
    """Turn, in place, sum_j phi'(x_ij) u_j into `factor` times the gradient by u_i of the sum of phi over ordered pairs.

    `slopes` are sum_j phi'(x_ij) where x is a squared distance, None where it is an inner product.
    """
    if slopes is None:
        pull.mul_(2 * factor)
    else:
        # d_ij^2 = ||u_i||^2 + ||u_j||^2 - 2 c_ij: its gradient by u_i is 2 (u_i - u_j).
        pull.neg_().addcmul_(slopes[..., None], vectors).mul_(4 * factor)


def raise_to(
    largest: Float[Tensor, " sequences"],
    owner: Int[Tensor, " groups"],
    seen: Iterable[Block],
    row: Formulation,
    settings: Settings,
) -> None:
    """Raise, in place, `largest` of each sequence to the largest logit in the blocks of its group."""
    for _, _, arguments, outside in seen:
        logits = row.pair(arguments, settings)  # type: ignore[misc]
        if outside is not None:
            logits = logits.masked_fill(outside, torch.finfo(logits.dtype).min)
        largest.scatter_reduce_(0, owner, logits.amax(dim=(1, 2)), "amax")


def or_zero(largest: Float[Tensor, " sequences"]) -> Float[Tensor, " sequences"]:
    """The largest logits, 0 where there is none."""
    return largest.masked_fill(largest == torch.finfo(largest.dtype).min, 0.0)
