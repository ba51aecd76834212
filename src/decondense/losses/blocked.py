"""The eager engine's values and gradients by one pass over blocks of pairs: memory O(batch length features), no matrix of pairs is kept.

Of the pairs of a group only sum phi(c_ij) and, for the gradient, sum_j phi'(c_ij) u_j are needed. The matrix of pairs is symmetric: a block off the
diagonal is computed once and serves its rows and its columns. Knows rows of the table and groups of tokens, no model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from decondense.losses.aggregate import aggregate, count_items
from decondense.losses.pair_blocks import blocks, evaluate, finish_pull, or_zero, raise_to
from decondense.losses.pairs import Grouping
from decondense.losses.portions import portions, pull_back, put_back, scale_by_sequence
from decondense.losses.row import Formulation, Settings
from decondense.shapes import Float, Int
from decondense.sums import sum_by_sequence

# Logits that differ by less than this keep their exponentials, and sums of them, inside float32.
SAFE_RANGE = 60.0


@dataclass(frozen=True)
class Expansion:
    """A Taylor expansion that is taken off the pair function of each sequence: phi(x) - (value + slope (x - at) + curvature (x - at)^2 / 2).

    All [sequences]; under `log_mean_exp` phi is exp(logit - shift).
    """

    at: Float[Tensor, " sequences"]
    value: Float[Tensor, " sequences"]
    slope: Float[Tensor, " sequences"]
    curvature: Float[Tensor, " sequences"]

    def of_groups(self, owner: Int[Tensor, " groups"]) -> list[Float[Tensor, "groups 1 1"]]:
        return [part[owner][:, None, None] for part in (self.at, self.value, self.slope, self.curvature)]


@dataclass(frozen=True)
class Call:
    """All of a call that has no gradient.

    Attributes:
        row: the formulation.
        settings: its numbers.
        grouping: whose pairs are summed.
        shift: [sequences], subtracted from logits before `exp`.
        recompute: whether the backward pass goes over the pairs again, so that nothing is kept.
        expansion: what is taken off each pair; None = nothing.
        diagonal: whether the pairs of a token with itself are added.
        engine: of `ENGINES`, the one that goes over the pairs.
    """

    row: Formulation
    settings: Settings
    grouping: Grouping
    shift: Float[Tensor, " sequences"]
    recompute: bool
    expansion: Expansion | None
    diagonal: bool
    engine: str = "blocked"


def blocked(
    hidden: Float[Tensor, "batch length features"],
    grouping: Grouping,
    row: Formulation,
    settings: Settings,
    recompute: bool = False,
    engine: str = "blocked",
) -> Float[Tensor, " sequences"]:
    """Value of each sequence of a row that is a sum over pairs, as `engine.eager` defines it.

    With `recompute` nothing but `hidden` lives until the backward pass, which goes over the pairs once more. Without it the gradient is computed
    along with the value and kept; it is as large as `hidden`, in float32. The result can be differentiated once.
    """
    shift = fixed_shift(hidden, grouping, row, settings)
    if shift is None:
        shift = or_zero(largest_logits(hidden, grouping, row, settings))
    total = sum_pairs(hidden, Call(row, settings, grouping, shift, recompute, None, row.diagonal, engine))
    return aggregate(total, count_items(grouping.tokens, hidden.shape[2], row), row, shift)


def sum_pairs(hidden: Float[Tensor, "batch length features"], call: Call) -> Float[Tensor, " sequences"]:
    """Sum over the pairs of each sequence, pairs inside groups scaled to all pairs. Can be differentiated once."""
    keep = hidden.requires_grad and torch.is_grad_enabled() and not call.recompute
    total: Tensor = torch.ops.decondense.sum_pairs(hidden, *_flatten(call), keep)[0]
    return total


# The sum is one operator to torch, so that torch.compile takes it whole and does not unroll the loop over blocks.
_ARGUMENTS = (
    "Tensor hidden, Tensor? index, Tensor? valid, Tensor sequence, Tensor tokens, Tensor shift, Tensor? expansion, "
    "str row, float[] numbers, bool diagonal, str engine"
)
# Operators take names, not rows: those that calls have used, by name and identity (a row need not be the table's own).
_rows: dict[str, Formulation] = {}


def remember(row: Formulation) -> str:
    """The name by which operators find the row. Said once outside any trace: torch.compile stores only after its first run what a trace stores."""
    name = f"{row.name} {id(row)}"
    _rows[name] = row
    return name


def _flatten(call: Call) -> tuple[Any, ...]:
    grouping, settings = call.grouping, call.settings
    name = remember(call.row)
    expansion = None
    if call.expansion is not None:
        parts = call.expansion
        expansion = torch.stack([parts.at, parts.value, parts.slope, parts.curvature])
    numbers = [float(number) for number in (settings.temperature, settings.clamp, settings.epsilon, settings.margin)]
    places = (grouping.index, grouping.valid, grouping.sequence, grouping.tokens)
    return (*places, call.shift, expansion, name, numbers, call.diagonal, call.engine)


def _unflatten(*flat: Any) -> Call:
    *places, shift, expansion, name, numbers, diagonal, engine = flat
    taken_off = None if expansion is None else Expansion(*expansion)
    return Call(_rows[name], Settings(*numbers), Grouping(*places), shift, False, taken_off, diagonal, engine)


@torch.library.custom_op(
    "decondense::sum_pairs", mutates_args=(), schema=f"({_ARGUMENTS}, bool keep) -> (Tensor, Tensor)"
)
def _sum_pairs(hidden: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    *flat, keep = arguments
    call = _unflatten(*flat)
    total, gradient = ENGINES[call.engine](hidden, call, keep)
    return total, hidden.new_empty(0) if gradient is None else gradient


@_sum_pairs.register_fake
def _(hidden: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    shift, keep = arguments[4], arguments[-1]
    return torch.empty_like(shift), hidden.new_empty(hidden.shape, dtype=shift.dtype) if keep else hidden.new_empty(0)


@torch.library.custom_op("decondense::pull_pairs", mutates_args=(), schema=f"({_ARGUMENTS}, Tensor upstream) -> Tensor")
def _pull_pairs(hidden: Tensor, *arguments: Any) -> Tensor:
    *flat, upstream = arguments
    call = _unflatten(*flat)
    _, gradient = ENGINES[call.engine](hidden, call, True)
    assert gradient is not None, "a gradient was asked for"
    scale_by_sequence(gradient, upstream, call.grouping)
    return gradient.to(hidden.dtype)


@_pull_pairs.register_fake
def _(hidden: Tensor, *arguments: Any) -> Tensor:
    return torch.empty_like(hidden)


def _set_up(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    hidden, *flat, keep = inputs
    ctx.others = tuple(flat[6:])
    ctx.save_for_backward(hidden, *flat[:6], output[1] if keep else None)


def _pull(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(
            "the gradient of this engine is computed, not recorded, so it cannot be differentiated again "
            "(nor go through torch.func): use DispersionLoss(..., engine='eager')"
        )
    hidden, *flat, kept = ctx.saved_tensors
    if kept is None:
        gradient = torch.ops.decondense.pull_pairs(hidden, *flat, *ctx.others, upstream)
    else:
        gradient = kept.clone()
        scale_by_sequence(gradient, upstream, Grouping(*flat[:4]))
        gradient = gradient.to(hidden.dtype)
    return (gradient, *[None] * 11)


torch.library.register_autograd("decondense::sum_pairs", _pull, setup_context=_set_up)


def fixed_shift(
    hidden: Tensor, grouping: Grouping, row: Formulation, settings: Settings
) -> Float[Tensor, " sequences"] | None:
    """A number near the largest logit of each sequence, subtracted before `exp`; 0 where the row takes no exponential, None where it is not known."""
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    zero = torch.zeros(len(grouping.tokens), dtype=dtype, device=hidden.device)
    if row.aggregate != "log_mean_exp":
        return zero
    if row.logit_bounds is not None:
        low, high = row.logit_bounds(settings)
        if high - low <= SAFE_RANGE:
            return zero + high
    if row.distances and row.diagonal:
        return zero  # a token's distance to itself has the largest logit of all
    # Unbounded, or a temperature so low that exponentials vanish.
    return None


def largest_logits(
    hidden: Tensor, grouping: Grouping, row: Formulation, settings: Settings
) -> Float[Tensor, " sequences"]:
    """The largest logit of each sequence, found in a pass of its own; the lowest number where there is none."""
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    largest = torch.full((len(grouping.tokens),), torch.finfo(dtype).min, dtype=dtype, device=hidden.device)
    for groups, vectors, valid in portions(hidden, grouping, row, settings):
        raise_to(largest, grouping.sequence[groups], blocks(vectors, valid, row.distances), row, settings)
    return largest


def go_over_pairs(
    hidden: Float[Tensor, "batch length features"], call: Call, want_gradient: bool
) -> tuple[Float[Tensor, " sequences"], Float[Tensor, "batch length features"] | None]:
    """Sum over the pairs of each sequence, scaled to all its pairs, and (where wanted) the gradient of these sums by `hidden`."""
    row, settings, grouping, shift = call.row, call.settings, call.grouping, call.shift
    scale = scale_to_all_pairs(call, shift.dtype)
    totals = torch.zeros(len(shift), dtype=torch.float64, device=_exact_device(hidden.device))
    gradient = torch.zeros(hidden.shape, dtype=shift.dtype, device=hidden.device) if want_gradient else None
    in_place = grouping.index is None and row.transform.tokenwise
    for groups, vectors, valid in portions(hidden, grouping, row, settings):
        owner = grouping.sequence[groups]
        level = shift[owner][:, None, None]
        taken_off = None if call.expansion is None else call.expansion.of_groups(owner)
        pull = None
        if gradient is not None:
            pull = gradient[groups] if in_place else torch.zeros_like(vectors)
        slopes = torch.zeros(vectors.shape[:2], dtype=vectors.dtype, device=vectors.device) if row.distances else None
        total = torch.zeros(len(vectors), dtype=torch.float64, device=totals.device)
        for rows, columns, arguments, outside in blocks(vectors, valid, row.distances):
            times = 1 if rows == columns else 2
            values, slope = evaluate(row, settings, arguments, outside, level, taken_off, want_gradient)
            total += times * values.to(total)
            if pull is None or slope is None:
                continue
            pull[:, rows].baddbmm_(slope, vectors[:, columns])
            if slopes is not None:
                slopes[:, rows] += slope.sum(dim=2)
            if times == 2:
                pull[:, columns].baddbmm_(slope.mT, vectors[:, rows])
                if slopes is not None:
                    slopes[:, columns] += slope.sum(dim=1)
        if pull is not None:
            finish_pull(pull, slopes, vectors, scale[owner][:, None, None])
        total *= scale[owner].to(total)
        if call.diagonal:
            total += _add_diagonal(vectors, valid, call, level, pull).to(total)
        totals.index_add_(0, owner.to(totals.device), total)
        if pull is not None and gradient is not None:
            pull = pull_back(hidden, pull, groups, grouping, row, settings)
            if not in_place:
                put_back(gradient, pull, groups, grouping)
    return totals.to(shift), gradient


def _add_diagonal(
    vectors: Tensor, valid: Tensor | None, call: Call, level: Tensor, pull: Tensor | None
) -> Float[Tensor, " groups"]:
    """Sum over the pairs of a token with itself; their gradient is added to `pull`."""
    row, settings = call.row, call.settings
    arguments = vectors.square().sum(dim=-1)
    if row.distances:
        arguments = torch.zeros_like(arguments)
    values = row.pair(arguments, settings)  # type: ignore[misc]
    slope = row.slope(arguments, settings)  # type: ignore[misc]
    if row.aggregate == "log_mean_exp":
        values = (values - level[:, :, 0]).exp()
        slope = slope * values
    if valid is not None:
        values, slope = values * valid, slope * valid
    if pull is not None and not row.distances:
        pull.addcmul_(2 * slope[..., None], vectors)
    return values.sum(dim=1)


def scale_to_all_pairs(call: Call, dtype: torch.dtype) -> Float[Tensor, " sequences"]:
    """Pairs of each sequence over pairs inside its groups."""
    grouping = call.grouping
    count = len(grouping.tokens)
    if grouping.whole:
        return torch.ones(count, dtype=dtype, device=grouping.tokens.device)
    assert grouping.index is not None, "a sequence of several groups has its tokens gathered"
    size = (
        torch.full_like(grouping.sequence, grouping.index.shape[1])
        if grouping.valid is None
        else grouping.valid.sum(dim=1)
    )
    inside = sum_by_sequence(size * (size - 1), grouping.sequence, count)
    return (grouping.tokens * (grouping.tokens - 1)).to(dtype) / inside.clamp(min=1)


def _exact_device(device: torch.device) -> torch.device:
    # Apple's GPUs know no float64: the few sums of sequences are kept on the CPU there.
    return torch.device("cpu") if device.type == "mps" else device


ENGINES: dict[str, Callable[[Tensor, Call, bool], tuple[Tensor, Tensor | None]]] = {"blocked": go_over_pairs}
"""(hidden, call, whether a gradient is wanted) -> sums of each sequence, and their gradient by `hidden`. `triton.py` adds its own."""
