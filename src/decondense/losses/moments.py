"""The sum over pairs without pairs: the pair function expanded about the mean of its argument, finished from sums over tokens.

Over i != j, sum c_ij = ||sum u||^2 - sum ||u||^2 and sum c_ij^2 = ||U^T U||_F^2 - sum ||u||^4. With m the mean of x_ij over i != j (x = c, or squared
distances), phi(x) is replaced by phi(m) + phi'(m) (x - m) + phi''(m) (x - m)^2 / 2, whose coefficients are constants in the backward pass. Order 1
reads the tokens once for the value and once for the gradient; order 2 forms U^T U or the Gram matrix, whichever is smaller.
Exact where phi is a polynomial of that order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from decondense.losses.aggregate import aggregate, count_items
from decondense.losses.blocked import Call, Expansion, sum_pairs
from decondense.losses.pairs import Grouping
from decondense.losses.portions import group_size, portions, pull_back, put_back
from decondense.losses.row import Formulation, Settings
from decondense.losses.transforms import unit_tokens
from decondense.shapes import Float
from decondense.sums import Sequences, sum_by_sequence

# Tokens that are read at once: few enough to stay in a cache between the products that need them, enough to be worth a call.
TOKENS_AT_ONCE = {"cpu": 2048, "cuda": 1 << 16}

# A sequence that is alone in its batch is read in so many parts side by side.
PARTS = 8


@dataclass(frozen=True)
class Expanded:
    """The expansion of each sequence, all [sequences]: the sum over i != j by it, its coefficients, and the shift of the logits."""

    total: Tensor
    coefficients: Expansion
    shift: Tensor


def moments(
    hidden: Float[Tensor, "batch length features"],
    sequences: Sequences,
    whole: Grouping,
    row: Formulation,
    settings: Settings,
    order: int,
    sampled: Grouping | None = None,
    recompute: bool = False,
    engine: str = "blocked",
) -> tuple[Float[Tensor, " sequences"], Float[Tensor, "batch length"] | None]:
    """Value of each sequence by the expansion of `order` 1 or 2; the pairs of a token with itself, where the row counts them, are exact.

    With `sampled` groups the expansion is a control variate: what the pairs inside the groups leave over, scaled to all pairs, is added. Where
    that makes a sum that must be positive no longer so, the sequence keeps the expansion alone.

    Also returns the squared lengths of the tokens' vectors, where they were computed in place: what is not finite shows in them.
    """
    sums = _sum_tokens(hidden, sequences, whole, row, settings, order)
    items = count_items(whole.tokens, hidden.shape[2], row)
    expanded = _expand(sums, sequences, items, row, settings, order)
    diagonal = _diagonal(sums, sequences, row, settings, expanded.shift) if row.diagonal else 0.0
    total = expanded.total + diagonal
    if sampled is not None:
        call = Call(row, settings, sampled, expanded.shift, recompute, expanded.coefficients, False, engine)
        corrected = total + sum_pairs(hidden, call)
        positive = corrected > 0 if row.aggregate.startswith("log") else torch.ones_like(corrected, dtype=torch.bool)
        total = torch.where(positive, corrected, total)
    squares = sums.squares.detach() if sums.owner is sequences.index else None
    return aggregate(total, items, row, expanded.shift), squares


@dataclass(frozen=True)
class TokenSums:
    """Sums over the items (tokens, or features) of each sequence, differentiable; of a sequence that other ranks share, over all its tokens.

    Attributes:
        squares: [groups, items], ||u||^2 of each item of this rank, zero for padding.
        resultant: [sequences, width], sum of u.
        weighted: [sequences, width], sum of ||u||^2 u; None where it was not needed.
        products: [sequences], sum over all i, j of c_ij^2; None below order 2.
        owner: [groups, items], the sequence of each item.
        valid: [groups, items], false at padding; None where there is none.
    """

    squares: Tensor
    resultant: Tensor
    weighted: Tensor | None
    products: Tensor | None
    owner: Tensor
    valid: Tensor | None


def _expand(
    sums: TokenSums, sequences: Sequences, items: Tensor, row: Formulation, settings: Settings, order: int
) -> Expanded:
    assert row.pair is not None and row.slope is not None and row.curvature is not None
    count = len(items)
    owner = sums.owner.reshape(-1)
    n = items.to(sums.resultant)
    pairs = (n * (n - 1)).clamp(min=1)
    first = sequences.over_ranks(sum_by_sequence(sums.squares.reshape(-1), owner, count))
    cosines = sums.resultant.square().sum(dim=-1) - first
    total = 2 * (n - 1) * first - 2 * cosines if row.distances else cosines
    at = (total / pairs).detach()
    logit = row.pair(at, settings)
    slope, curvature = row.slope(at, settings), row.curvature(at, settings)
    if row.aggregate == "log_mean_exp":
        # phi = exp(logit - shift) with the shift at the mean: phi is 1 there.
        shift, height = logit, torch.ones_like(logit)
        curvature = curvature + slope.square()
    else:
        shift, height = torch.zeros_like(logit), logit
    away = total / pairs - at
    mean = height + slope * away
    if order == 2:
        assert sums.products is not None
        second = sequences.over_ranks(sum_by_sequence(sums.squares.square().reshape(-1), owner, count))
        squared = sums.products - second
        if row.distances:
            assert sums.weighted is not None
            lengths = 2 * (n - 1) * second + 2 * (first.square() - second)
            mixed = 2 * ((sums.weighted * sums.resultant).sum(dim=-1) - second)
            squared = lengths - 4 * mixed + 4 * squared
        mean = mean + 0.5 * curvature * (squared / pairs - 2 * at * total / pairs + at.square())
    bend = curvature if order == 2 else torch.zeros_like(curvature)
    return Expanded(mean * pairs, Expansion(at, height, slope, bend), shift)


def _diagonal(sums: TokenSums, sequences: Sequences, row: Formulation, settings: Settings, shift: Tensor) -> Tensor:
    assert row.pair is not None
    values = row.pair(torch.zeros_like(sums.squares) if row.distances else sums.squares, settings)
    if row.aggregate == "log_mean_exp":
        values = (values - shift[sums.owner]).exp()
    if sums.valid is not None:
        values = torch.where(sums.valid, values, 0.0)
    return sequences.over_ranks(sum_by_sequence(values.reshape(-1), sums.owner.reshape(-1), len(shift)))


def _sum_tokens(
    hidden: Tensor, sequences: Sequences, whole: Grouping, row: Formulation, settings: Settings, order: int
) -> TokenSums:
    if order == 1 and row.transform is unit_tokens:
        squares, resultant = _UnitSums.apply(hidden, sequences, settings.epsilon)
        return TokenSums(squares, sequences.over_ranks(resultant), None, None, sequences.index, sequences.valid)
    products, weighted = order == 2, order == 2 and row.distances
    squares, resultant, of_squares, of_products = _GroupSums.apply(
        hidden, sequences, whole, row, settings, products, weighted
    )
    resultant, of_squares = sequences.over_ranks(resultant), sequences.over_ranks(of_squares)
    owner = whole.sequence[:, None].expand(squares.shape)
    valid = None if row.features else whole.valid
    return TokenSums(
        squares, resultant, of_squares if weighted else None, of_products if products else None, owner, valid
    )


class _UnitSums(torch.autograd.Function):
    """Sum of the unit vectors of each sequence and their squared lengths: (hidden) -> [batch, length], [sequences, features].

    The input is read once here and once in the backward pass, in pieces that stay in the cache; of its size only itself is kept.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, sequences: Sequences, epsilon: float) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        batch, length, features = hidden.shape
        resultant = torch.zeros((len(sequences.tokens), features), dtype=dtype, device=hidden.device)
        norms = torch.empty((batch, length), dtype=dtype, device=hidden.device)
        for places in _pieces(hidden):
            tokens = _read(hidden, sequences, places)
            norm = torch.linalg.vector_norm(tokens, dim=-1)
            norms[:, places] = norm
            scale = _inverse(norm, epsilon)
            if sequences.packed:
                scaled = (tokens * scale[..., None]).reshape(-1, features)
                resultant.index_add_(0, sequences.index[:, places].reshape(-1), scaled)
            else:
                parts = _for_threads(tokens)
                found = torch.bmm(scale.view(len(parts), 1, -1), parts)
                resultant += found.view(batch, -1, features).sum(dim=1)
        ctx.sequences, ctx.epsilon = sequences, epsilon
        ctx.save_for_backward(hidden, norms)
        return (norms * _inverse(norms, epsilon)).square(), resultant

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        of_squares, of_resultant = upstream
        hidden, norms = ctx.saved_tensors
        sequences = ctx.sequences
        # u = z s with s = 1 / (||z|| + epsilon): pulls (of_resultant + 2 of_squares u) back through s, whose gradient is -s^2 z / ||z||.
        scale = _inverse(norms, ctx.epsilon)
        inward = scale.square() / norms.masked_fill(norms == 0, 1.0)
        own = 2 * of_squares * scale.square() - inward * (2 * of_squares * norms.square() * scale)
        if sequences.valid is not None:
            scale, inward, own = scale * sequences.valid, inward * sequences.valid, own * sequences.valid
        gradient = torch.empty_like(hidden)
        for places in _pieces(hidden):
            tokens = _read(hidden, sequences, places)
            if sequences.packed:
                direction = of_resultant[sequences.index[:, places]]
                along = torch.linalg.vecdot(tokens, direction)
            else:
                direction = of_resultant[:, None, :]
                # A product from the left: from the right, on a CPU, it costs several times as much.
                parts = _for_threads(tokens)
                each = direction if len(parts) == len(tokens) else direction.expand(len(parts), -1, -1)
                along = torch.bmm(each, parts.mT).view(tokens.shape[:2])
            factor = torch.addcmul(own[:, places], inward[:, places], along, value=-1)
            found = gradient[:, places] if gradient.dtype == tokens.dtype else torch.empty_like(tokens)
            torch.mul(tokens, factor[..., None], out=found).addcmul_(scale[:, places, None], direction)
            if found.dtype != gradient.dtype:
                gradient[:, places] = found
        return gradient, None, None


