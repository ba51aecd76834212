"""Average ranks and their tests equal scipy's and a published example."""

import numpy
import pytest
import scipy.stats

from decondense.evaluate.ranking import rank_arms

# Demsar (2006), table 6: AUC of four versions of C4.5 on 14 data sets.
C45 = {
    "C4.5": (0.763, 0.599, 0.954, 0.628, 0.882, 0.936, 0.661, 0.583, 0.775, 1.000, 0.940, 0.619, 0.972, 0.957),
    "C4.5+m": (0.768, 0.591, 0.971, 0.661, 0.888, 0.931, 0.668, 0.583, 0.838, 1.000, 0.962, 0.666, 0.981, 0.978),
    "C4.5+cf": (0.771, 0.590, 0.968, 0.654, 0.886, 0.916, 0.609, 0.563, 0.866, 1.000, 0.965, 0.614, 0.9751, 0.946),
    "C4.5+m+cf": (0.798, 0.569, 0.967, 0.657, 0.898, 0.931, 0.685, 0.625, 0.875, 1.000, 0.962, 0.669, 0.975, 0.970),
}


def test_demsars_example():
    ranks = rank_arms(C45, "C4.5", one_metric=True)
    # As printed there: average ranks, chi squared 9.28, critical difference 1.25
    average = list(ranks.average.values())
    assert average == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    assert 12 * 14 / 20 * (sum(rank**2 for rank in average) - 4 * 25 / 4) == pytest.approx(9.28, abs=0.01)
    # Demsar's F of 3.69 takes no notice of ties; with them the differences weigh more.
    assert 0.5 < ranks.friedman / scipy.stats.f.sf(3.69, 3, 39) < 1
    chi = scipy.stats.friedmanchisquare(*C45.values()).statistic
    assert ranks.friedman == pytest.approx(scipy.stats.f.sf(13 * chi / (14 * 3 - chi), 3, 39))
    assert ranks.critical_difference == pytest.approx(1.25, abs=5e-3)
    assert (ranks.tasks, ranks.test) == (14, "Wilcoxon signed-rank")


def test_an_arm_is_tested_against_the_baseline_by_the_two_alone():
    # What Benavoli et al. (2016) ask for: a third arm does not change what is said of the first two.
    both = rank_arms({arm: C45[arm] for arm in ("C4.5", "C4.5+m")}, "C4.5", one_metric=True)
    all_arms = rank_arms(C45, "C4.5", one_metric=True)
    differences = numpy.subtract(C45["C4.5+m"], C45["C4.5"])
    expected = scipy.stats.wilcoxon(differences[differences != 0]).pvalue
    assert both.against_baseline == pytest.approx({"C4.5+m": expected})
    assert (both.friedman, both.critical_difference) == (None, None)
    # Holm over three arms takes the smallest p-value three times, and no more is done to it.
    assert all_arms.against_baseline["C4.5+m"] == pytest.approx(min(3 * expected, 1.0), rel=0.5)


def test_tasks_of_several_metrics_are_told_by_the_sign_alone():
    scores = {"a": [1.0, -50.0, 0.3, 5.0, 2.0, 0.1], "b": [2.0, -40.0, 0.4, 6.0, 3.0, 0.2]}
    ranks = rank_arms(scores, "a", one_metric=False)
    assert (ranks.test, ranks.average) == ("sign", {"a": 2.0, "b": 1.0})
    assert ranks.against_baseline["b"] == pytest.approx(2 * 0.5**6)


def test_arms_that_are_alike_or_always_in_one_order():
    same = rank_arms({name: [0.1, 0.2, 0.3] for name in "abc"}, "a", one_metric=True)
    assert (same.friedman, same.against_baseline) == (1.0, {"b": 1.0, "c": 1.0})
    ordered = rank_arms({"a": [1.0, 2.0, 3.0], "b": [2.0, 3.0, 4.0], "c": [5.0, 6.0, 7.0]}, "a", one_metric=True)
    # Each of three tasks shows the same of 3! orders.
    assert ordered.friedman == pytest.approx(1 / 36)
