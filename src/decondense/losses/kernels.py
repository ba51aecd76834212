"""Token vectors in, sums over their pairs and what pulls at each token out: the part of the Triton engine that runs on a GPU.

Knows pointers and tiles, no row of the table, no tensor: `triton.py` chooses tiles, allocates, and launches. A group of `items` vectors of `width`
numbers lies row by row; a vector is `vectors[i]`, times `scales[i]` where SCALED. Past the end of a group its last item is read in place of nothing,
so that the loads of a product need no mask, and what comes of it is left out as no pair. Everything is added in float32 and in a fixed order.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

# `no_type_check`: triton compiles the source of a function, which a checker of shapes would wrap.


@triton.jit
@no_type_check
def add_up(values, AXIS: tl.constexpr):
    # What `tl.sum` is. Itself it stays in the mode, compiled or interpreted, in which triton was imported first.
    return tl.reduce(values, AXIS, tl.standard._sum_combine)


@triton.jit
@no_type_check
def share_of_angle(cosine):
    """arccos / pi on [-1, 1] by Abramowitz & Stegun 4.4.46: sqrt(1 - x) times a polynomial, off by 7e-9 at most, below float32's rounding."""
    size = tl.abs(cosine)
    series = 0.0021231556 - 0.0004018634 * size
    series = series * size - 0.0054393193
    series = series * size + 0.0098331911
    series = series * size - 0.0159709772
    series = series * size + 0.0283228914
    series = series * size - 0.0683089201
    series = series * size + 0.4999999931
    acute = tl.sqrt(1.0 - size) * series
    return tl.where(cosine < 0, 1.0 - acute, acute)


@triton.jit
@no_type_check
def pair_and_slope(argument, coefficient, bound, margin, PAIR: tl.constexpr):
    """A pair's value (or logit) and its derivative by `argument`: the functions of `pair_rows.py`, by their names in `triton.py`."""
    if PAIR == "linear":
        value = coefficient * argument
        slope = tl.full(argument.shape, 0.0, tl.float32) + coefficient
    elif PAIR == "square":
        value = argument * argument
        slope = 2.0 * argument
    elif PAIR == "hinge_squared":
        gap = tl.maximum(margin + argument, 0.0)
        value = gap * gap
        slope = 2.0 * gap
    else:
        inside = tl.minimum(tl.maximum(argument, -bound), bound)
        angle = share_of_angle(inside)
        # (1 - x)(1 + x) keeps the digits that 1 - x^2 loses near the ends.
        steepness = tl.rsqrt((1.0 - inside) * (1.0 + inside)) * -0.31830988618379
        if PAIR == "angle":
            value = coefficient * angle
            slope = coefficient * steepness
        else:
            gap = tl.maximum(0.5 - angle, 0.0)
            value = gap * gap
            slope = -2.0 * gap * steepness
    return value, slope


