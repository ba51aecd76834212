"""A matrix in; integer codes with scales and zero points, their packed bytes, and the matrix that they stand for out. Knows tensors only.

Uniform round-to-nearest quantisation, as Nagel et al. 2021 (A White Paper on Neural Network Quantization, section 2) write it: a weight is
scale * (code - zero point), the code is the nearest integer of so many bits. Scales are kept as 16-bit floats and zero points as integers of the
same bits, as packed checkpoints (GPTQ, AWQ) keep them; a scale is rounded upwards, so that no weight is further than half a scale from its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from decondense.errors import UserError
from decondense.shapes import Float, UInt

LEAST_BITS, MOST_BITS = 2, 8
SCALE_BYTES = 2


@dataclass(frozen=True)
class Rounding:
    """How a matrix is rounded.

    Attributes:
        bits: of a code, 2 to 8.
        group_size: weights of a row that share a scale; 0 = all of the row, an output channel. Where it does not divide the row, the last group is
            shorter.
        symmetric: codes lie in ±(2^(bits-1) - 1) about 0 and there is no zero point (at 2 bits: -1, 0, 1); else all 2^bits codes lie between the
            smallest and the largest weight, 0 included, and 0 has a code of its own, the zero point (Jacob et al. 2018).

    Raises:
        UserError: `bits` or `group_size` is out of range.
    """

    bits: int
    group_size: int = 0
    symmetric: bool = True

    def __post_init__(self) -> None:
        if not LEAST_BITS <= self.bits <= MOST_BITS:
            raise UserError(f"bits={self.bits}: weights are rounded to {LEAST_BITS} to {MOST_BITS} bits")
        if self.group_size < 0 or self.group_size == 1:
            raise UserError(
                f"group_size={self.group_size}: give the weights that share a scale, such as 32, 64 or 128; 0 = a whole row"
            )

    def groups(self, columns: int) -> int:
        """Groups of a row of so many columns."""
        return math.ceil(columns / (self.group_size or columns))

    def packed_bytes(self, rows: int, columns: int) -> int:
        """Bytes of a packed matrix: codes bit by bit without gaps, scales, zero points.

        >>> Rounding(4, group_size=32, symmetric=False).packed_bytes(rows=8, columns=64)  # 256 of codes, 32 of scales, 8 of zero points
        296
        """
        scales = rows * self.groups(columns)
        zeros = 0 if self.symmetric else math.ceil(scales * self.bits / 8)
        return math.ceil(rows * columns * self.bits / 8) + scales * SCALE_BYTES + zeros


@dataclass(frozen=True, eq=False)
class Quantised:
    """A matrix as codes.

    Attributes:
        codes: uint8 [rows, columns], from 0 to 2^bits - 1.
        scales: float16 [rows, groups].
        zeros: uint8 [rows, groups], the code of 0; None where it is the middle one, 2^(bits-1) - 1, everywhere.
        rounding: how it was rounded.
    """

    codes: UInt[Tensor, "rows columns"]
    scales: Float[Tensor, "rows groups"]
    zeros: UInt[Tensor, "rows groups"] | None
    rounding: Rounding

    def packed(self) -> dict[str, Tensor]:
        """What a file would hold: "codes" and, where there are any, "zeros", packed to uint8; "scales"."""
        parts = {"codes": pack(self.codes, self.rounding.bits), "scales": self.scales}
        return parts if self.zeros is None else {**parts, "zeros": pack(self.zeros, self.rounding.bits)}


def quantise(matrix: Float[Tensor, "rows columns"], rounding: Rounding) -> Quantised:
    """Round a matrix, each row (output channel) or each group of a row with a scale of its own.

    Raises:
        UserError: the matrix holds NaN, infinity, or numbers whose scale no 16-bit float can hold.

    >>> found = quantise(torch.tensor([[0.5, -1.0, 0.25, 0.0]]), Rounding(bits=2))
    >>> found.codes, dequantise(found)
    (tensor([[1, 0, 1, 1]], dtype=torch.uint8), tensor([[ 0., -1.,  0.,  0.]]))
    """
    grouped = _grouped(matrix.detach().float(), rounding)
    if rounding.symmetric:
        zero = 2 ** (rounding.bits - 1) - 1
        highest = 2 * zero
        scales = _to_half(grouped.abs().amax(dim=2) / zero)
        zeros = torch.full_like(scales, zero, dtype=torch.float32)
    else:
        highest = 2**rounding.bits - 1
        lowest_weight = grouped.amin(dim=2).clamp(max=0)
        scales = _to_half((grouped.amax(dim=2).clamp(min=0) - lowest_weight) / highest)
        zeros = (-lowest_weight / scales.float()).round().clamp(max=highest)
    codes = ((grouped / scales.float()[..., None]).round() + zeros[..., None]).clamp(0, highest)
    flat = codes.flatten(1)[:, : matrix.shape[1]].to(torch.uint8)
    return Quantised(flat, scales, None if rounding.symmetric else zeros.to(torch.uint8), rounding)


def dequantise(quantised: Quantised) -> Float[Tensor, "rows columns"]:
    """The float32 matrix that the codes stand for: scale * (code - zero point), without an error of its own."""
    rounding = quantised.rounding
    codes = _grouped(quantised.codes.float(), rounding)
    zeros = 2 ** (rounding.bits - 1) - 1 if quantised.zeros is None else quantised.zeros.float()[..., None]
    return ((codes - zeros) * quantised.scales.float()[..., None]).flatten(1)[:, : quantised.codes.shape[1]]


def pack(codes: Tensor, bits: int) -> UInt[Tensor, " bytes"]:
    """Codes below 2^bits in their order, lowest bit first, without gaps but in the last byte.

    >>> pack(torch.tensor([1, 2, 3], dtype=torch.uint8), bits=3).tolist()  # 001, 010, 011 from the right: 0|11010001
    [209, 0]
    """
    places = torch.arange(bits, device=codes.device)
    ones = (codes.flatten()[:, None].to(torch.int32) >> places & 1).flatten()
    ones = nn.functional.pad(ones, (0, -len(ones) % 8)).view(-1, 8)
    return (ones << torch.arange(8, device=codes.device)).sum(dim=1).to(torch.uint8)


def unpack(packed: UInt[Tensor, " bytes"], bits: int, count: int) -> UInt[Tensor, " count"]:
    """The first `count` codes of what `pack` gave, uint8."""
    ones = (packed[:, None].to(torch.int32) >> torch.arange(8, device=packed.device) & 1).flatten()
    codes = ones[: count * bits].view(count, bits) << torch.arange(bits, device=packed.device)
    return codes.sum(dim=1).to(torch.uint8)


def round_tokens(values: Float[Tensor, "... features"], bits: int = 8) -> Float[Tensor, "... features"]:
    """Activations rounded symmetrically, each token (the last dimension) with its own scale max|x| / (2^(bits-1) - 1), found as it comes.

    Dynamic per-token quantisation, as of ZeroQuant (Yao et al. 2022); scales stay in the precision of `values`.

    >>> round_tokens(torch.tensor([[127.0, 0.4], [0.0, 0.0]]))
    tensor([[127.,   0.],
            [  0.,   0.]])
    """
    highest = 2 ** (bits - 1) - 1
    scales = values.abs().amax(dim=-1, keepdim=True) / highest
    # A token of zeros has no scale: any will do.
    scales = torch.where(scales > 0, scales, torch.ones_like(scales))
    return (values / scales).round().clamp(-highest, highest) * scales


def _grouped(matrix: Tensor, rounding: Rounding) -> Tensor:
    """[rows, groups, group size]. Zeros fill the last group up: a range always includes 0, so they change none."""
    rows, columns = matrix.shape
    groups, size = rounding.groups(columns), rounding.group_size or columns
    return nn.functional.pad(matrix, (0, groups * size - columns)).view(rows, groups, size)


def _to_half(scales: Tensor) -> Tensor:
    """The nearest float16 that is not below; 1 for a group of zeros, whose scale is never asked for."""
    scales = torch.where(scales == 0, torch.ones_like(scales), scales)
    halves = scales.half()
    # The float16 above a positive one is that of the next bit pattern.
    halves = torch.where(halves.float() < scales, (halves.view(torch.int16) + 1).view(torch.float16), halves)
    if not bool(halves.isfinite().all()):
        raise UserError("weights are NaN, infinite, or too large for scales of 16 bits: no codes can be found for them")
    return halves
