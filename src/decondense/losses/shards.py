"""What each rank holds of a batch in, the sequences whose tokens lie on several ranks out. Knows process groups and token ids, no vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from decondense.errors import UserError
from decondense.losses.pairs import Moments, Pairs
from decondense.losses.row import Formulation
from decondense.losses.transforms import centred_tokens, standardised_features
from decondense.shapes import Int
from decondense.sums import Sequences, find_sequences, flat, sum_by_sequence

# What ranks compare are numbers: a dtype is its place here.
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
REFUSED = -1


@dataclass(frozen=True)
class Shards(Sequences):
    """Sequences whose tokens lie on the ranks of a group: `index` and `valid` are those of this rank's shard, `tokens` counts all.

    Attributes:
        group: the ranks.
        parts: the shard of each rank, as sequences with their tokens there; of token ids alone, so it is small beside hidden states.
    """

    group: dist.ProcessGroup
    parts: tuple[Sequences, ...]
    split: ClassVar[bool] = True

    @property
    def rank(self) -> int:
        return dist.get_rank(self.group)

    @property
    def here(self) -> Int[Tensor, " sequences"]:
        return self.parts[self.rank].tokens

    def over_ranks(self, part: Tensor) -> Tensor:
        """`part` added up over the ranks. Its gradient is that of the one value that each rank computes from the sum alike."""
        total: Tensor = _AddUp.apply(part, self.group)
        return total

    def as_part(self, term: Tensor, averaged: bool) -> Tensor:
        """Over n ranks the values of `term` add up to n times it, its gradients (each by a rank's own tokens) to one."""
        ranks = len(self.parts)
        value, gradient = (1.0, float(ranks)) if averaged else (1.0 / ranks, 1.0)
        return gradient * term + (value - gradient) * term.detach()

    def to(self, device: torch.device) -> Shards:
        here = super().to(device)
        parts = tuple(part.to(device) for part in self.parts)
        return Shards(here.index, here.valid, here.tokens, here.packed, self.group, parts)


class _AddUp(torch.autograd.Function):
    """Added up over the ranks; what follows is computed alike on each rank, whose gradient is therefore whole already."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, group: dist.ProcessGroup) -> Tensor:
        total = part.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        return upstream[0], None


def find_group(across: Any, sharded_over: Any) -> dist.ProcessGroup | None:
    """The process group whose ranks share sequences, by the arguments of `DispersionLoss`; None where each rank is alone.

    Raises:
        UserError: (a ValueError) neither argument is what it may be, or both name ranks.
    """
    group = None if sharded_over is None else _as_group("sharded_over", sharded_over)
    if isinstance(across, str) and across in ("sequence", "batch"):
        return group
    if group is not None:
        raise UserError(
            f"across={across!r}, sharded_over={sharded_over!r}: both name ranks; where rows are sharded too, give across the group of all "
            "ranks whose tokens are one set, and leave sharded_over out"
        )
    return _as_group("across", across)


def _as_group(name: str, given: Any) -> dist.ProcessGroup:
    kinds = "a process group that this rank is in, or one dimension of a device mesh (mesh['cp'])"
    if name == "across":
        kinds = f"'sequence', 'batch', {kinds}"
    if dist.is_available():
        from torch.distributed.device_mesh import DeviceMesh

        if isinstance(given, dist.ProcessGroup):
            return given
        if isinstance(given, DeviceMesh):
            if given.ndim != 1:
                raise UserError(f"{name}: the device mesh has {given.ndim} dimensions; give one of them, as mesh['cp']")
            return given.get_group()
    raise UserError(f"{name}={given!r}: expected {kinds}")


def check_sharding(row: Formulation, pairs: Pairs, engine: str) -> None:
    """Raise a UserError, one line, where a loss cannot be computed over sequences that lie on several ranks."""
    if row.slope is None:
        raise UserError(
            f"{row.name} is no sum over pairs with a known slope, so it needs all tokens of a sequence on one rank"
        )
    if not _can_be_split(row, pairs):
        raise UserError(
            f"{row.name}: its transform {row.transform.name} reads tokens of the sequence that lie on other ranks; one that is tokenwise does not"
        )
    if engine not in ("auto", "blocked"):
        raise UserError(f"engine={engine!r} sees the tokens of one rank: use 'auto' over sequences that lie on several")
    if not (isinstance(pairs, Moments) or pairs == "all"):
        raise UserError(
            f"pairs={pairs}: random tokens of a sequence lie on several ranks; use Moments(order), one exchange of sums, or 'all'"
        )
    if isinstance(pairs, Moments) and row.features:
        raise UserError(f"pairs={pairs}: {row.name} pairs features; over several ranks 'all' costs no more: use that")


def _can_be_split(row: Formulation, pairs: Pairs) -> bool:
    """Whether vectors of tokens on several ranks can be had: each by itself, or in one of two ways that `parallel.py` knows."""
    if row.features:
        return row.transform == standardised_features
    # Distances do not see that each shard has a centre of its own.
    centred = row.transform == centred_tokens and row.distances and pairs == "all"
    return row.transform.tokenwise or centred


def find_shards(
    hidden: Tensor,
    mask: Tensor | None,
    documents: Tensor | None,
    group: dist.ProcessGroup,
    together: bool,
    check: Callable[[Tensor, Tensor | None, Tensor | None], None],
) -> Shards:
    """The sequences whose tokens lie on the ranks of `group`: rows, documents of a row, or (`together`) one of all tokens.

    A row is that of all ranks with the same number in their batch; documents are numbered as they begin when shards are joined in the order of ranks.
    Where input is wrong on one rank, every rank raises.

    Raises:
        TypeError, UserError: what `check` raises; shapes, dtypes or arguments that do not fit together over the ranks.
    """
    refused: TypeError | UserError | None = None
    try:
        check(hidden, mask, documents)
        if hidden.dtype not in DTYPES:
            raise TypeError(f"hidden: expected float16, bfloat16, float32 or float64, got {hidden.dtype}")
    except (TypeError, UserError) as error:
        refused = error
    if together:
        mask, documents = flat(mask) if isinstance(mask, Tensor) else None, None
    lengths, masked = _agree(hidden, mask, documents, group, together, refused)
    shape, device = (1 if together else hidden.shape[0], lengths[dist.get_rank(group)]), hidden.device
    if masked or documents is not None:
        masks, ids = _gather(mask, documents, shape, lengths, group, device)
        whole = find_sequences((shape[0], sum(lengths)), device, masks if masked else None, ids)
    else:
        whole = find_sequences((shape[0], sum(lengths)), device, None, None)
    count = len(whole.tokens)
    parts = []
    for places in _places(lengths):
        index = whole.index[:, places].contiguous()
        valid = None if whole.valid is None else whole.valid[:, places].contiguous()
        real = torch.ones_like(index) if valid is None else valid.long()
        tokens = sum_by_sequence(real.reshape(-1), index.reshape(-1), count)
        parts.append(Sequences(index, valid, tokens, whole.packed))
    here = parts[dist.get_rank(group)]
    return Shards(here.index, here.valid, whole.tokens, whole.packed, group, tuple(parts))


def _agree(
    hidden: Tensor,
    mask: Tensor | None,
    documents: Tensor | None,
    group: dist.ProcessGroup,
    together: bool,
    refused: TypeError | UserError | None,
) -> tuple[list[int], bool]:
    """The tokens of a row on each rank, and whether any has a mask. Raises on every rank where one refuses its input, or they do not fit."""
    mine = [REFUSED] * 7
    if refused is None:
        batch, length, features = hidden.shape
        rows, tokens = (1, batch * length) if together else (batch, length)
        needs_gradient = torch.is_grad_enabled() and hidden.requires_grad
        dtype = DTYPES.index(hidden.dtype)
        mine = [tokens, mask is not None, rows, features, dtype, documents is not None, needs_gradient]
    sent = torch.tensor(mine, dtype=torch.int64, device=_device(hidden, group))
    seen = [torch.empty_like(sent) for _ in range(dist.get_world_size(group))]
    dist.all_gather(seen, sent, group=group)
    of_ranks = torch.stack(seen).tolist()
    if refused is not None:
        raise refused
    for rank, given in enumerate(of_ranks):
        if given[0] == REFUSED:
            raise UserError(f"rank {rank} of the group refused its input, and its error says why: no rank can go on")
    kinds = (
        "the batch's rows",
        "features",
        "the dtype",
        "whether there are documents (0 or 1)",
        "whether gradients are wanted (0 or 1)",
    )
    for place, kind in enumerate(kinds, start=2):
        values = [given[place] for given in of_ranks]
        if len(set(values)) > 1:
            shown = [str(DTYPES[value]) if place == 4 else str(value) for value in values]
            raise UserError(
                f"hidden: {kind} must be the same on all ranks of the group, got {', '.join(shown)} in their order"
            )
    return [given[0] for given in of_ranks], any(given[1] for given in of_ranks)


def _device(hidden: Tensor, group: dist.ProcessGroup) -> torch.device:
    """Where ranks can compare numbers, also the rank whose input is none."""
    on_gpu = "nccl" in dist.get_backend(group)
    if isinstance(hidden, Tensor) and not (on_gpu and hidden.device.type == "cpu"):
        return hidden.device
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


def _gather(
    mask: Tensor | None,
    documents: Tensor | None,
    shape: tuple[int, int],
    lengths: list[int],
    group: dist.ProcessGroup,
    device: torch.device,
) -> tuple[Tensor | None, Tensor | None]:
    """Masks and document ids of all ranks, joined: two numbers a token."""
    kept = torch.zeros((2, shape[0], max(lengths)), dtype=torch.int64, device=device)
    kept[0, :, : shape[1]] = 1 if mask is None else mask.to(device) != 0
    kept[1, :, : shape[1]] = 0 if documents is None else documents.to(device)
    seen = [torch.empty_like(kept) for _ in lengths]
    dist.all_gather(seen, kept, group=group)
    masks, ids = torch.cat([part[..., :length] for part, length in zip(seen, lengths, strict=True)], dim=-1)
    return masks, None if documents is None else ids


def _places(lengths: list[int]) -> list[slice]:
    ends = [sum(lengths[: number + 1]) for number in range(len(lengths))]
    return [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]
