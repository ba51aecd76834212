"""The verdict follows the numbers, whatever their sign."""

from decondense.evaluate.intervals import Estimate
from decondense.studies.verdict import describe_condensation, describe_difference, verdict


def test_better_worse_and_neither():
    assert describe_difference(Estimate(-10.0, -12.0, -8.0, 5), 100.0).startswith(
        "its held-out perplexity is 10.0 (10.0%) lower (95 %"
    )
    assert describe_difference(Estimate(3.0, 1.0, 5.0, 5), 100.0).startswith(
        "its held-out perplexity is 3.0 (3.0%) higher"
    )
    assert "no more than noise (-1.0; 95 % interval of the difference -3.0 to +1.0)" in describe_difference(
        Estimate(-1.0, -3.0, 1.0, 3), 50.0
    )
    assert "tells no interval" in describe_difference(Estimate(-1.0, None, None, 1), 50.0)


def test_condensation_is_compared_with_the_baseline():
    assert describe_condensation(0.05, 0.2).startswith("at most half as condensed")
    assert describe_condensation(0.15, 0.2).startswith("somewhat less condensed")
    assert describe_condensation(0.25, 0.2).startswith("no less condensed")


def test_one_sentence_that_names_its_budget():
    text = verdict(300, 307200, 2, "cross_entropy", [("dispersion", "A", "B"), ("effective_rank", "C", "D")])
    assert text.startswith(
        "After 300 steps (307,200 tokens) and 2 seeds, compared with cross_entropy: dispersion is A, and B; effective_rank is C, and D;"
    )
    assert text.count(".") == 1