class _GroupSums(torch.autograd.Function):
    """Sums of any transform, and of its second moment: squares [groups, items], resultant and weighted [sequences, width], products [sequences].

    Of sequences that other ranks share, only the second moment is added up over the ranks here.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        sequences: Sequences,
        grouping: Grouping,
        row: Formulation,
        settings: Settings,
        products: bool,
        weighted: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        count, size = len(grouping.tokens), group_size(hidden, grouping)
        items, width = (hidden.shape[2], size) if row.features else (size, hidden.shape[2])
        start = hidden.new_zeros(0, dtype=torch.promote_types(hidden.dtype, torch.float32))
        squares = start.new_zeros((len(grouping.sequence), items))
        resultant = start.new_zeros((count, width))
        of_squares = start.new_zeros((count if weighted else 0, width))
        of_products = start.new_zeros(count if products else 0)
        # Ranks can only add up the matrix whose size does not depend on their tokens.
        together = start.new_zeros((count, width, width)) if products and sequences.split else None
        kept: list[Tensor | None] = []
        for groups, vectors, _ in portions(hidden, grouping, row, settings):
            owner = grouping.sequence[groups]
            square = vectors.square().sum(dim=-1)
            squares[groups] = square
            resultant.index_add_(0, owner, vectors.sum(dim=1))
            if weighted:
                of_squares.index_add_(0, owner, torch.bmm(square[:, None, :], vectors)[:, 0])
            if together is not None:
                together.index_add_(0, owner, torch.bmm(vectors.mT, vectors))
            elif products:
                moment, small = _second_moment(vectors)
                of_products.index_add_(0, owner, moment.square().sum(dim=(1, 2)))
                kept.append(moment if small else None)
        if together is not None:
            together = sequences.over_ranks(together)
            of_products = together.square().sum(dim=(1, 2))
        ctx.call = (grouping, row, settings)
        ctx.save_for_backward(hidden, together, *kept)
        return squares, resultant, of_squares, of_products

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None, None, None, None]:
        by_square, by_resultant, by_weighted, by_products = upstream
        hidden, together, *kept = ctx.saved_tensors
        grouping, row, settings = ctx.call
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        gradient = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
        for place, (groups, vectors, _) in enumerate(portions(hidden, grouping, row, settings)):
            owner = grouping.sequence[groups]
            square = vectors.square().sum(dim=-1)
            own = 2 * by_square[groups]
            pull = by_resultant[owner][:, None, :] + torch.zeros_like(vectors)
            if by_weighted.numel():
                direction = by_weighted[owner]
                own = own + 2 * torch.bmm(vectors, direction[:, :, None])[:, :, 0]
                pull.addcmul_(square[..., None], direction[:, None, :])
            pull.addcmul_(own[..., None], vectors)
            if by_products.numel():
                if together is not None:
                    moment, small = together[owner], True
                else:
                    moment, small = (kept[place], True) if kept[place] is not None else _second_moment(vectors)
                product = torch.bmm(vectors, moment) if small else torch.bmm(moment, vectors)
                pull.addcmul_(4 * by_products[owner][:, None, None], product)
            pull = pull_back(hidden, pull, groups, grouping, row, settings)
            put_back(gradient, pull, groups, grouping)
        return gradient.to(hidden.dtype), None, None, None, None, None, None


def _second_moment(vectors: Float[Tensor, "groups items width"]) -> tuple[Tensor, bool]:
    """U^T U where that is the smaller matrix (True), else the Gram matrix U U^T: the sums of their squares are the same."""
    if vectors.shape[2] <= vectors.shape[1]:
        return torch.bmm(vectors.mT, vectors), True
    return torch.bmm(vectors, vectors.mT), False


def _pieces(hidden: Tensor) -> list[slice]:
    batch, length, _ = hidden.shape
    size = max(1, TOKENS_AT_ONCE.get(hidden.device.type, TOKENS_AT_ONCE["cpu"]) // batch)
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _for_threads(tokens: Float[Tensor, "batch piece features"]) -> Float[Tensor, "parts some features"]:
    """One sequence as several: a product of a matrix and one vector is run by a single thread on a CPU, those of several by several."""
    batch, piece, features = tokens.shape
    if batch > 1 or piece % PARTS or tokens.device.type != "cpu":
        return tokens
    return tokens.reshape(PARTS, piece // PARTS, features)


def _read(hidden: Tensor, sequences: Sequences, places: slice) -> Float[Tensor, "batch piece features"]:
    tokens = hidden[:, places].to(torch.promote_types(hidden.dtype, torch.float32))
    return tokens if sequences.valid is None else tokens.masked_fill(~sequences.valid[:, places, None], 0.0)


def _inverse(norms: Tensor, epsilon: float) -> Tensor:
    length = norms + epsilon
    return 1 / length.masked_fill(length == 0, 1.0)