@triton.jit
@no_type_check
def multiply_rows(vectors, rows, columns, items, width, reach, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
                  EVEN: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Inner products [ROWS, COLUMNS] over the first `reach` (0 or `width`) numbers of the vectors."""
    depth = tl.arange(0, DEPTH)
    left = vectors + tl.minimum(rows, items - 1).to(tl.int64)[:, None] * width + depth[None, :]
    right = vectors + tl.minimum(columns, items - 1).to(tl.int64)[None, :] * width + depth[:, None]
    products = tl.full((ROWS, COLUMNS), 0.0, tl.float32)
    for start in range(0, reach, DEPTH):
        if EVEN:
            one = tl.load(left + start)
            other = tl.load(right + start)
        else:
            there = depth < width - start
            one = tl.load(left + start, mask=there[None, :], other=0.0)
            other = tl.load(right + start, mask=there[:, None], other=0.0)
        products = tl.dot(one, other, products, input_precision=PRECISION)
    return products


@triton.jit
@no_type_check
def weigh_tile(products, rows, columns, scales, squares, valid, constants, items, coefficient, bound, margin, UPPER: tl.constexpr,
               PAIR: tl.constexpr, EXPONENTIAL: tl.constexpr, EXPANDED: tl.constexpr, DISTANCES: tl.constexpr, SCALED: tl.constexpr,
               MASKED: tl.constexpr):  # fmt: skip
    """Values and slopes of a tile of pairs, zero where there is no pair (UPPER: or where it stands below the diagonal)."""
    row_there, column_there = rows < items, columns < items
    argument = products
    if SCALED:
        row_scale = tl.load(scales + rows, mask=row_there, other=0.0)
        column_scale = tl.load(scales + columns, mask=column_there, other=0.0)
        argument = argument * row_scale[:, None] * column_scale[None, :]
    if DISTANCES:
        row_square = tl.load(squares + rows, mask=row_there, other=0.0)
        column_square = tl.load(squares + columns, mask=column_there, other=0.0)
        argument = tl.maximum(row_square[:, None] + column_square[None, :] - 2.0 * argument, 0.0)
    value, slope = pair_and_slope(argument, coefficient, bound, margin, PAIR)
    if EXPONENTIAL:
        value = tl.exp(value - tl.load(constants))
        slope = slope * value
    if EXPANDED:
        away = argument - tl.load(constants + 1)
        steepness, bend = tl.load(constants + 3), tl.load(constants + 4)
        value = value - (tl.load(constants + 2) + steepness * away + 0.5 * bend * away * away)
        slope = slope - (steepness + bend * away)
    if MASKED:
        row_there = tl.load(valid + rows, mask=row_there, other=0) != 0
        column_there = tl.load(valid + columns, mask=column_there, other=0) != 0
    paired = row_there[:, None] & column_there[None, :]
    if UPPER:
        paired = paired & (rows[:, None] < columns[None, :])
    else:
        paired = paired & (rows[:, None] != columns[None, :])
    return tl.where(paired, value, 0.0), tl.where(paired, slope, 0.0)


@triton.jit
@no_type_check
def scale_and_round(slope, scales, columns, items, DTYPE: tl.constexpr, SCALED: tl.constexpr):
    """The weights that multiply the vectors as they are stored: sum_j w_ij u_j = sum_j (w_ij scale_j) vector_j."""
    if SCALED:
        slope = slope * tl.load(scales + columns, mask=columns < items, other=1.0)[None, :]
    return slope.to(DTYPE)


@triton.jit
@no_type_check
def add_up_weights(weight, scales, columns, items, SCALED: tl.constexpr):
    """sum_j w_ij, from the weights as they were rounded, so that a shift common to all vectors cancels in sum_j w_ij (u_i - u_j)."""
    plain = weight.to(tl.float32)
    if SCALED:
        plain = plain / tl.load(scales + columns, mask=columns < items, other=1.0)[None, :]
    return add_up(plain, 1)


@triton.jit
@no_type_check
def write_pull(pull, index, gathered, slopes, own, vectors, scales, valid, constants, group, rows, features, items, width,
               DISTANCES: tl.constexpr, DIAGONAL: tl.constexpr, SCALED: tl.constexpr, MASKED: tl.constexpr, INDEXED: tl.constexpr):  # fmt: skip
    """Write the gradient of the sum by some features of some vectors: from sum_j w_ij u_j (gathered), sum_j w_ij (slopes), and the diagonal (own)."""
    row_there = rows < items
    there = row_there[:, None] & (features < width)[None, :]
    factor = tl.load(constants + 5)
    # Each pair counts twice, as (i, j) and as (j, i).
    found = 2.0 * factor * gathered
    if DISTANCES or DIAGONAL:
        itself = tl.load(vectors + rows.to(tl.int64)[:, None] * width + features[None, :], mask=there, other=0.0).to(
            tl.float32
        )
        if SCALED:
            itself = itself * tl.load(scales + rows, mask=row_there, other=0.0)[:, None]
        if DISTANCES:
            # d_ij^2 = ||u_i||^2 + ||u_j||^2 - 2 c_ij: its gradient by u_i is 2 (u_i - u_j).
            found = 4.0 * factor * (slopes[:, None] * itself - gathered)
        else:
            found = found + tl.load(own + rows, mask=row_there, other=0.0)[:, None] * itself
    place = tl.load(index + rows, mask=row_there, other=0) if INDEXED else group * items + rows
    if MASKED:
        real = (tl.load(valid + rows, mask=row_there, other=0) != 0)[:, None]
        if INDEXED:
            there = there & real  # an empty place of a group names some token of another
        else:
            found = tl.where(real, found, 0.0)
    tl.store(pull + place[:, None] * width + features[None, :], found, mask=there)


@triton.jit
@no_type_check
def weigh(vectors, scales, squares, valid, constants, totals, weights, slopes, items, width, first, row_tiles, column_tiles,
          coefficient, bound, margin, PAIR: tl.constexpr, EXPONENTIAL: tl.constexpr, EXPANDED: tl.constexpr, DISTANCES: tl.constexpr,
          SCALED: tl.constexpr, MASKED: tl.constexpr, WRITE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
          DEPTH: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """One tile of pairs of a strip of rows: the sum of its values, and (WRITE) the weights that `gather` needs, and with DISTANCES their sums by row.

    Without WRITE only what stands above the diagonal is formed, and counted twice.
    """
    program = tl.program_id(0)
    column_tile = program % column_tiles
    row_tile = program // column_tiles % row_tiles
    group = (program // (column_tiles * row_tiles)).to(tl.int64)
    rows = first + row_tile * ROWS + tl.arange(0, ROWS)
    columns = column_tile * COLUMNS + tl.arange(0, COLUMNS)
    reach = width
    if not WRITE:
        reach = tl.where((column_tile + 1) * COLUMNS <= first + row_tile * ROWS, 0, width)
    products = multiply_rows(
        vectors + group * items * width, rows, columns, items, width, reach, ROWS, COLUMNS, DEPTH, EVEN, PRECISION
    )
    scales += group * items
    values, steepness = weigh_tile(products, rows, columns, scales, squares + group * items, valid + group * items, constants + group * 6, items,
                                coefficient, bound, margin, not WRITE, PAIR, EXPONENTIAL, EXPANDED, DISTANCES, SCALED, MASKED)  # fmt: skip
    total = add_up(add_up(values, 1), 0)
    tl.store(totals + program, total if WRITE else 2.0 * total)
    if WRITE:
        line = (group * row_tiles + row_tile) * ROWS + tl.arange(0, ROWS)
        weight = scale_and_round(steepness, scales, columns, items, weights.dtype.element_ty, SCALED)
        tl.store(weights + line[:, None] * (column_tiles * COLUMNS) + columns[None, :], weight)
        if DISTANCES:
            tl.store(slopes + line * column_tiles + column_tile, add_up_weights(weight, scales, columns, items, SCALED))


@triton.jit
@no_type_check
def gather(weights, slopes, vectors, scales, valid, constants, own, index, pull, items, width, stride, first, row_tiles, feature_tiles,
           DISTANCES: tl.constexpr, DIAGONAL: tl.constexpr, SCALED: tl.constexpr, MASKED: tl.constexpr, INDEXED: tl.constexpr,
           ROWS: tl.constexpr, FEATURES: tl.constexpr, DEPTH: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """The second product, sum_j w_ij u_j, of the strip that `weigh` wrote; its lines are `stride` long, a multiple of DEPTH, and end in zeros."""
    program = tl.program_id(0)
    feature_tile = program % feature_tiles
    row_tile = program // feature_tiles % row_tiles
    group = (program // (feature_tiles * row_tiles)).to(tl.int64)
    rows = first + row_tile * ROWS + tl.arange(0, ROWS)
    features = feature_tile * FEATURES + tl.arange(0, FEATURES)
    lines = (group * row_tiles + row_tile) * ROWS + tl.arange(0, ROWS)
    depth = tl.arange(0, DEPTH)
    left = weights + lines[:, None] * stride + depth[None, :]
    vectors += group * items * width
    scales += group * items
    gathered = tl.full((ROWS, FEATURES), 0.0, tl.float32)
    for start in range(0, items, DEPTH):
        columns = tl.minimum(start + depth, items - 1)
        weight = tl.load(left + start)
        right = vectors + columns.to(tl.int64)[:, None] * width + features[None, :]
        if EVEN:
            other = tl.load(right)
        else:
            other = tl.load(right, mask=(features < width)[None, :], other=0.0)
        gathered = tl.dot(weight, other, gathered, input_precision=PRECISION)
    if DISTANCES:
        sums = tl.load(slopes + lines)
    else:
        sums = tl.full((ROWS,), 0.0, tl.float32)
    write_pull(pull, index + group * items, gathered, sums, own + group * items, vectors, scales, valid + group * items, constants + group * 6,
               group, rows, features, items, width, DISTANCES, DIAGONAL, SCALED, MASKED, INDEXED)  # fmt: skip


@triton.jit
@no_type_check
def weigh_and_gather(vectors, scales, squares, valid, constants, own, index, totals, pull, items, width, row_tiles, feature_tiles,
                     coefficient, bound, margin, PAIR: tl.constexpr, EXPONENTIAL: tl.constexpr, EXPANDED: tl.constexpr,
                     DISTANCES: tl.constexpr, DIAGONAL: tl.constexpr, SCALED: tl.constexpr, MASKED: tl.constexpr, INDEXED: tl.constexpr,
                     ROWS: tl.constexpr, COLUMNS: tl.constexpr, FEATURES: tl.constexpr, DEPTH: tl.constexpr, EVEN: tl.constexpr,
                     PRECISION: tl.constexpr):  # fmt: skip
    """Both products of a tile of rows and a tile of features; weights never leave the chip.

    Where the vectors are wider than FEATURES, each tile of features forms the inner products anew.
    """
    program = tl.program_id(0)
    feature_tile = program % feature_tiles
    row_tile = program // feature_tiles % row_tiles
    group = (program // (feature_tiles * row_tiles)).to(tl.int64)
    rows = row_tile * ROWS + tl.arange(0, ROWS)
    features = feature_tile * FEATURES + tl.arange(0, FEATURES)
    feature_there = features < width
    vectors += group * items * width
    scales += group * items
    squares += group * items
    valid += group * items
    constants += group * 6
    gathered = tl.full((ROWS, FEATURES), 0.0, tl.float32)
    slopes = tl.full((ROWS,), 0.0, tl.float32)
    total = tl.full((ROWS,), 0.0, tl.float32)
    for start in range(0, items, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        products = multiply_rows(vectors, rows, columns, items, width, width, ROWS, COLUMNS, DEPTH, EVEN, PRECISION)
        values, steepness = weigh_tile(products, rows, columns, scales, squares, valid, constants, items, coefficient, bound, margin, False,
                                       PAIR, EXPONENTIAL, EXPANDED, DISTANCES, SCALED, MASKED)  # fmt: skip
        total += add_up(values, 1)
        weight = scale_and_round(steepness, scales, columns, items, vectors.dtype.element_ty, SCALED)
        if DISTANCES:
            slopes += add_up_weights(weight, scales, columns, items, SCALED)
        right = vectors + tl.minimum(columns, items - 1).to(tl.int64)[:, None] * width + features[None, :]
        other = tl.load(right, mask=feature_there[None, :], other=0.0)
        gathered = tl.dot(weight, other, gathered, input_precision=PRECISION)
    tl.store(totals + program // feature_tiles, add_up(total, 0), mask=feature_tile == 0)
    write_pull(pull, index + group * items, gathered, slopes, own + group * items, vectors, scales, valid, constants,
               group, rows, features, items, width, DISTANCES, DIAGONAL, SCALED, MASKED, INDEXED)  # fmt: skip


@triton.jit
@no_type_check
def normalise(hidden, index, valid, vectors, scales, squares, slots, width, epsilon, MASKED: tl.constexpr, INDEXED: tl.constexpr,
              SCALED: tl.constexpr, SLOTS: tl.constexpr, FEATURES: tl.constexpr):  # fmt: skip
    """Tokens -> u = z / (||z|| + epsilon) and ||u||^2. SCALED: not u, but z times a power of two, which rounds nothing, and the rest of its scale."""
    slot = tl.program_id(0) * SLOTS + tl.arange(0, SLOTS)
    there = slot < slots
    token = tl.load(index + slot, mask=there, other=0) if INDEXED else slot
    real = there & (tl.load(valid + slot, mask=there, other=0) != 0) if MASKED else there
    norm = tl.full((SLOTS,), 0.0, tl.float32)
    for start in range(0, width, FEATURES):
        features = start + tl.arange(0, FEATURES)
        inside = real[:, None] & (features < width)[None, :]
        value = tl.load(hidden + token.to(tl.int64)[:, None] * width + features[None, :], mask=inside, other=0.0).to(
            tl.float32
        )
        norm += add_up(value * value, 1)
    norm = tl.sqrt(norm)
    length = norm + epsilon
    length = tl.where(length == 0, 1.0, length)
    factor = 1.0 / length
    if SCALED:
        # 2^-k for a length in [2^k, 2^(k + 1)), by its bits: 0x7F000000 holds 254, twice the bias of an exponent. An infinite length gives 0.
        bits = tl.maximum(0x7F000000 - (length.to(tl.int32, bitcast=True) & 0x7F800000), 0)
        factor = bits.to(tl.float32, bitcast=True)
        tl.store(scales + slot, tl.where(factor > 0, 1.0 / (factor * length), 1.0), mask=there)
    length = norm / length
    tl.store(squares + slot, length * length, mask=there)
    for start in range(0, width, FEATURES):
        features = start + tl.arange(0, FEATURES)
        inside = real[:, None] & (features < width)[None, :]
        value = tl.load(hidden + token.to(tl.int64)[:, None] * width + features[None, :], mask=inside, other=0.0).to(
            tl.float32
        )
        tl.store(vectors + slot.to(tl.int64)[:, None] * width + features[None, :], (value * factor[:, None]).to(vectors.dtype.element_ty),
                 mask=there[:, None] & (features < width)[None, :])  # fmt: skip


@triton.jit
@no_type_check
def pull_through_norm(hidden, index, valid, gradient, slots, width, epsilon, MASKED: tl.constexpr, INDEXED: tl.constexpr,
                      SLOTS: tl.constexpr, FEATURES: tl.constexpr):  # fmt: skip
    """The gradient by u, turned in place into that by z: s (p - s ||z|| (p . d) d), with d = z / ||z|| and s = 1 / (||z|| + epsilon)."""
    slot = tl.program_id(0) * SLOTS + tl.arange(0, SLOTS)
    real = slot < slots
    if MASKED:
        real = real & (tl.load(valid + slot, mask=real, other=0) != 0)
    token = tl.load(index + slot, mask=real, other=0) if INDEXED else slot
    norm = tl.full((SLOTS,), 0.0, tl.float32)
    along = tl.full((SLOTS,), 0.0, tl.float32)
    for start in range(0, width, FEATURES):
        features = start + tl.arange(0, FEATURES)
        inside = real[:, None] & (features < width)[None, :]
        place = token.to(tl.int64)[:, None] * width + features[None, :]
        value = tl.load(hidden + place, mask=inside, other=0.0).to(tl.float32)
        norm += add_up(value * value, 1)
        along += add_up(value * tl.load(gradient + place, mask=inside, other=0.0), 1)
    norm = tl.sqrt(norm)
    length = norm + epsilon
    factor = 1.0 / tl.where(length == 0, 1.0, length)
    inverse = 1.0 / tl.where(norm == 0, 1.0, norm)
    inward = along * inverse * (norm * factor)
    for start in range(0, width, FEATURES):
        features = start + tl.arange(0, FEATURES)
        inside = real[:, None] & (features < width)[None, :]
        place = token.to(tl.int64)[:, None] * width + features[None, :]
        value = tl.load(hidden + place, mask=inside, other=0.0).to(tl.float32)
        found = tl.load(gradient + place, mask=inside, other=0.0)
        found = factor[:, None] * (found - inward[:, None] * (value * inverse[:, None]))
        tl.store(gradient + place, found, mask=inside)
