"""Which pairs: tokens, masks and documents in, groups of tokens out whose pairs are to be summed. Knows no formulation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from decondense.draws import random_keys
from decondense.errors import UserError
from decondense.ranks import rank
from decondense.shapes import Bool, Float, Int
from decondense.sums import Sequences


@dataclass(frozen=True)
class Partition:
    """All pairs inside the groups of a random partition: each sequence is split at random into groups of at most `size` tokens.

    Every token is in one group, group sizes of a sequence differ by at most one, and the partition is drawn anew from
    (seed, step, layer). The sum over pairs is scaled to all pairs, so its expectation is the exact sum; pairs of a token with itself are exact.
    With `control` the expansion of that order (see `Moments`) is taken over all pairs, and only what it leaves over is sampled.
    Each process of a distributed run draws its own partition, unless `same_on_ranks`: ranks that hold the same tokens (tensor parallelism) need that.

    Raises:
        UserError: a size below 2 leaves no pair.
    """

    size: int = 64
    control: int = 0
    seed: int = 0
    same_on_ranks: bool = False

    def __post_init__(self) -> None:
        if self.size < 2:
            raise UserError(f"pairs=Partition({self.size}): a group needs at least 2 tokens to have a pair")
        if self.control not in (0, 1, 2):
            raise UserError(
                f"pairs=Partition({self.size}, control={self.control}): control is the order of an expansion, 1 or 2, or 0 for none"
            )


@dataclass(frozen=True)
class Moments:
    """No pairs: the pair function expanded about the mean of its argument, finished from sums over tokens (`losses/moments.py`).

    Order 1 costs O(length features), order 2 O(length features min(length, features)). Exact for pair functions that are polynomials of that order.

    Raises:
        UserError: an order that is not 1 or 2.
    """

    order: int = 1

    def __post_init__(self) -> None:
        if self.order not in (1, 2):
            raise UserError(f"pairs=Moments({self.order}): the order of the expansion is 1 or 2")


@dataclass(frozen=True)
class Subset:
    """The paper's choice: all pairs of `size` random tokens of each sequence, as if the others were not there.

    Each process of a distributed run draws its own tokens, unless `same_on_ranks`: ranks that hold the same tokens (tensor parallelism) need that.

    Raises:
        UserError: a size below 2 leaves no pair.
    """

    size: int = 256
    seed: int = 0
    same_on_ranks: bool = False

    def __post_init__(self) -> None:
        if self.size < 2:
            raise UserError(f"pairs=Subset({self.size}): a subset needs at least 2 tokens to have a pair")


Pairs = Moments | Partition | Subset | str


@dataclass(frozen=True)
class Grouping:
    """Which tokens are summed together: the pairs of a group are all pairs of its tokens.

    Attributes:
        index: [groups, size] int64, the place of each token in the flattened batch; None where the groups are the rows as they are.
        valid: [groups, size] bool, false where there is no token; None where there is one everywhere.
        sequence: [groups] int64, the sequence that each group belongs to.
        tokens: [sequences] int64, the tokens that the groups of a sequence stand for.
    """

    index: Int[Tensor, "groups size"] | None
    valid: Bool[Tensor, "groups size"] | None
    sequence: Int[Tensor, " groups"]
    tokens: Int[Tensor, " sequences"]

    @property
    def whole(self) -> bool:
        """Whether each sequence is one group (or none: a sequence that lies on other ranks)."""
        return len(self.sequence) <= len(self.tokens)

    def gather(
        self, hidden: Float[Tensor, "batch length features"], groups: slice = slice(None)
    ) -> Float[Tensor, "groups size features"]:
        """The tokens of the groups, zero where there is none; `hidden` itself where nothing has to move."""
        if self.index is None:
            tokens = hidden[groups]
        else:
            tokens = hidden.reshape(-1, hidden.shape[-1])[self.index[groups]]
        return tokens if self.valid is None else tokens.masked_fill(~self.valid[groups][..., None], 0.0)


def form_groups(sequences: Sequences, pairs: Partition | Subset | str, step: int | Tensor, layer: int) -> Grouping:
    """Bring the tokens of each sequence together: all of them, a random partition, or a random subset.

    Where rows are not packed all sizes follow from the shapes alone, so that nothing waits for a GPU.
    """
    batch, length = sequences.index.shape
    count, device = sequences.here, sequences.index.device
    if pairs == "all" and not sequences.packed:
        return Grouping(None, sequences.valid, torch.arange(batch, device=device), sequences.tokens)

    longest = max(int(count.max()), 1) if sequences.packed and len(count) else length
    size = longest if isinstance(pairs, str) else min(pairs.size, longest)
    groups_of = -(-count // size) if isinstance(pairs, Partition) else (count > 0).long()
    full = False
    if sequences.packed:
        total = int(groups_of.sum())
        first_group = torch.cumsum(groups_of, 0) - groups_of
        owner = torch.repeat_interleave(torch.arange(len(count), device=device), groups_of, output_size=total)
    else:
        room = -(-length // size) if isinstance(pairs, Partition) else 1
        size = -(-length // room) if isinstance(pairs, Partition) else size
        full = sequences.valid is None and (isinstance(pairs, Subset) or room * size == length)
        total = batch * room
        first_group = torch.arange(batch, device=device) * room
        owner = torch.arange(total, device=device) // room

    keys = None if isinstance(pairs, str) else random_keys(batch * length, _seed(pairs), step, layer, device)
    token, sequence, rank = _rank_in_sequence(sequences, keys)
    parts = groups_of[sequence].clamp(min=1)
    slot, group = rank // parts, first_group[sequence] + rank % parts
    # What is not taken (padding, tokens outside a subset) goes to one place past the end, which is cut off.
    taken = slot < size
    if sequences.valid is not None:
        taken = taken & sequences.valid.reshape(-1)[token]
    place = torch.where(taken, group * size + slot, total * size)
    index = torch.zeros(total * size + 1, dtype=torch.int64, device=device).scatter(0, place, token)[:-1]
    valid = torch.zeros(total * size + 1, dtype=torch.bool, device=device).scatter(0, place, taken)[:-1]
    represented = sequences.tokens.clamp(max=size) if isinstance(pairs, Subset) else sequences.tokens
    return Grouping(index.view(total, size), None if full else valid.view(total, size), owner, represented)


def _seed(pairs: Partition | Subset) -> int:
    # Far apart: the seeds that users count up must not meet those of other ranks.
    return pairs.seed if pairs.same_on_ranks else pairs.seed + 1_000_003 * rank()


def _rank_in_sequence(
    sequences: Sequences, keys: Int[Tensor, " tokens"] | None
) -> tuple[Int[Tensor, " tokens"], Int[Tensor, " tokens"], Int[Tensor, " tokens"]]:
    """Order tokens by (sequence, key), padding last: token numbers, their sequences, and their rank in the sequence."""
    count = len(sequences.tokens)
    order = sequences.index if sequences.valid is None else torch.where(sequences.valid, sequences.index, count)
    order = order.reshape(-1)
    if keys is not None:
        order = (order << 32) | keys
    token = torch.argsort(order, stable=True)
    sequence = sequences.index.reshape(-1)[token]
    first = torch.cumsum(sequences.here, 0) - sequences.here
    rank = torch.arange(len(token), device=token.device) - first[sequence]
    return token, sequence, rank.clamp(min=0)
