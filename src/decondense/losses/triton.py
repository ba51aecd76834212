"""Hidden states in, the sum over the pairs of each sequence and its gradient out, on a GPU: what `blocked.go_over_pairs` gives, in its place.

Chooses the form, the precision and the tiles of `kernels.py`, and launches; knows rows of the table by their pair functions. A pair is a number in
a register. Vectors of up to FUSED_WIDTH numbers take one kernel for both products. The sums of wider ones outgrow the registers, and one kernel for
each tile of features would form all inner products anew, at width 1024 2.5 times the arithmetic. There the weights of a strip of rows pass through
memory, in the vectors' precision and never more of them than the input has numbers (or LEAST_STRIP): 4 bytes a pair beside 4096 operations.

The blocked engine shares a pair between (i, j) and (j, i); this one forms both. A shared pair is added to two rows: by atomic additions, whose
order changes the rounding from run to run, or by reading and writing the gradient once more for each block, which costs as much as it saves. The
value alone, without a gradient, is had from half the pairs.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from decondense.errors import UserError
from decondense.losses import blocked, pair_rows, tiles
from decondense.losses.blocked import Call
from decondense.losses.formulations import FORMULATIONS
from decondense.losses.portions import portions, pull_back, put_back
from decondense.losses.row import Formulation, PairFunction, Settings
from decondense.losses.transforms import unit_tokens
from decondense.shapes import Bool, Float, Int

# By the names that `kernels.pair_and_slope` knows them by.
KERNEL_OF: dict[PairFunction | None, str] = {
    pair_rows.negative_angle: "angle",
    pair_rows.acute_angle_squared: "acute_angle_squared",
    pair_rows.scaled: "linear",
    pair_rows.negative_squared_distance: "linear",
    pair_rows.twice_negative_squared_distance: "linear",
    pair_rows.square: "square",
    pair_rows.hinge_squared: "hinge_squared",
}

# Weights that a strip may have whatever the size of the input: 64 MiB in half precision, so that a single sequence occupies every core.
LEAST_STRIP = 1 << 25
# Numbers of tokens that one program normalises at a time.
TOKEN_TILE = 4096
# Where logits differ by no more, weights, at most exp(6) times a slope of 12, and at least exp(-6), keep their digits in float16.
FLOAT16_RANGE = 6.0


@dataclass(frozen=True)
class Vectors:
    """The transformed vectors of some groups, as the kernels read them.

    Attributes:
        numbers: float32, bfloat16 or float16; contiguous, zero where there is no item.
        scales: float32, what each vector is multiplied by; None = 1.
        squares: float32, squared length of each; None where nobody asks for it.
        valid: which are real; None = all.
        precision: how float32 numbers are multiplied: "ieee", "tf32", or "tf32x3".
    """

    numbers: Float[Tensor, "groups items width"]
    scales: Float[Tensor, "groups items"] | None
    squares: Float[Tensor, "groups items"] | None
    valid: Bool[Tensor, "groups items"] | None
    precision: str

    @property
    def kind(self) -> str:
        """The key of the tables of tiles."""
        return self.precision if self.numbers.dtype == torch.float32 else "half"


def go_over_pairs(
    hidden: Float[Tensor, "batch length features"], call: Call, want_gradient: bool
) -> tuple[Float[Tensor, " sequences"], Float[Tensor, "batch length features"] | None]:
    """Sum over the pairs of each sequence, scaled to all its pairs, and (where wanted) the gradient of these sums by `hidden`.

    float32 is multiplied as such, or as TF32 where `torch.set_float32_matmul_precision("high")` allows it. bfloat16 and float16 tokens that a row
    only normalises are multiplied as they came, so that inner products are exact to float32's rounding; the weights of the second product are
    rounded to the tokens' precision. What other transforms make of such tokens is multiplied as three TF32 products, float32 but for its last
    bits. Sums are float32 in a tile and float64 over tiles; two runs give the same bits.
    """
    row, grouping, hidden = call.row, call.grouping, hidden.detach()
    totals = torch.zeros(len(call.shift), dtype=torch.float64, device=hidden.device)
    # Where no token is moved each is written to, zeros for padding.
    fresh = torch.empty if row.transform is unit_tokens and grouping.index is None else torch.zeros
    gradient = fresh(hidden.shape, dtype=torch.float32, device=hidden.device) if want_gradient else None
    with torch.cuda.device_of(hidden):
        if row.transform is unit_tokens:
            hidden = hidden.contiguous()
            total = sum_portion(_normalise(hidden, call), call, slice(None), gradient, grouping.index)
            totals.index_add_(0, grouping.sequence, total)
            if gradient is not None:
                tokens = _tokens(hidden, call)
                _kernels().pull_through_norm[(-(-tokens["slots"] // tokens["SLOTS"]),)](**tokens, gradient=gradient)
            return totals.to(call.shift), gradient
        for groups, vectors, valid in portions(hidden, grouping, row, call.settings):
            numbers = vectors.contiguous()
            squares = numbers.square().sum(dim=-1) if row.distances or call.diagonal else None
            pull = torch.empty_like(numbers) if want_gradient else None
            total = sum_portion(Vectors(numbers, None, squares, valid, _precision(hidden)), call, groups, pull)
            totals.index_add_(0, grouping.sequence[groups], total)
            if pull is not None and gradient is not None:
                pull = pull_back(hidden, pull, groups, grouping, row, call.settings)
                put_back(gradient, pull, groups, grouping)
    return totals.to(call.shift), gradient


def sum_portion(
    vectors: Vectors,
    call: Call,
    groups: slice,
    pull: Float[Tensor, "rows places width"] | None,
    index: Int[Tensor, "groups items"] | None = None,
) -> Float[Tensor, " groups"]:
    """Sum over the pairs of each of some groups, scaled to all pairs, in float64; its gradient by the vectors is written to `pull`.

    Args:
        vectors: of the groups.
        call: of whose grouping these are the `groups`.
        groups: their place there.
        pull: float32, as large as the vectors; None = no gradient is wanted.
        index: which row of `pull`, its rows laid end to end, each item's gradient goes to; None = its own.
    """
    row, settings, numbers = call.row, call.settings, vectors.numbers
    constants = _constants(call, groups)
    total, own = _weigh_diagonal(vectors, call, constants[:, :1])
    nothing = numbers  # stands where a kernel is told not to look
    of_vectors: dict[str, Any] = {
        "vectors": numbers,
        "scales": nothing if vectors.scales is None else vectors.scales,
        "valid": nothing if vectors.valid is None else vectors.valid.contiguous().view(torch.uint8),
        "constants": constants,
        "items": numbers.shape[1],
        "width": numbers.shape[2],
        "DISTANCES": row.distances,
        "SCALED": vectors.scales is not None,
        "MASKED": vectors.valid is not None,
        "PRECISION": vectors.precision,
    }
    of_pairs: dict[str, Any] = {
        "squares": vectors.squares if row.distances else nothing,
        "coefficient": _coefficient(row, settings),
        "bound": 1 - settings.clamp,
        "margin": settings.margin,
        "PAIR": KERNEL_OF[row.pair],
        "EXPONENTIAL": row.aggregate == "log_mean_exp",
        "EXPANDED": call.expansion is not None,
    }
    of_pull: dict[str, Any] = {
        "pull": pull,
        "own": nothing if own is None else own,
        "index": nothing if index is None else index,
        "DIAGONAL": own is not None,
        "INDEXED": index is not None,
    }
    if pull is not None and numbers.shape[2] <= tiles.FUSED_WIDTH[vectors.kind]:
        found = _fused(vectors, {**of_vectors, **of_pairs, **of_pull})
    else:
        found = _in_strips(vectors, {**of_vectors, **of_pairs}, None if pull is None else {**of_vectors, **of_pull})
    return total + constants[:, 5] * found


def _fused(vectors: Vectors, arguments: dict[str, Any]) -> Float[Tensor, " groups"]:
    count, items, width = vectors.numbers.shape
    most_rows, most_columns, most_depth, most_features = tiles.FUSED_TILES[vectors.kind]
    rows, columns = tiles.fit(most_rows, items), tiles.fit(most_columns, items)
    depth, features = tiles.fit(most_depth, width), tiles.fit(most_features, width)
    row_tiles, feature_tiles = -(-items // rows), -(-width // features)
    totals = torch.empty(count * row_tiles, dtype=torch.float32, device=vectors.numbers.device)
    _kernels().weigh_and_gather[(count * row_tiles * feature_tiles,)](
        **arguments,
        totals=totals,
        row_tiles=row_tiles,
        feature_tiles=feature_tiles,
        ROWS=rows,
        COLUMNS=columns,
        FEATURES=features,
        DEPTH=depth,
        EVEN=width % depth == 0,
        **tiles.occupancy(vectors.numbers, vectors.kind, rows * features, (rows + columns) * depth),
    )
    return totals.view(count, -1).sum(dim=1, dtype=torch.float64)


def _in_strips(
    vectors: Vectors, weighing: dict[str, Any], gathering: dict[str, Any] | None
) -> Float[Tensor, " groups"]:
    count, items, width = vectors.numbers.shape
    most_rows, most_columns, most_depth = tiles.WEIGH_TILES[vectors.kind]
    rows, columns, depth = tiles.fit(most_rows, items), tiles.fit(most_columns, items), tiles.fit(most_depth, width)
    _, most_features, most_length = tiles.GATHER_TILES[vectors.kind]
    features, length = tiles.fit(most_features, width), tiles.fit(most_length, columns)
    column_tiles, feature_tiles = -(-items // columns), -(-width // features)
    line = column_tiles * columns
    most = max(vectors.numbers.numel(), LEAST_STRIP) // (count * line)
    strip = min(-(-items // rows), max(most // rows, 1)) * rows
    weights = vectors.numbers.new_empty(0 if gathering is None else count * strip * line)
    slopes = torch.empty(
        (count * strip if weighing["DISTANCES"] else 0, column_tiles), dtype=torch.float32, device=weights.device
    )
    found = torch.zeros(count, dtype=torch.float64, device=weights.device)
    for first in range(0, items, strip):
        row_tiles = -(-min(strip, items - first) // rows)
        totals = torch.empty(count * row_tiles * column_tiles, dtype=torch.float32, device=weights.device)
        _kernels().weigh[(len(totals),)](
            **weighing,
            totals=totals,
            weights=weights,
            slopes=slopes,
            first=first,
            row_tiles=row_tiles,
            column_tiles=column_tiles,
            WRITE=gathering is not None,
            ROWS=rows,
            COLUMNS=columns,
            DEPTH=depth,
            EVEN=width % depth == 0,
            **tiles.occupancy(
                vectors.numbers,
                vectors.kind,
                rows * columns,
                (rows + columns) * depth,
                programs=1 if weighing["EXPANDED"] else 2,
            ),
        )
        found += totals.view(count, -1).sum(dim=1, dtype=torch.float64)
        if gathering is None:
            continue
        _kernels().gather[(count * row_tiles * feature_tiles,)](
            **gathering,
            weights=weights,
            slopes=slopes.sum(dim=1),
            stride=line,
            first=first,
            row_tiles=row_tiles,
            feature_tiles=feature_tiles,
            ROWS=rows,
            FEATURES=features,
            DEPTH=length,
            EVEN=width % features == 0,
            **tiles.occupancy(vectors.numbers, vectors.kind, rows * features, (rows + features) * length),
        )
    return found


def choose(engine: str, row: Formulation, hidden: Tensor) -> str:
    """The engine, "triton" or "blocked", that goes over the pairs of these hidden states where `engine` was asked for.

    Raises:
        UserError: `engine` is "triton", and the kernels cannot serve.
    """
    if engine == "triton":
        reason = why_not(row, hidden)
        if reason is not None:
            raise UserError(f"engine='triton': {reason}; use engine='auto'")
        return engine
    # float32 without TF32 has no tensor cores: there the blocked engine's products of half the pairs are the faster.
    pays = hidden.is_cuda and (hidden.dtype != torch.float32 or _precision(hidden) == "tf32")
    return "triton" if engine == "auto" and pays and why_not(row, hidden) is None else "blocked"


def why_not(row: Formulation, hidden: Tensor | None = None) -> str | None:
    """Why the kernels cannot serve a row (or a row on these hidden states); None where they can."""
    if row.pair not in KERNEL_OF:
        able = ", ".join(name for name, other in FORMULATIONS.items() if other.pair in KERNEL_OF)
        return f"{row.name} has no kernel; these have one: {able}"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install triton, for Linux)"
    if hidden is None:
        return None
    if hidden.dtype == torch.float64:
        return "it adds in float32, and hidden is float64"
    if not hidden.is_cuda and not interpreted():
        return f"it needs a GPU, and hidden is on {hidden.device.type} (TRITON_INTERPRET=1 runs it there, slowly)"
    return None


def interpreted() -> bool:
    """Whether the kernels run in triton's interpreter, slowly and on any device: TRITON_INTERPRET was 1 when they were imported."""
    kernels = _kernels()
    return not isinstance(kernels.weigh, kernels.triton.JITFunction)


