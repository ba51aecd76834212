"""Rounding of matrices: how far a weight may be from its own, what its codes take, and what they stand for."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from decondense.errors import UserError
from decondense.evaluate.quantization import Rounding, dequantise, pack, quantise, round_tokens, unpack

roundings = st.builds(
    Rounding, bits=st.integers(2, 8), group_size=st.sampled_from([0, 3, 8, 16]), symmetric=st.booleans()
)


@st.composite
def matrices(draw: st.DrawFn) -> torch.Tensor:
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    scale, shift = 10.0 ** draw(st.integers(-5, 2)), draw(st.sampled_from([0.0, 0.0, 2.0, -3.0]))
    matrix = (torch.randn(rows, columns, generator=generator) + shift) * scale
    if draw(st.booleans()):
        matrix[0] = 0
    return matrix


def steps(quantised, columns: int) -> torch.Tensor:
    """The scale of each weight."""
    size = quantised.rounding.group_size or columns
    return quantised.scales.float().repeat_interleave(size, dim=1)[:, :columns]


@given(matrices(), roundings)
def test_no_weight_is_further_than_half_a_scale(matrix: torch.Tensor, rounding: Rounding) -> None:
    found = quantise(matrix, rounding)
    # A quotient that lies between two codes is rounded in float32, so either may be taken within its rounding.
    bound = steps(found, matrix.shape[1]) / 2 * (1 + 1e-5) + 1e-12
    assert bool(((dequantise(found) - matrix).abs() <= bound).all())
    assert int(found.codes.max()) < 2**rounding.bits


@given(matrices(), roundings)
def test_zero_stays_zero(matrix: torch.Tensor, rounding: Rounding) -> None:
    matrix[:, ::2] = 0
    assert not bool(dequantise(quantise(matrix, rounding))[:, ::2].any())


@given(matrices(), st.integers(2, 8), st.sampled_from([0, 3, 16]))
def test_what_was_rounded_is_not_changed_by_rounding_it_again(matrix: torch.Tensor, bits: int, group_size: int) -> None:
    # Below 6.1e-5 a float16 has fewer digits, and the largest weight may not reach the last code.
    rounding = Rounding(bits, group_size)
    once = quantise(matrix, rounding)
    if float(once.scales.min()) < 2**-14:
        return
    twice = quantise(dequantise(once), rounding)
    assert torch.equal(dequantise(twice), dequantise(once))
    assert torch.equal(twice.codes, once.codes)


@given(matrices(), st.integers(2, 8), st.booleans())
def test_a_group_as_long_as_the_row_is_the_row(matrix: torch.Tensor, bits: int, symmetric: bool) -> None:
    whole = dequantise(quantise(matrix, Rounding(bits, 0, symmetric)))
    assert torch.equal(dequantise(quantise(matrix, Rounding(bits, max(matrix.shape[1], 2), symmetric))), whole)
    assert torch.equal(dequantise(quantise(matrix, Rounding(bits, 64, symmetric))), whole)


@given(matrices(), roundings)
def test_each_group_is_rounded_as_if_it_were_alone(matrix: torch.Tensor, rounding: Rounding) -> None:
    size = rounding.group_size or matrix.shape[1]
    alone = [
        dequantise(quantise(part, Rounding(rounding.bits, 0, rounding.symmetric))) for part in matrix.split(size, 1)
    ]
    assert torch.equal(dequantise(quantise(matrix, rounding)), torch.cat(alone, dim=1))


@pytest.mark.parametrize("symmetric", [True, False])
def test_more_bits_and_smaller_groups_are_nearer(symmetric: bool) -> None:
    # Of one matrix more bits can be worse by luck: of many weights they are not.
    matrix = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))

    def error(bits: int, group_size: int) -> float:
        return float((dequantise(quantise(matrix, Rounding(bits, group_size, symmetric))) - matrix).square().mean())

    by_bits = [error(bits, 0) for bits in range(2, 9)]
    assert by_bits == sorted(by_bits, reverse=True)
    for bits in (2, 3, 4, 8):
        assert error(bits, 32) < error(bits, 128) < error(bits, 0)


def test_the_codes_are_the_definition() -> None:
    symmetric = quantise(torch.tensor([[0.75, -1.5, 0.1, 0.0]]), Rounding(3))
    assert symmetric.scales.tolist() == [[0.5]]
    assert symmetric.codes.tolist() == [[5, 0, 3, 3]]  # 1.5 is rounded to the even 2
    assert symmetric.zeros is None
    asymmetric = quantise(torch.tensor([[3.0, -0.5, 1.2, 0.0]]), Rounding(3, symmetric=False))
    assert asymmetric.scales.tolist() == [[0.5]]
    assert asymmetric.zeros is not None and asymmetric.zeros.tolist() == [[1]]
    assert asymmetric.codes.tolist() == [[7, 0, 3, 1]]
    assert dequantise(asymmetric).tolist() == [[3.0, -0.5, 1.0, 0.0]]


def test_asymmetric_codes_suit_weights_of_one_sign() -> None:
    matrix = torch.rand(8, 64, generator=torch.Generator().manual_seed(1))
    errors = [
        float((dequantise(quantise(matrix, Rounding(4, 0, symmetric))) - matrix).square().mean())
        for symmetric in (True, False)
    ]
    # Half of the symmetric codes are never used: steps are twice as long, and errors four times.
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.3)


@given(st.integers(1, 8), st.lists(st.integers(0, 255), min_size=0, max_size=50))
def test_packed_codes_come_back(bits: int, numbers: list[int]) -> None:
    codes = torch.tensor([number % 2**bits for number in numbers], dtype=torch.uint8)
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8 and len(packed) == math.ceil(len(codes) * bits / 8)
    assert torch.equal(unpack(packed, bits, len(codes)), codes)
    # As an integer of arbitrary length, the first code is its lowest digits.
    whole = sum(int(code) << bits * place for place, code in enumerate(codes))
    assert int.from_bytes(bytes(packed.tolist()), "little") == whole


@given(matrices(), roundings)
def test_bytes_are_those_of_the_packed_tensors(matrix: torch.Tensor, rounding: Rounding) -> None:
    found = quantise(matrix, rounding)
    packed = found.packed()
    assert sum(part.numel() * part.element_size() for part in packed.values()) == rounding.packed_bytes(*matrix.shape)


def test_a_packed_file_is_as_large_as_counted_and_holds_the_matrix(tmp_path) -> None:
    matrix = torch.randn(12, 50, generator=torch.Generator().manual_seed(2))
    for rounding in (Rounding(3, 16, False), Rounding(4), Rounding(2, 32)):
        found = quantise(matrix, rounding)
        save_file(found.packed(), tmp_path / "packed.safetensors")
        content = (tmp_path / "packed.safetensors").read_bytes()
        header = 8 + int.from_bytes(content[:8], "little")
        assert len(content) - header == rounding.packed_bytes(12, 50)
        read = load_file(tmp_path / "packed.safetensors")
        assert torch.equal(unpack(read["codes"], rounding.bits, 600).view(12, 50), found.codes)
        assert torch.equal(read["scales"], found.scales)


@given(matrices())
def test_tokens_are_rounded_alone_and_within_half_a_scale(values: torch.Tensor) -> None:
    found = round_tokens(values)
    scales = values.abs().amax(dim=1, keepdim=True) / 127
    assert bool(((found - values).abs() <= scales / 2 * (1 + 1e-5)).all())
    assert torch.equal(found[-1:], round_tokens(values[-1:]))
    assert round_tokens(values.view(1, *values.shape)).shape == (1, *values.shape)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 1}, "bits=1: weights are rounded to 2 to 8 bits"),
        ({"bits": 9}, "bits=9"),
        ({"bits": 4, "group_size": -1}, "group_size=-1: give"),
        ({"bits": 4, "group_size": 1}, "group_size=1"),
    ],
)
def test_a_rounding_that_cannot_be(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Rounding(**arguments)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e9])
def test_weights_without_codes_are_an_error(value: float) -> None:
    with pytest.raises(UserError, match="NaN, infinite, or too large"):
        quantise(torch.tensor([[1.0, value]]), Rounding(8))
