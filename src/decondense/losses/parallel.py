"""A shard of each sequence on every rank of a process group in, the value of whole sequences on every rank out. Knows ranks, no model.

Context and sequence parallelism spread the tokens of a row over ranks; and the rows of all data-parallel ranks may be taken as one set. Both are
one thing: a sequence whose tokens lie on several ranks, in any split (also one that balances causal attention), any number of them on each.

- **Sums over pairs** (`over_pairs`) are exact. The shards go round in a ring; each rank adds up the pairs of its tokens with those that pass. At most
  two shards of other ranks are alive at once: the one that is read, and the one that arrives meanwhile. A rank's time is its share of the pairs,
  save that a pair of tokens on two ranks is formed on both, where one rank alone would use it twice (at most 4 products for 3).
- **Moments** need one exchange of sums over tokens: F numbers a sequence at order 1, F x F at order 2 (`Sequences.over_ranks` in `moments.py`).
- **Features** (`over_features`) are paired once their correlations are added up over the ranks: F x F numbers a sequence.

**What a rank gets.** The value is that of the whole, the same on each rank. The gradient on a rank is the derivative of that one value by its own
shard, so gradients of parameters are right when *summed* over the group. Cross entropy behaves so where it is summed over a rank's tokens and
divided by the tokens of all ranks, as torchtitan does: add the loss to it as it is. Where a trainer *averages* gradients over the group
(DistributedDataParallel and FSDP, unless told otherwise), multiply the loss by the size of the group before `backward()`. Every rank must compute
the same losses in the same order, and run `backward()` on all of them or none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from decondense.losses.aggregate import aggregate, count_items
from decondense.losses.blocked import Call, fixed_shift, go_over_pairs, largest_logits
from decondense.losses.engine import aggregate_pairs
from decondense.losses.pair_blocks import blocks, evaluate, finish_pull, or_zero, raise_to
from decondense.losses.pairs import Grouping, form_groups
from decondense.losses.portions import (
    all_if_none,
    block_size,
    group_size,
    pairs_at_once,
    pull_back,
    put_back,
    read_tokens,
    scale_by_sequence,
)
from decondense.losses.row import Formulation, Settings
from decondense.losses.shards import Shards
from decondense.shapes import Bool, Float, Int
from decondense.sums import Sequences, sum_by_sequence


def over_pairs(
    hidden: Float[Tensor, "batch length features"],
    shards: Shards,
    grouping: Grouping,
    row: Formulation,
    settings: Settings,
    recompute: bool = False,
) -> Float[Tensor, " sequences"]:
    """Value of each sequence of a row that is a sum over pairs of tokens, as `blocked` gives it where one rank holds them all.

    With `recompute` nothing but `hidden` lives until the backward pass, in which the shards go round once more.
    """
    shift = _agree_on_shift(hidden, shards, grouping, row, settings)
    call = Call(row, settings, grouping, shift, recompute, None, row.diagonal)
    total: Tensor = _SumPairs.apply(hidden, shards, call)
    return aggregate(total, count_items(grouping.tokens, hidden.shape[2], row), row, shift)


class _SumPairs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, shards: Shards, call: Call) -> Tensor:
        keep = bool(ctx.needs_input_grad[0]) and not call.recompute
        total, gradient = _go_round(hidden, shards, call, keep)
        ctx.shards, ctx.call = shards, call
        ctx.save_for_backward(hidden, gradient)
        return shards.over_ranks(total)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        hidden, gradient = ctx.saved_tensors
        if gradient is None:
            _, gradient = _go_round(hidden, ctx.shards, ctx.call, True)
        else:
            gradient = gradient.clone()
        assert gradient is not None, "a gradient was asked for"
        scale_by_sequence(gradient, upstream[0], ctx.call.grouping)
        return gradient.to(hidden.dtype), None, None


def _go_round(
    hidden: Float[Tensor, "batch length features"], shards: Shards, call: Call, want_gradient: bool
) -> tuple[Float[Tensor, " sequences"], Float[Tensor, "batch length features"] | None]:
    """Sum over the pairs of this rank's tokens with all tokens of their sequences, and the gradient of the sum over *all* pairs by its tokens."""
    total, gradient = torch.zeros_like(call.shift), None
    for rank, passing in _pass_round(hidden, shards):
        if rank == shards.rank:
            total, gradient = go_over_pairs(hidden, call, want_gradient)
            continue
        for near in _near(hidden, passing, shards, rank, call.row, call.settings):
            total.index_add_(0, near.owner, _go_between(near, hidden, call, gradient).to(total))
    return total, gradient


