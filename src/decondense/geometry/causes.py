"""The unit vectors of texts and what is known of their tokens in, what carries their mean cosine out. Knows tensors only.

Each cause is removed from a text and the mean cosine of the rest is taken, exactly and without forming a pair: a sum over pairs of a set of
tokens is ||sum u||^2 - sum ||u||^2 of that set. What belongs to no single text adds up over texts: where their mean vectors point, which
features carry these, and how near the token at each position is to the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from decondense.shapes import Bool, Float, Int

ROGUE = 3
"""Features taken for rogue: those of a text's largest contributions (Timkey & van Schijndel 2021 find one to three)."""

MASSIVE = 5.0
"""A token is a sink where its vector is this many times as long as the median of its text (massive activations are 10 to 1000 times)."""


@dataclass(frozen=True)
class Marks:
    """What is known of the tokens of a batch beside their hidden states, all [batch, length]; padding holds anything.

    Attributes:
        kinds: int64, tokens of one row with one number are the same token; small numbers, from 0.
        sinks: bool, tokens that often are attention sinks: the first of a text, separators.
        frequent: bool, the most frequent tokens.
        keys: int64, random priorities for a sample of tokens.
    """

    kinds: Int[Tensor, "batch length"]
    sinks: Bool[Tensor, "batch length"]
    frequent: Bool[Tensor, "batch length"]
    keys: Int[Tensor, "batch length"]

    def __getitem__(self, rows: slice) -> Marks:
        """The marks of some rows."""
        return Marks(*(one[rows] for one in vars(self).values()))

    def gather(self, order: Int[Tensor, "batch longest"]) -> Marks:
        """The marks of the tokens at these places."""
        return Marks(*(one.to(order.device).gather(1, order) for one in vars(self).values()))


def find_causes(
    units: Float[Tensor, "batch length features"],
    lengths: Float[Tensor, "batch length"],
    tokens: Int[Tensor, " batch"],
    marks: Marks,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What carries the mean cosine of each text: numbers of each text, and sums over texts.

    Args:
        units: unit vectors; a row's first `tokens` are real, the rest zero.
        lengths: of the vectors before they were scaled.
        tokens: of each text, on the CPU.
        marks: of the tokens.

    Returns:
        By name, [batch]: `rogue`, the share of ||sum u||^2 in its `ROGUE` largest features, and the mean cosine over i != j without them
        (`without_rogue`), among tokens that are no sinks (`without_sinks`), that are not frequent (`without_frequent`), and over pairs of
        different tokens (`without_repeats`); NaN where fewer than two tokens are left.
        By name, float64: `directions` [features], the sum of the texts' mean unit vectors; `features` [features], the sum of their squares;
        `positions` [length], the sum over texts of the mean cosine of the token at a position to the others; `at_position` [length], texts
        that have a token there.
    """
    device = units.device
    count = tokens.to(device)
    real = torch.arange(units.shape[1], device=device) < count[:, None]
    nonzero = (lengths > 0).to(units.dtype)
    median = lengths.masked_fill(~real, math.nan).nanmedian(dim=1).values
    sinks = marks.sinks.to(device) | (lengths > MASSIVE * median[:, None])
    kept = [torch.ones_like(real), ~sinks, ~marks.frequent.to(device)]
    weights = torch.stack(kept, dim=1).to(units.dtype)
    sums = torch.bmm(weights, units)
    resultant = sums[:, 0]
    of_features = resultant.square()
    share, rogue = of_features.topk(min(ROGUE, units.shape[2]), dim=1)

    # Without its rogue features a vector is shorter: it is scaled to length one again. What they were all of is rounding.
    rest = 1 - units.gather(2, rogue[:, None, :].expand(-1, units.shape[1], -1)).square().sum(dim=2)
    scale = torch.where((rest > 1e-6) & (nonzero > 0), rest.clamp(min=1e-6).rsqrt(), 0.0)
    without_rogue = torch.bmm(scale[:, None, :], units)[:, 0].scatter(1, rogue, 0.0)

    # One number a kind and row; sums over a kind's tokens, then over the kinds of a row.
    batch, _, features = units.shape
    kinds = marks.kinds.to(device).masked_fill(~real, 0)
    most = int(kinds.max()) + 1
    kinds = (kinds + most * torch.arange(batch, device=device)[:, None]).view(-1)
    of_kinds = units.new_zeros((batch * most, features)).index_add_(0, kinds, units.reshape(-1, features))
    alike = of_kinds.view(batch, -1).square().sum(dim=1).cpu().double()
    sizes = torch.zeros(batch * most, dtype=torch.int64, device=device).index_add_(0, kinds, real.view(-1).long())
    pairs_alike = sizes.view(batch, most).square().sum(dim=1).cpu().double()

    total = of_features.sum(dim=1).cpu().double()
    held = [(mask & real).sum(dim=1).cpu().double() for mask in kept]
    own = (weights * nonzero[:, None, :]).sum(dim=2).cpu().double()
    of_sets = sums.square().sum(dim=2).cpu().double()
    of_texts = {
        "rogue": torch.where(total > 0, share.sum(dim=1).cpu().double() / total, math.nan),
        "without_rogue": _mean(
            without_rogue.square().sum(dim=1).cpu().double() - (scale > 0).sum(dim=1).cpu(), tokens.double()
        ),
        "without_sinks": _mean(of_sets[:, 1] - own[:, 1], held[1]),
        "without_frequent": _mean(of_sets[:, 2] - own[:, 2], held[2]),
        "without_repeats": _divide(total - alike, tokens.double() ** 2 - pairs_alike),
    }
    # A product from the left: from the right, on a CPU, it costs several times as much.
    near = (torch.bmm(resultant[:, None, :], units.mT)[:, 0] - nonzero) / (count[:, None] - 1)
    means = (resultant / count[:, None]).cpu().double()
    totals = {
        "directions": means.sum(dim=0),
        "features": means.square().sum(dim=0),
        "positions": (near * real).sum(dim=0).cpu().double(),
        "at_position": real.sum(dim=0).cpu().double(),
    }
    return of_texts, totals


def add_totals(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sums of both, name by name, on the CPU; a shorter vector counts as zero where it ends."""
    added = dict(first)
    for name, values in second.items():
        one, two = added.get(name), values.cpu()
        if one is not None:
            length = max(len(one), len(two))
            two = torch.nn.functional.pad(one, (0, length - len(one))) + torch.nn.functional.pad(
                two, (0, length - len(two))
            )
        added[name] = two
    return added


def _mean(sum_of_pairs: Tensor, tokens: Tensor) -> Tensor:
    return _divide(sum_of_pairs, tokens * (tokens - 1))


def _divide(total: Tensor, pairs: Tensor) -> Tensor:
    return torch.where(pairs > 0, total / pairs.clamp(min=1), math.nan)
