"""What is true of the sums of one layer: they are the cosine matrix's, they add up, and padding is not in them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clouds import sums_of
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from decondense.errors import UserError
from decondense.geometry import LayerStatistics, NotFinite, count_cosines, histogram_of_mean
from decondense.geometry.statistics import HISTOGRAM_BINS, MATRIX_TOKENS

EXACT = 1e-12  # float64 sums of at most 1e5 cosines, relative to their number
SEEDS = st.integers(0, 2**31)


def draw(seed: int, *shape: int) -> Tensor:
    """Tokens about a common mean, so that the mean cosine is neither 0 nor 1."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64) + 0.5


def collect(*batches: Tensor, mask: Tensor | None = None) -> LayerStatistics:
    statistics = LayerStatistics(squares=True)
    for batch in batches:
        statistics.update(batch, mask)
    return statistics


def equal(first: LayerStatistics, second: LayerStatistics, tolerance: float = EXACT) -> bool:
    """The sums of texts agree up to rounding, the counts exactly (random cosines do not lie on the edge of a bin)."""
    close = all(
        one is two or torch.allclose(one, two, rtol=tolerance, atol=tolerance)  # None where it was not asked for
        for one, two in zip(first.texts(), second.texts(), strict=True)
    )
    return close and torch.equal(first.histogram(), second.histogram())


def equal_matrices(first: LayerStatistics, second: LayerStatistics) -> bool:
    one, two = first.matrix_sum(), second.matrix_sum()
    if one is None or two is None:
        return one is two
    return torch.allclose(one, two, rtol=EXACT, atol=EXACT)


def cosine_matrix(tokens: Tensor) -> np.ndarray:
    """The definition: unit vectors (zero ones stay zero), inner products, clipped."""
    vectors = tokens.numpy()
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
    return (unit @ unit.T).clip(-1, 1)


@given(seed=SEEDS, texts=st.integers(1, 4), length=st.integers(2, 150), features=st.integers(1, 20))
def test_sums_are_those_of_the_cosine_matrix(seed: int, texts: int, length: int, features: int) -> None:
    hidden = draw(seed, texts, length, features)
    statistics = collect(hidden)
    matrices = [cosine_matrix(text) for text in hidden]
    sums = statistics.texts()
    assert sums.tokens.tolist() == [length] * texts
    np.testing.assert_allclose(
        sums.resultant, [matrix.sum() for matrix in matrices], rtol=EXACT, atol=EXACT * length**2
    )
    np.testing.assert_allclose(sums.norms, [np.trace(matrix) for matrix in matrices], rtol=EXACT)
    np.testing.assert_allclose(sums.squares, [(matrix**2).sum() for matrix in matrices], rtol=EXACT)
    total = sum(matrices)
    np.testing.assert_allclose(statistics.matrix_sum(), total[np.triu_indices(length)], atol=EXACT * texts)


@given(seed=SEEDS, texts=st.integers(1, 4), length=st.integers(2, 150))
def test_histogram_is_numpys(seed: int, texts: int, length: int) -> None:
    # Cosines of random vectors do not lie on the edge of a bin, where rounding would decide.
    hidden = draw(seed, texts, length, 3)
    matrices = np.stack([cosine_matrix(text) for text in hidden])
    statistics = collect(hidden)
    np.testing.assert_array_equal(statistics.histogram(), np.histogram(matrices, HISTOGRAM_BINS, (-1, 1))[0])
    np.testing.assert_array_equal(
        histogram_of_mean(statistics.matrix_sum(), texts),
        np.histogram(matrices.mean(axis=0), HISTOGRAM_BINS, (-1, 1))[0],
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_on_an_edge_fall_where_numpy_puts_them(dtype: torch.dtype) -> None:
    edges = torch.linspace(-1, 1, HISTOGRAM_BINS + 1, dtype=dtype)
    values = torch.cat([edges, edges.nextafter(torch.zeros(())), edges.nextafter(edges.sign() * 1.0).clamp(-1, 1)])
    expected = np.histogram(values.double().numpy(), HISTOGRAM_BINS, (-1, 1))[0]
    np.testing.assert_array_equal(count_cosines(values), expected)


def test_opposite_tokens_fall_in_the_outermost_bins_whatever_rounding_does() -> None:
    # Of float32 unit vectors about one product in four is beyond -1 or 1 by a rounding error.
    direction = draw(0, 20, 1, 50).float()
    scales = draw(1, 20, 70, 1).float()
    histogram = collect(direction * scales).histogram()
    assert len(histogram) == HISTOGRAM_BINS
    assert histogram.nonzero().flatten().tolist() == [0, HISTOGRAM_BINS - 1]
    assert int(histogram.sum()) == 20 * 70**2


@given(seed=SEEDS, scale=st.floats(1e-6, 1e6))
def test_rotating_and_scaling_change_nothing(seed: int, scale: float) -> None:
    hidden = draw(seed, 2, 30, 8)
    rotation, _ = torch.linalg.qr(draw(seed + 1, 8, 8))
    scales = scale * draw(seed + 2, 2, 30, 1).abs().clamp(min=0.1)
    assert equal(collect(hidden), collect(hidden @ rotation * scales), tolerance=1e-10)


@given(seed=SEEDS)
def test_the_order_of_tokens_changes_nothing(seed: int) -> None:
    hidden = draw(seed, 2, 90, 8)
    order = torch.randperm(90, generator=torch.Generator().manual_seed(seed))
    assert equal(collect(hidden), collect(hidden[:, order]))


@given(seed=SEEDS, data=st.data())
def test_masking_equals_removing(seed: int, data: st.DataObject) -> None:
    hidden = draw(seed, 3, 80, 6)
    counts = [data.draw(st.integers(2, 80)) for _ in range(3)]
    generator = torch.Generator().manual_seed(seed)
    mask = torch.stack([torch.rand(80, generator=generator).argsort() < count for count in counts])
    removed = collect(*[text[real][None] for text, real in zip(hidden, mask, strict=True)])
    # Whatever padding holds does not matter, not even NaN.
    hidden[~mask] = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e300, 0, 1], dtype=torch.float64)
    masked = collect(hidden, mask=mask)
    assert equal(masked, removed)
    assert equal_matrices(masked, removed)


