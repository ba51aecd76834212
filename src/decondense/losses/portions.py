"""Groups of tokens in, their transformed vectors in portions out; and gradients by the vectors back to gradients by the hidden states.

What the engines share that go through a batch piece by piece. Knows transforms, no pair function.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from decondense.losses.pairs import Grouping
from decondense.losses.row import Formulation, Settings
from decondense.shapes import Bool, Float

# Items on a side of a block of pairs, and pairs at once: on a processor the few buffers of a block stay in its cache; on a GPU a kernel is
# long enough to be worth its start.
BLOCK_OF = {"cpu": 256, "cuda": 2048}
PAIRS_AT_ONCE = {"cpu": 256 * 256, "cuda": 16 * 2048 * 2048}


def portions(
    hidden: Tensor, grouping: Grouping, row: Formulation, settings: Settings
) -> Iterator[tuple[slice, Float[Tensor, "groups items width"], Bool[Tensor, "groups items"] | None]]:
    """Groups in portions whose blocks of pairs are of one size: their places, transformed vectors, and which of these are real."""
    items = hidden.shape[2] if row.features else group_size(hidden, grouping)
    size = block_size(hidden.device, items)
    portion = max(1, pairs_at_once(hidden.device) // (size * size))
    for start in range(0, len(grouping.sequence), portion):
        groups = slice(start, min(start + portion, len(grouping.sequence)))
        tokens, valid = read_tokens(hidden, groups, grouping)
        with torch.no_grad():
            vectors = row.transform(tokens, all_if_none(valid, tokens), settings)
        yield groups, vectors, None if row.features else valid


def read_tokens(hidden: Tensor, groups: slice, grouping: Grouping) -> tuple[Tensor, Tensor | None]:
    tokens = grouping.gather(hidden.detach(), groups)
    tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
    return tokens, None if grouping.valid is None else grouping.valid[groups]


def pull_back(
    hidden: Tensor,
    pull: Float[Tensor, "groups items width"],
    groups: slice,
    grouping: Grouping,
    row: Formulation,
    settings: Settings,
) -> Float[Tensor, "groups size features"]:
    """The gradient by the vectors of some groups, turned into that by their tokens: the transform's backward pass.

    It overwrites `pull`, and returns it, where the transform is tokenwise.
    """
    tokens, valid = read_tokens(hidden, groups, grouping)
    real = all_if_none(valid, tokens)
    backward = row.transform.backward
    assert backward is not None, "a row whose transform has no backward pass is run by the eager engine"
    length = tokens.shape[1]
    if not row.transform.tokenwise:
        found = backward(tokens, real, pull, settings)
        return found if valid is None else found.masked_fill(~valid[..., None], 0.0)
    for start in range(0, length, BLOCK_OF["cpu"]):
        places = slice(start, min(start + BLOCK_OF["cpu"], length))
        found = backward(tokens[:, places], real[:, places], pull[:, places], settings)
        pull[:, places] = found if valid is None else found.masked_fill_(~valid[:, places, None], 0.0)
    return pull


def put_back(gradient: Tensor, pull: Tensor, groups: slice, grouping: Grouping) -> None:
    """Add the gradient by the tokens of some groups to that by the batch."""
    if grouping.index is None:
        gradient[groups] = pull
    else:
        gradient.view(-1, gradient.shape[-1]).index_add_(
            0, grouping.index[groups].reshape(-1), pull.reshape(-1, pull.shape[-1])
        )


def scale_by_sequence(gradient: Tensor, weights: Float[Tensor, " sequences"], grouping: Grouping) -> None:
    """Multiply, in place, the gradient by each token with the weight of its sequence."""
    if grouping.index is None:
        gradient.mul_(weights[grouping.sequence][:, None, None])
        return
    of_slot = weights[grouping.sequence][:, None].expand(grouping.index.shape)
    if grouping.valid is not None:
        of_slot = of_slot.masked_fill(~grouping.valid, 0.0)
    of_token = torch.zeros(gradient.shape[:2].numel(), dtype=weights.dtype, device=weights.device)
    of_token.index_add_(0, grouping.index.reshape(-1), of_slot.reshape(-1))
    gradient.mul_(of_token.view(*gradient.shape[:2], 1))


def group_size(hidden: Tensor, grouping: Grouping) -> int:
    return hidden.shape[1] if grouping.index is None else grouping.index.shape[1]


def block_size(device: torch.device, items: int) -> int:
    return min(items, BLOCK_OF.get(device.type, BLOCK_OF["cpu"]))


def pairs_at_once(device: torch.device) -> int:
    return PAIRS_AT_ONCE.get(device.type, PAIRS_AT_ONCE["cpu"])


def all_if_none(valid: Tensor | None, tokens: Tensor) -> Tensor:
    return tokens.new_ones(tokens.shape[:2], dtype=torch.bool) if valid is None else valid
