"""What is true of the metrics: closed forms, bounds, and that ranks and intervals are scipy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from clouds import sums_of
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from decondense.errors import UserError
from decondense.geometry import METRICS, LayerStatistics, choose_metrics

SEEDS = st.integers(0, 2**31)


def values(hidden: Tensor) -> dict[str, list[float]]:
    sums = sums_of(hidden)
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
        assert row.needs <= {"pairs", "matrix", "squares", "closeness", "lengths", "causes", "sample"}
        assert (row.level == "text") == (row.of_texts is not None)
        assert row.of_sample is None or row.level == "sample"


def test_names_of_metrics() -> None:
    assert choose_metrics("all") == tuple(METRICS)
    assert set(choose_metrics("paper")) == {
        "mean_cosine",
        "mean_cosine_off_diagonal",
        "spearman",
        "kendall",
        "histogram",
        "histogram_of_mean",
        "last_n",
    }
    assert choose_metrics("effective_rank") == ("effective_rank",)
    assert choose_metrics(["last_n", "kendall", "last_n"]) == ("last_n", "kendall")
    assert choose_metrics(["effective_rank", "paper"])[0] == "effective_rank"
    assert set(choose_metrics(["all", "paper"])) == set(METRICS)


@pytest.mark.parametrize("metrics", ["efective_rank", ["mean_cosine", "efective_rank"]])
def test_an_unknown_metric_is_an_error_that_lists_the_known(metrics: str | list[str]) -> None:
    with pytest.raises(UserError, match=r"'efective_rank' is not known: did you mean 'effective_rank'\?.*kendall"):
        choose_metrics(metrics)


def test_no_metric_is_an_error() -> None:
    with pytest.raises(UserError, match="names no metric"):
        choose_metrics([])


def test_uniformity_is_its_definition() -> None:
    hidden = draw(0, 3, 9, 4) + 0.5
    units = torch.nn.functional.normalize(hidden, dim=-1)
    expected = [math.log(torch.exp(-2 * torch.pdist(one).square()).mean()) for one in units]
    assert values(hidden)["uniformity"] == pytest.approx(expected, rel=1e-9)


def test_lengths_are_what_numpy_says() -> None:
    hidden = draw(1, 2, 11, 5) + 0.3
    lengths = hidden.norm(dim=-1).numpy()
    found = values(hidden)
    assert found["norm_mean"] == pytest.approx(lengths.mean(axis=1), rel=1e-12)
    assert found["norm_variation"] == pytest.approx(lengths.std(axis=1) / lengths.mean(axis=1), rel=1e-9)
    assert found["norm_max_over_mean"] == pytest.approx(lengths.max(axis=1) / lengths.mean(axis=1), rel=1e-12)
    low = hidden.mean(dim=1, keepdim=True).expand_as(hidden)
    expected = ((hidden - low).flatten(1).norm(dim=1) / low.flatten(1).norm(dim=1)).tolist()
    assert found["high_low_ratio"] == pytest.approx(expected, rel=1e-9)


def test_padding_is_in_no_metric() -> None:
    hidden = draw(2, 2, 8, 4) + 0.4
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[1, 5:] = False
    mask[0, 0] = False
    garbage = hidden.masked_fill(~mask[..., None], math.nan)
    together = sums_of(garbage, mask=mask)
    for row, real in ((0, slice(1, 8)), (1, slice(0, 5))):
        alone = sums_of(hidden[row : row + 1, real])
        for name, found, expected in zip(alone._fields, together, alone, strict=True):
            if name != "without_sinks":  # a first token that is padding is no sink
                assert float(found[row]) == pytest.approx(float(expected[0]), rel=1e-9, abs=1e-12), name


@pytest.mark.parametrize("concentration", [0.5, 5.0, 50.0])
def test_the_mean_cosine_of_von_mises_and_fisher(concentration: float) -> None:
    """Of directions drawn about one axis of F features E[cos] = A^2, A = I_{F/2}(k) / I_{F/2-1}(k): Mardia & Jupp 2000, 9.3.9."""
    features = 16
    axis = np.eye(features)[0]
    drawn = scipy.stats.vonmises_fisher(axis, concentration).rvs(20_000, random_state=0)
    found = values(torch.from_numpy(drawn).view(40, 500, features))
    mean = np.mean(found["mean_cosine_off_diagonal"])
    expected = (
        scipy.special.ive(features / 2, concentration) / scipy.special.ive(features / 2 - 1, concentration)
    ) ** 2
    # 40 independent texts: three standard errors
    assert abs(mean - expected) < 3 * np.std(found["mean_cosine_off_diagonal"]) / math.sqrt(40) + 1e-4
