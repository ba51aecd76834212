"""What is true of intervals and ranks: they are scipy's, they hold what they are of, and shrink as texts are added."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from decondense.geometry import bootstrap_interval, rank_correlation, rank_interval
from decondense.geometry.uncertainty import _rank_correlations

SEEDS = st.integers(0, 2**31)


def draw(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@given(seed=SEEDS, layers=st.integers(2, 30))
def test_rank_correlations_are_scipys(seed: int, layers: int) -> None:
    means = draw(seed, layers)
    index = np.arange(layers)
    assert rank_correlation("spearman", means) == pytest.approx(
        scipy.stats.spearmanr(index, means).statistic, abs=1e-12
    )
    assert rank_correlation("kendall", means) == pytest.approx(
        scipy.stats.kendalltau(index, means).statistic, abs=1e-12
    )


@pytest.mark.parametrize("kind", ["spearman", "kendall"])
@pytest.mark.parametrize("means", [[0.5], [0.5, 0.5, 0.5], [0.1, math.nan, 0.3]])
def test_without_an_order_there_is_no_rank_correlation(kind: str, means: list[float]) -> None:
    assert math.isnan(rank_correlation(kind, torch.tensor(means, dtype=torch.float64)))


@pytest.mark.parametrize("kind", ["spearman", "kendall"])
def test_rising_and_falling_layers(kind: str) -> None:
    means = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)
    assert rank_correlation(kind, means) == pytest.approx(1)
    assert rank_correlation(kind, means.flip(0)) == pytest.approx(-1)


def test_intervals_are_scipys() -> None:
    per_text = draw(0, 12, 3).exp()
    found = bootstrap_interval(per_text, seed=5)
    for layer in range(3):
        expected = scipy.stats.bootstrap((per_text[:, layer].numpy(),), np.mean, rng=5).confidence_interval
        np.testing.assert_allclose(found[layer], expected, rtol=1e-12)


def test_intervals_hold_the_mean_and_shrink_with_more_texts() -> None:
    widths = []
    for per_text in (draw(0, 8, 4), draw(0, 200, 4)):
        low, high = bootstrap_interval(per_text, seed=0).unbind(dim=1)
        assert bool((low < per_text.mean(dim=0)).all())
        assert bool((per_text.mean(dim=0) < high).all())
        widths.append(float((high - low).mean()))
    assert widths[1] < widths[0] / 3  # it goes with the root of the number of texts: here 1/5


def test_intervals_depend_on_the_seed_alone() -> None:
    per_text = draw(0, 9, 2)
    assert torch.equal(bootstrap_interval(per_text, 1), bootstrap_interval(per_text, 1))
    assert not torch.equal(bootstrap_interval(per_text, 1), bootstrap_interval(per_text, 2))


@pytest.mark.parametrize("texts", [2, 3, 20])
def test_where_all_texts_agree_the_interval_is_their_value(texts: int) -> None:
    per_text = draw(0, texts, 3)
    per_text[:, 1] = 0.1
    found = bootstrap_interval(per_text, seed=0)
    np.testing.assert_allclose(found[1], [0.1, 0.1], rtol=1e-12)
    assert not found.isnan().any()
    assert bool((found[[0, 2], 0] < found[[0, 2], 1]).all())


def test_one_text_has_no_interval() -> None:
    assert bootstrap_interval(draw(0, 1, 3), seed=0).isnan().all()


def test_a_layer_without_a_value_in_some_text_has_no_interval_and_the_others_have() -> None:
    per_text = draw(0, 9, 3)
    per_text[4, 1] = math.nan
    found = bootstrap_interval(per_text, seed=0)
    assert found[1].isnan().all()
    assert torch.equal(found[[0, 2]], bootstrap_interval(per_text[:, [0, 2]], seed=0))


@pytest.mark.parametrize("kind", ["spearman", "kendall"])
def test_rank_correlations_of_many_rows_are_those_of_each(kind: str) -> None:
    means = draw(3, 50, 9)
    means[7] = means[7].round()  # ties
    expected = [rank_correlation(kind, row) for row in means]
    np.testing.assert_allclose(_rank_correlations(kind, means), expected, atol=1e-12)


@pytest.mark.parametrize("kind", ["spearman", "kendall"])
def test_the_interval_of_a_clear_trend_is_narrow_and_of_none_is_wide(kind: str) -> None:
    noise = draw(4, 40, 8)
    low, high = rank_interval(kind, noise + 5 * torch.arange(8), seed=0)
    assert (low, high) == pytest.approx((1, 1))
    low, high = rank_interval(kind, noise, seed=0)
    assert -1 <= low < rank_correlation(kind, noise.mean(dim=0)) < high <= 1
    assert high - low > 0.5
    assert rank_interval(kind, noise, seed=0) == (low, high)


@pytest.mark.parametrize("shape", [(1, 5), (6, 1)])
def test_without_texts_or_layers_ranks_have_no_interval(shape: tuple[int, int]) -> None:
    assert all(math.isnan(end) for end in rank_interval("spearman", draw(0, *shape), seed=0))
