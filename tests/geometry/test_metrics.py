"""What is true of the metrics: closed forms, bounds, and that ranks and intervals are scipy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from decondense.errors import UserError
from decondense.geometry import METRICS, LayerStatistics, bootstrap_interval, choose_metrics, rank_correlation

SEEDS = st.integers(0, 2**31)


def values(hidden: Tensor) -> dict[str, list[float]]:
    statistics = LayerStatistics(squares=True)
    statistics.update(hidden)
    sums = statistics.texts()
    return {name: row.of_texts(sums).tolist() for name, row in METRICS.items() if row.of_texts is not None}


def draw(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_tokens_of_one_direction_are_one_point() -> None:
    found = values(torch.tensor([3.0, 4.0]).expand(1, 7, 2) * torch.arange(1, 8)[:, None])
    # 1e-6: float32 unit vectors.
    assert found["mean_cosine"] == pytest.approx([1], abs=1e-6)
    assert found["mean_cosine_off_diagonal"] == pytest.approx([1], abs=1e-6)
    assert found["effective_rank"] == pytest.approx([1], abs=1e-6)
    assert max(found["mean_cosine"] + found["mean_cosine_off_diagonal"]) <= 1


def test_orthogonal_tokens_have_the_diagonal_alone() -> None:
    found = values(5 * torch.eye(6)[None])
    assert found["mean_cosine"] == pytest.approx([1 / 6])
    assert found["mean_cosine_off_diagonal"] == [0]
    assert found["effective_rank"] == pytest.approx([6])


def test_opposite_tokens_cancel() -> None:
    found = values(torch.tensor([[[1.0, 2.0], [-2.0, -4.0]]]))
    assert found["mean_cosine"] == pytest.approx([0], abs=1e-12)
    assert found["mean_cosine_off_diagonal"] == pytest.approx([-1])
    assert found["effective_rank"] == pytest.approx([1])


@given(seed=SEEDS, length=st.integers(2, 40), features=st.integers(1, 20), shift=st.floats(-3, 3))
def test_metrics_stay_in_their_bounds(seed: int, length: int, features: int, shift: float) -> None:
    found = values(draw(seed, 1, length, features) + shift)
    rounding = 1e-9
    assert 0 <= found["mean_cosine"][0] <= 1
    assert -1 / (length - 1) - rounding <= found["mean_cosine_off_diagonal"][0] <= 1
    assert 1 - rounding <= found["effective_rank"][0] <= min(length, features) + rounding


@given(seed=SEEDS)
def test_effective_rank_is_the_participation_ratio_of_the_second_moment(seed: int) -> None:
    hidden = draw(seed, 1, 30, 5) + 1
    unit = torch.nn.functional.normalize(hidden[0], dim=1)
    eigenvalues = torch.linalg.eigvalsh(unit.T @ unit / 30)
    expected = eigenvalues.sum() ** 2 / eigenvalues.square().sum()
    assert values(hidden)["effective_rank"] == pytest.approx([expected.item()], rel=1e-12)


def test_a_text_of_zero_vectors_has_no_effective_rank() -> None:
    found = values(torch.zeros(1, 3, 2))
    assert found["mean_cosine"] == [0]
    assert math.isnan(found["effective_rank"][0])


def test_effective_rank_says_what_it_needs() -> None:
    statistics = LayerStatistics()
    statistics.update(torch.eye(3)[None])
    with pytest.raises(UserError, match="squares=True"):
        METRICS["effective_rank"].of_texts(statistics.texts())


def test_the_table_is_whole() -> None:
    assert [name for name, row in METRICS.items() if name != row.name] == []
    for row in METRICS.values():
        assert row.formula
        assert row.source
        assert row.needs <= {"pairs", "matrix", "squares"}
        assert (row.level == "text") == (row.of_texts is not None)


def test_names_of_metrics() -> None:
    assert choose_metrics("all") == tuple(METRICS)
    assert set(choose_metrics("all")) - set(choose_metrics("paper")) == {"effective_rank"}
    assert choose_metrics("effective_rank") == ("effective_rank",)
    assert choose_metrics(["last_n", "kendall", "last_n"]) == ("last_n", "kendall")
    assert set(choose_metrics(["effective_rank", "paper"])) == set(METRICS)


@pytest.mark.parametrize("metrics", ["efective_rank", ["mean_cosine", "efective_rank"]])
def test_an_unknown_metric_is_an_error_that_lists_the_known(metrics: str | list[str]) -> None:
    with pytest.raises(UserError, match=r"'efective_rank' is not known: did you mean 'effective_rank'\?.*kendall"):
        choose_metrics(metrics)


def test_no_metric_is_an_error() -> None:
    with pytest.raises(UserError, match="names no metric"):
        choose_metrics([])


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