@dataclass(frozen=True)
class _Near:
    """Vectors of some sequences on this rank and on another.

    Attributes:
        mine: the groups of this rank that share sequences with the other.
        groups: which of them.
        owner: [groups], their sequences.
        vectors, valid: of this rank, [groups, items, width] and [groups, items].
        others, others_valid: of the other.
    """

    mine: Grouping
    groups: slice
    owner: Int[Tensor, " groups"]
    vectors: Float[Tensor, "groups items width"]
    valid: Bool[Tensor, "groups items"] | None
    others: Float[Tensor, "groups others width"]
    others_valid: Bool[Tensor, "groups others"] | None


def _near(
    hidden: Tensor, passing: Tensor, shards: Shards, rank: int, row: Formulation, settings: Settings
) -> Iterator[_Near]:
    """The sequences that have tokens both here and in the shard of `rank` that is passing, in portions."""
    mine, theirs = _shared(shards, rank)
    if len(mine.sequence) == 0:
        return
    items, others_items = group_size(hidden, mine), group_size(passing, theirs)
    size = block_size(hidden.device, items) * block_size(hidden.device, others_items)
    portion = max(1, pairs_at_once(hidden.device) // size)
    for start in range(0, len(mine.sequence), portion):
        groups = slice(start, min(start + portion, len(mine.sequence)))
        tokens, valid = read_tokens(hidden, groups, mine)
        others, others_valid = read_tokens(passing, groups, theirs)
        vectors, others = _transform(tokens, valid, others, others_valid, row, settings)
        del tokens
        yield _Near(mine, groups, mine.sequence[groups], vectors, valid, others, others_valid)


@torch.no_grad()
def _transform(
    tokens: Tensor,
    valid: Tensor | None,
    others: Tensor,
    others_valid: Tensor | None,
    row: Formulation,
    settings: Settings,
) -> tuple[Tensor, Tensor]:
    real, others_real = all_if_none(valid, tokens), all_if_none(others_valid, others)
    if row.transform.tokenwise:
        return row.transform(tokens, real, settings), row.transform(others, others_real, settings)
    # Where vectors are centred, distances between the two need one centre.
    both = row.transform(torch.cat([tokens, others], dim=1), torch.cat([real, others_real], dim=1), settings)
    return both[:, : tokens.shape[1]], both[:, tokens.shape[1] :]


def _go_between(
    near: _Near, hidden: Tensor, call: Call, gradient: Float[Tensor, "batch length features"] | None
) -> Float[Tensor, " groups"]:
    """Sum over the pairs of this rank's vectors with another's; the gradient of that sum in both orders is added to `gradient`."""
    row, vectors, others = call.row, near.vectors, near.others
    level = call.shift[near.owner][:, None, None]
    total = torch.zeros(len(vectors), dtype=torch.float64, device=vectors.device)
    pull = None if gradient is None else torch.zeros_like(vectors)
    slopes = torch.zeros_like(vectors[..., 0]) if row.distances else None
    for rows, columns, arguments, outside in blocks(vectors, near.valid, row.distances, others, near.others_valid):
        values, slope = evaluate(row, call.settings, arguments, outside, level, None, pull is not None)
        total += values.to(total)
        if pull is None or slope is None:
            continue
        pull[:, rows].baddbmm_(slope, others[:, columns])
        if slopes is not None:
            slopes[:, rows] += slope.sum(dim=2)
    if pull is None or gradient is None:
        return total
    finish_pull(pull, slopes, vectors, 1.0)
    pull = pull_back(hidden, pull, near.groups, near.mine, row, call.settings)
    if near.mine.index is None:
        gradient[near.groups] += pull
    else:
        put_back(gradient, pull, near.groups, near.mine)
    return total


def _agree_on_shift(
    hidden: Tensor, shards: Shards, grouping: Grouping, row: Formulation, settings: Settings
) -> Float[Tensor, " sequences"]:
    """What is subtracted from logits before `exp`, the same on each rank."""
    shift = fixed_shift(hidden, grouping, row, settings)
    if shift is not None:
        return shift
    largest = largest_logits(hidden, grouping, row, settings)
    for rank, passing in _pass_round(hidden, shards):
        if rank == shards.rank:
            continue
        for near in _near(hidden, passing, shards, rank, row, settings):
            seen = blocks(near.vectors, near.valid, row.distances, near.others, near.others_valid)
            raise_to(largest, near.owner, seen, row, settings)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=shards.group)
    return or_zero(largest)