@given(seed=SEEDS, lengths=st.lists(st.integers(2, 5), min_size=2, max_size=6), data=st.data())
def test_merging_equals_seeing_all_at_once(seed: int, lengths: list[int], data: st.DataObject) -> None:
    texts = [draw(seed + index, 1, length, 6) for index, length in enumerate(lengths)]
    cut = data.draw(st.integers(0, len(texts)))
    merged = collect(*texts[:cut]).merge(collect(*texts[cut:]))
    assert merged.samples == len(texts)
    assert equal(merged, collect(*texts))
    assert equal_matrices(merged, collect(*texts))


def test_a_merged_whole_goes_on_and_leaves_its_parts_alone() -> None:
    first, second = collect(draw(0, 2, 9, 4)), collect(draw(1, 1, 9, 4))
    merged = first.merge(second)
    merged.update(draw(2, 1, 9, 4))
    assert (first.samples, second.samples, merged.samples) == (2, 1, 4)
    assert equal(first, collect(draw(0, 2, 9, 4)))
    assert equal_matrices(first, collect(draw(0, 2, 9, 4)))
    alone = collect(draw(0, 2, 9, 4)).merge(LayerStatistics(squares=True))
    alone.update(draw(2, 1, 9, 4))
    assert equal(alone, collect(draw(0, 2, 9, 4), draw(2, 1, 9, 4)))


def test_merging_in_another_order_changes_the_order_of_texts_alone() -> None:
    first, second = collect(draw(0, 2, 9, 4)), collect(draw(1, 1, 9, 4))
    one, other = first.merge(second), second.merge(first)
    assert torch.equal(one.texts().resultant, other.texts().resultant[[1, 2, 0]])
    assert torch.equal(one.histogram(), other.histogram())
    assert equal_matrices(one, other)


def test_different_sums_do_not_merge() -> None:
    with pytest.raises(UserError, match="same arguments"):
        LayerStatistics(squares=True).merge(LayerStatistics(squares=False))


def test_texts_of_different_lengths_have_no_averaged_matrix() -> None:
    statistics = collect(draw(0, 1, 5, 4), draw(1, 1, 6, 4), draw(2, 1, 5, 4))
    assert statistics.matrix_sum() is None
    assert int(statistics.histogram().sum()) == 25 + 36 + 25


def test_a_longer_text_than_is_kept_has_no_averaged_matrix() -> None:
    assert collect(draw(0, 1, MATRIX_TOKENS, 2)).matrix_sum() is not None
    assert collect(draw(0, 1, MATRIX_TOKENS + 1, 2)).matrix_sum() is None


def test_zero_vectors_have_no_direction() -> None:
    hidden = draw(0, 1, 6, 4)
    hidden[0, 2:4] = 0
    sums = collect(hidden).texts()
    assert sums.norms.item() == 4
    np.testing.assert_allclose(sums.resultant.item(), cosine_matrix(hidden[0]).sum(), rtol=EXACT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_lower_precisions_are_measured_in_float32(dtype: torch.dtype) -> None:
    hidden = draw(0, 2, 40, 8).to(dtype)
    # 1e-6: 40 float32 unit vectors of relative error 6e-8 are added up.
    rounded, exact = sums_of(hidden), sums_of(hidden.double())
    for one, two in zip(rounded, exact, strict=True):
        assert one.dtype == torch.float64
        np.testing.assert_allclose(one, two, rtol=1e-6)


def test_what_a_caller_does_with_gradients_and_precision_does_not_matter() -> None:
    hidden = draw(0, 2, 40, 8).float()
    statistics = LayerStatistics(squares=True)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        statistics.update(hidden)
    statistics.update(hidden.requires_grad_())
    sums = statistics.texts()
    assert not sums.squares.requires_grad
    assert torch.equal(sums.squares[:2], sums.squares[2:])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_what_is_not_finite_is_refused_and_nothing_of_its_batch_is_counted(value: float) -> None:
    statistics = collect(draw(0, 2, 5, 4).float())
    before = statistics.histogram().clone()
    broken = draw(1, 3, 5, 4).float()
    broken[1, 2, 3] = value  # the square of 1e30 overflows in float32
    with pytest.raises(NotFinite, match="row 1"):
        statistics.update(broken)
    assert statistics.samples == 2
    assert torch.equal(statistics.histogram(), before)


def test_a_text_of_one_token_is_refused() -> None:
    mask = torch.tensor([[True, True, False], [False, True, False]])
    with pytest.raises(UserError, match=r"row 1 .* has 1 real token"):
        collect(draw(0, 2, 3, 4), mask=mask)


def test_nothing_measured_is_said_so() -> None:
    with pytest.raises(UserError, match="no text"):
        LayerStatistics().texts()


def test_what_is_not_asked_for_is_not_collected() -> None:
    statistics = LayerStatistics(pairs=False, matrix=False)
    statistics.update(draw(0, 2, 5, 4))
    assert statistics.histogram() is None
    assert statistics.matrix_sum() is None
    assert statistics.texts().squares is None
    np.testing.assert_allclose(statistics.texts().resultant, collect(draw(0, 2, 5, 4)).texts().resultant)
