"""Tests equal scipy's and those done by hand, cover what they say, and do not depend on order, sign or unit."""

import math

import numpy
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from decondense.errors import UserError
from decondense.evaluate.significance import (
    holm,
    over_both,
    over_items,
    over_seeds,
    power,
    seeds_needed,
    smallest_visible,
    standardised,
)


def draw(seed, seeds=4, items=60, of_seeds=0.3, of_items=0.5):
    random = numpy.random.default_rng(seed)
    parts = of_seeds * random.normal(size=(seeds, 1)) + of_items * random.normal(size=items)
    return parts + random.normal(size=(seeds, items))


@pytest.mark.parametrize("count", [2, 3, 9])
def test_the_test_over_seeds_is_scipys_paired_t(count):
    random = numpy.random.default_rng(count)
    one, other = random.normal(10, 3, count), random.normal(9, 3, count)
    test, expected = over_seeds((one - other).tolist()), scipy.stats.ttest_rel(one, other)
    assert test.p == pytest.approx(expected.pvalue, rel=1e-9)
    interval = expected.confidence_interval(0.95)
    assert (test.low, test.high) == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_the_test_over_items_is_scipys_on_means_over_seeds():
    differences = draw(1)
    expected = scipy.stats.ttest_1samp(differences.mean(axis=0), 0)
    assert over_items(differences).p == pytest.approx(expected.pvalue, rel=1e-9)
    assert over_items(differences[:1]).p is not None  # one seed: it speaks of these two models alone


def test_without_a_part_of_items_both_is_the_test_over_seeds():
    random = numpy.random.default_rng(3)
    found = 0
    for _ in range(20):
        differences = random.normal(size=(4, 50))
        both, seeds = over_both(differences), over_seeds(differences.mean(axis=1).tolist())
        columns = differences.mean(axis=0).var(ddof=1) * 4
        residual = differences - differences.mean(axis=0) - differences.mean(axis=1)[:, None] + differences.mean()
        if columns <= (residual**2).sum() / (3 * 49):
            found += 1
            assert both.p == pytest.approx(seeds.p, rel=1e-6)
        assert both.high - both.low >= (seeds.high - seeds.low) * (1 - 1e-9) or columns > 1
    assert found > 3


def test_with_many_seeds_alike_both_is_the_test_over_items():
    random = numpy.random.default_rng(4)
    items = random.normal(size=200)
    differences = items + 1e-6 * random.normal(size=(5, 200))
    assert over_both(differences).p == pytest.approx(over_items(differences).p, rel=1e-3)


def test_the_mean_of_tasks_that_are_alike_or_independent():
    one, other = draw(1), draw(2)
    # The same task twice has the mean and the part of seeds of one, and half the part of items: as if it had twice the items.
    twice = over_both(one, one)
    assert twice.mean == pytest.approx(over_both(one).mean)
    assert twice.high - twice.low < over_both(one).high - over_both(one).low
    assert over_both(one, other).p == pytest.approx(over_both(other, one).p)
    # Welch's test, by hand
    columns = [matrix.mean(axis=0) for matrix in (one, other)]
    error = math.sqrt(sum(column.var(ddof=1) / 60 for column in columns)) / 2
    mean = numpy.mean([column.mean() for column in columns])
    items = over_items(one, other)
    assert items.p == pytest.approx(2 * scipy.stats.t.sf(abs(mean) / error, items.freedom))
    assert 59 <= items.freedom <= 118


def test_the_interval_over_both_ends_where_p_is_5_percent():
    differences = draw(5)
    test = over_both(differences)
    assert over_both(differences - test.low).p == pytest.approx(0.05, rel=1e-6)
    assert over_both(differences - test.high).p == pytest.approx(0.05, rel=1e-6)


@pytest.mark.parametrize("seeds", [3, 9])
def test_seeds_and_items_at_random_are_both_covered(seeds):
    # Random effects of both, and no mean effect: 5 % of 1,000 studies are found, give or take 4 standard errors; the weighted
    # critical value may err to the careful side. The test over items alone finds far more.
    studies = [draw([seeds, number], seeds, 40) for number in range(1000)]
    both, items = (numpy.mean([test(study).p < 0.05 for study in studies]) for test in (over_both, over_items))
    assert 0.02 < both < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 1000)
    assert items > 0.15