def _pass_round(hidden: Tensor, shards: Shards) -> Iterator[tuple[int, Tensor]]:
    """The shards of all ranks, this rank's first: each rank hands on what it reads, while the one after arrives in the other of two buffers.

    A shard may be read until the next is asked for.
    """
    group, rank, ranks = shards.group, shards.rank, len(shards.parts)
    following = dist.get_global_rank(group, (rank + 1) % ranks)
    before = dist.get_global_rank(group, (rank - 1) % ranks)
    held = hidden.detach().contiguous()
    largest = hidden.shape[2] * max(part.index.numel() for part in shards.parts)
    buffers = [held.new_empty(largest) for _ in range(min(2, ranks - 1))]
    for step in range(ranks):
        source, work, arriving = (rank - step) % ranks, [], held
        if step + 1 < ranks:
            shape = (*shards.parts[(source - 1) % ranks].index.shape, hidden.shape[2])
            arriving = buffers[step % 2][: math.prod(shape)].view(shape)
            work = dist.batch_isend_irecv(
                [
                    dist.P2POp(dist.isend, held, following, group),
                    dist.P2POp(dist.irecv, arriving, before, group),
                ]
            )
        yield source, held
        for transfer in work:
            transfer.wait()
        held = arriving


def _shared(shards: Shards, rank: int) -> tuple[Grouping, Grouping]:
    """The groups of this rank and of another, of the sequences that have tokens on both, in one order."""
    mine, theirs = shards.parts[shards.rank], shards.parts[rank]
    if not shards.packed:
        return form_groups(mine, "all", 0, 0), form_groups(theirs, "all", 0, 0)
    both = (mine.tokens > 0) & (theirs.tokens > 0)
    return _groups_of(mine, both), _groups_of(theirs, both)


def _groups_of(part: Sequences, taken: Bool[Tensor, " sequences"]) -> Grouping:
    numbers = taken.nonzero()[:, 0]
    if len(numbers) == 0:
        return Grouping(None, None, numbers, part.tokens)
    index = (torch.cumsum(taken, 0) - 1).clamp(min=0)[part.index]
    valid = taken[part.index] if part.valid is None else taken[part.index] & part.valid
    grouping = form_groups(Sequences(index, valid, part.tokens[numbers], packed=True), "all", 0, 0)
    return replace(grouping, sequence=numbers)


class _UseApart(torch.autograd.Function):
    """The same on each rank, where each goes on with tokens of its own: the gradients of all ranks are added up."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return total.view_as(total)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        total = upstream[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total, None


def over_features(
    hidden: Float[Tensor, "batch length features"],
    shards: Shards,
    grouping: Grouping,
    row: Formulation,
    settings: Settings,
    recompute: bool = False,
) -> Float[Tensor, " sequences"]:
    """Value of each sequence of a row that pairs features: from their correlations over the tokens of all ranks, F x F numbers a sequence.

    With `recompute` nothing but `hidden` lives until the backward pass, in which the sums are exchanged once more.
    """

    def value(tokens: Tensor) -> Tensor:
        correlations = _correlate(tokens, shards, grouping)
        assert row.pair is not None
        sequences = torch.arange(len(correlations), device=hidden.device)
        valid = torch.ones(correlations.shape[:2], dtype=torch.bool, device=hidden.device)
        each = Grouping(None, None, sequences, grouping.tokens)
        return aggregate_pairs(correlations, valid, each, row, row.pair, settings)

    if not recompute:
        return value(hidden)
    found: Tensor = checkpoint(value, hidden, use_reentrant=False, preserve_rng_state=False)
    return found


def _correlate(hidden: Tensor, shards: Shards, grouping: Grouping) -> Float[Tensor, "sequences features features"]:
    """What `standardised_features` makes of the tokens of all ranks, its inner products."""

    def total(of_groups: Tensor) -> Tensor:
        return shards.over_ranks(sum_by_sequence(of_groups, grouping.sequence, len(grouping.tokens)))

    def apart(of_sequences: Tensor) -> Tensor:
        used: Tensor = _UseApart.apply(of_sequences, shards.group)
        return used[grouping.sequence][:, None, :]

    tokens = grouping.gather(hidden.to(torch.promote_types(hidden.dtype, torch.float32)))
    count = grouping.tokens.to(tokens.dtype)[:, None]
    centred = tokens - apart(total(tokens.sum(dim=1)) / count.clamp(min=1))
    if grouping.valid is not None:
        centred = centred * grouping.valid[..., None]
    squares = total(centred.square().sum(dim=1))
    # A constant feature has no correlation with any other: it stays zero, and the root is not taken where it has no slope.
    vectors = centred / apart(squares.masked_fill(squares == 0, 1.0).sqrt())
    return total(torch.bmm(vectors.mT, vectors))
