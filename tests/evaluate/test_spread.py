"""Statistics of spread equal numpy's and scipy's on the whole, however it is cut into batches."""

import numpy
import pytest
import scipy.stats
import torch

from decondense.evaluate.spread import Spread, over_kinds, spread_of


def values(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(40, 25, generator=generator) * 2 + 3
    drawn[3, 7], drawn[9, 2] = 40.0, -30.0
    return drawn


def test_they_are_what_they_are_called() -> None:
    given = values()
    whole = given.double().numpy()
    found = spread_of(given)
    assert found["kurtosis"] == pytest.approx(scipy.stats.kurtosis(whole, axis=None, fisher=False), rel=1e-9)
    assert found["max_over_rms"] == pytest.approx(40 / numpy.sqrt((whole**2).mean()), rel=1e-9)
    rows = numpy.abs(whole).max(axis=1) / numpy.sqrt((whole**2).mean(axis=1))
    assert found["row_max_over_rms"] == pytest.approx(rows.mean(), rel=1e-9)
    assert found["outlier_share"] == 2 / 1000
    assert found["large_share"] == (numpy.abs(whole) >= 6).mean()


def test_batches_give_what_the_whole_gives() -> None:
    given = values(1).view(8, 5, 25)
    spread = Spread()
    for batch in given.split(3):
        spread.look(batch)
    for batch in given.split(3):
        spread.look_again(batch)
    assert spread.summary() == pytest.approx(spread_of(given), rel=1e-12)


def test_a_scale_changes_nothing_but_what_is_large() -> None:
    small, large = spread_of(values(2)), spread_of(values(2) * 1024)
    assert large.pop("large_share") > small.pop("large_share")
    assert large == pytest.approx(small, rel=1e-9)


def test_a_normal_distribution_has_kurtosis_three_and_no_outliers() -> None:
    found = spread_of(torch.randn(400, 500, generator=torch.Generator().manual_seed(3)))
    assert found["kurtosis"] == pytest.approx(3, abs=0.05)  # standard error sqrt(24 / 200000) = 0.011
    assert found["outlier_share"] == 0


def test_equal_numbers_and_zeros_have_no_spread() -> None:
    for given in (torch.zeros(2, 3), torch.full((2, 3), 5.0)):
        found = spread_of(given)
        assert (found["kurtosis"], found["max_over_rms"], found["row_max_over_rms"]) == (1, 1, 1)


def test_kinds_are_averaged_and_all_is_over_tensors_not_kinds() -> None:
    assert over_kinds({"a": [{"x": 0.0}], "b": [{"x": 3.0}, {"x": 6.0}]}) == {
        "a": {"x": 0.0},
        "b": {"x": 4.5},
        "all": {"x": 3.0},
    }