def _kernels() -> ModuleType:
    # Imported where it is used: triton comes with torch for a GPU alone.
    from decondense.losses import kernels

    return kernels


def _normalise(hidden: Float[Tensor, "batch length features"], call: Call) -> Vectors:
    grouping, dtype, precision = call.grouping, hidden.dtype, _precision(hidden)
    scaled = dtype != torch.float32
    if scaled and not _weights_fit(dtype, call):
        # TF32 has room for all bits of a float16 or bfloat16, and float32's exponent.
        dtype, precision = torch.float32, "ieee" if torch.version.hip else "tf32"
    shape = hidden.shape[:2] if grouping.index is None else grouping.index.shape
    numbers = torch.empty((*shape, hidden.shape[2]), dtype=dtype, device=hidden.device)
    scales = torch.empty(shape, dtype=torch.float32, device=hidden.device)
    squares = torch.empty_like(scales)
    tokens = _tokens(hidden, call)
    _kernels().normalise[(-(-tokens["slots"] // tokens["SLOTS"]),)](
        **tokens, vectors=numbers, scales=scales, squares=squares, SCALED=scaled
    )
    return Vectors(numbers, scales if scaled else None, squares, grouping.valid, precision)


def _weights_fit(dtype: torch.dtype, call: Call) -> bool:
    """Whether the weights of the second product can be numbers of the tokens' half precision."""
    if dtype == torch.bfloat16:
        return not interpreted()  # the interpreter cannot multiply bfloat16
    if call.row.aggregate != "log_mean_exp":
        return True
    if call.row.logit_bounds is None:
        return False
    low, high = call.row.logit_bounds(call.settings)
    return high - low <= FLOAT16_RANGE


def _precision(hidden: Tensor) -> str:
    """How vectors in float32 are multiplied."""
    if torch.version.hip:
        return "ieee"
    if hidden.dtype != torch.float32:
        return "tf32x3"
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def _coefficient(row: Formulation, settings: Settings) -> float:
    if KERNEL_OF[row.pair] == "linear":
        assert row.slope is not None
        return float(row.slope(torch.zeros((), device="cpu"), settings))
    return -1 / settings.temperature


def _constants(call: Call, groups: slice) -> Float[Tensor, "groups 6"]:
    """Of each group: the shift of its logits, the expansion's point and coefficients, and all pairs over pairs inside groups."""
    taken_off = call.expansion
    parts = (
        [call.shift] * 4 if taken_off is None else [taken_off.at, taken_off.value, taken_off.slope, taken_off.curvature]
    )
    table = torch.stack([call.shift, *parts, blocked.scale_to_all_pairs(call, call.shift.dtype)], dim=1)
    return table[call.grouping.sequence[groups]].float()


def _weigh_diagonal(
    vectors: Vectors, call: Call, level: Float[Tensor, "groups 1"]
) -> tuple[Float[Tensor, " groups"], Float[Tensor, "groups items"] | None]:
    """Sum over the pairs of an item with itself, in float64, and what each of them multiplies its vector with in the gradient (None = 0)."""
    if not call.diagonal:
        return torch.zeros(len(level), dtype=torch.float64, device=level.device), None
    assert vectors.squares is not None and call.row.pair is not None and call.row.slope is not None
    arguments = torch.zeros_like(vectors.squares) if call.row.distances else vectors.squares
    values, slopes = call.row.pair(arguments, call.settings), call.row.slope(arguments, call.settings)
    if call.row.aggregate == "log_mean_exp":
        values = (values - level).exp()
        slopes = slopes * values
    if vectors.valid is not None:
        values, slopes = values * vectors.valid, slopes * vectors.valid
    # The distance of an item to itself is 0 wherever it moves.
    return values.sum(dim=1, dtype=torch.float64), None if call.row.distances else (2 * slopes).contiguous()


def _tokens(hidden: Tensor, call: Call) -> dict[str, Any]:
    """What the kernels that go token by token are told alike."""
    index, valid = call.grouping.index, call.grouping.valid
    slots = hidden.shape[:2].numel() if index is None else index.numel()
    features = tiles.fit(TOKEN_TILE // 4, hidden.shape[2])
    return {
        "hidden": hidden,
        "index": hidden if index is None else index.contiguous(),
        "valid": hidden if valid is None else valid.contiguous().view(torch.uint8),
        "slots": slots,
        "width": hidden.shape[2],
        "epsilon": call.settings.epsilon,
        "MASKED": valid is not None,
        "INDEXED": index is not None,
        "SLOTS": TOKEN_TILE // features,
        "FEATURES": features,
    }


blocked.ENGINES["triton"] = go_over_pairs
