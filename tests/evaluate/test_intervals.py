"""Intervals cover what they say, and pairs cancel what they share."""

import numpy
import pytest

from decondense.errors import UserError
from decondense.evaluate.intervals import mean_interval, paired_difference


@pytest.mark.parametrize("count", [2, 3, 5])
def test_an_interval_covers_the_mean_in_95_percent_of_samples(count):
    samples = numpy.random.default_rng(0).normal(3.0, 2.0, size=(2000, count))
    covered = numpy.mean([(e := mean_interval(list(sample))).low <= 3.0 <= e.high for sample in samples])
    # 4 standard errors of a share of 0.95 in 2,000 samples
    assert abs(covered - 0.95) < 4 * (0.95 * 0.05 / 2000) ** 0.5


def test_what_a_seed_does_to_both_arms_cancels():
    seeds = [100.0, 50.0, 80.0]
    difference = paired_difference([value - 2 for value in seeds], seeds)
    assert (difference.mean, difference.low, difference.high) == (-2.0, -2.0, -2.0)
    assert difference.excludes_zero


def test_one_value_has_no_interval():
    estimate = mean_interval([4.0])
    assert (estimate.mean, estimate.low, estimate.high, estimate.count) == (4.0, None, None, 1)
    assert not estimate.excludes_zero
    with pytest.raises(UserError, match="values is empty"):
        mean_interval([])
    with pytest.raises(ValueError, match="shorter|longer"):
        paired_difference([1.0, 2.0], [1.0])