@pytest.mark.parametrize("test", [over_items, over_both, lambda matrix: over_seeds(matrix.mean(axis=1).tolist())])
def test_order_sign_and_unit_make_no_difference(test):
    differences = draw(6)
    shuffled = (
        numpy.random.default_rng(0).permuted(differences, axis=1)[::-1]
        if test is not over_both
        else differences[::-1, ::-1]
    )
    if test is over_items:
        shuffled = differences[:, ::-1]
    for other, sign in ((shuffled, 1), (-differences, -1), (1000 * differences, 1000)):
        assert test(other).p == pytest.approx(test(differences).p, rel=1e-6)
        assert test(other).mean == pytest.approx(sign * test(differences).mean)


def test_what_cannot_be_tested_is_not():
    assert (over_seeds([3.0]).p, over_seeds([3.0]).low) == (None, None)
    assert over_seeds([2.0, 2.0, 2.0]).p is None
    assert over_seeds([0.1 + 0.2 - 0.3, 0.0]).p is not None
    assert over_seeds([0.0, 0.0]).p == 1.0
    assert over_both(numpy.zeros((3, 4))).p == 1.0
    assert over_both(numpy.ones((3, 4))).p is None
    assert over_both(numpy.ones((1, 4))).low is None
    assert standardised([1.0]) is None
    assert standardised([1.0, 1.0]) is None
    with pytest.raises(UserError, match=r"a matrix \[seeds, items\] is expected, given shape \[3\]"):
        over_items(numpy.ones(3))


def test_holm_by_hand():
    # 0.01 x 4; 0.02 x 3; 0.03 x 2; 0.2 x 1: each at least the one before
    assert holm([0.03, 0.2, 0.01, 0.02]) == pytest.approx([0.06, 0.2, 0.04, 0.06])
    assert holm([0.04, 0.03]) == pytest.approx([0.06, 0.06])
    assert holm([]) == []


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=12))
def test_holm_keeps_order_and_lies_between_nothing_and_bonferroni(p_values):
    adjusted = holm(p_values)
    tested = [(p, q) for p, q in zip(p_values, adjusted, strict=True) if p is not None]
    assert [p is None for p in p_values] == [q is None for q in adjusted]
    assert all(p <= q <= min(1.0, len(tested) * p) + 1e-12 for p, q in tested)
    assert [q for _, q in sorted(tested)] == sorted(q for _, q in tested)


def test_the_effect_and_its_interval_cover_the_true_one():
    random = numpy.random.default_rng(8)
    effects = [standardised(random.normal(0.8, 1.0, 6).tolist()) for _ in range(400)]
    covered = numpy.mean([effect.low < 0.8 * _correction(5) < effect.high for effect in effects])
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 400)
    # Hedges' correction takes the bias of few seeds out: it is 0.15 of the 0.8 without it.
    mean = numpy.mean([effect.value for effect in effects])
    assert abs(mean - 0.8) < 4 * numpy.std([effect.value for effect in effects]) / 20


def _correction(freedom):
    return math.gamma(freedom / 2) / math.gamma((freedom - 1) / 2) / math.sqrt(freedom / 2)


def test_an_effect_excludes_0_just_where_p_is_below_5_percent():
    for seed in range(30):
        differences = numpy.random.default_rng(seed).normal(1.0, 1.0, 5).tolist()
        effect = standardised(differences)
        assert (effect.low > 0 or effect.high < 0) == (over_seeds(differences).p < 0.05)


@pytest.mark.parametrize(("effect", "seeds"), [(0.5, 10), (1.0, 5), (2.0, 3)])
def test_power_is_how_often_the_effect_is_found(effect, seeds):
    random = numpy.random.default_rng(seeds)
    samples = random.normal(effect, 1.0, (4000, seeds))
    found = (scipy.stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05).mean()
    assert abs(found - power(effect, seeds)) < 4 * math.sqrt(0.25 / 4000)


def test_seeds_needed_are_the_fewest():
    # 0.5 needs 34, as in the tables of Cohen (1988) and in G*Power
    assert seeds_needed(0.5) == 34
    for effect in (0.05, 0.3, 1.0, 2.5, 8.0):
        needed = seeds_needed(effect)
        assert power(effect, needed) >= 0.8
        assert needed == 2 or power(effect, needed - 1) < 0.8
    assert seeds_needed(100.0) == 2
    assert seeds_needed(0.0001) is None
    assert seeds_needed(-0.5) == 34


@pytest.mark.parametrize("seeds", [2, 3, 9, 200])
def test_the_smallest_visible_difference_is_seen_with_power_80_percent(seeds):
    assert power(smallest_visible(2.0, seeds) / 2.0, seeds) == pytest.approx(0.8)
