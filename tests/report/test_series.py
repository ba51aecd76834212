"""What is drawn is what was measured; what cannot be drawn truthfully is refused in a line that says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from decondense import Condensation
from decondense.errors import UserError
from decondense.report.series import Series, Trajectory, check_curves, check_trajectories, density, prepare_heatmaps

Make = Callable[..., Any]


@given(arrays(numpy.int64, st.tuples(st.integers(1, 9), st.integers(1, 200)), elements=st.integers(0, 10**9)))
def test_density_integrates_to_one_and_keeps_the_ratios_of_counts(counts: numpy.ndarray) -> None:
    counts[:, 0] += 1
    found = density(counts)
    bin_width = 2 / counts.shape[1]
    # Sums of at most 200 positive terms: rounding of at most 200 units in the last place.
    numpy.testing.assert_allclose(found.sum(axis=1) * bin_width, 1, rtol=200 * 2**-52)
    numpy.testing.assert_allclose(found * counts[:, :1], found[:, :1] * counts, rtol=1e-14)


def test_a_layer_without_pairs_is_named() -> None:
    with pytest.raises(UserError, match="layer 1 counts no pair"):
        density([[1, 2], [0, 0], [3, 0]])


def test_layers_are_placed_at_their_fraction_of_the_depth(make_measurement: Make) -> None:
    [heatmap] = prepare_heatmaps([make_measurement("m", 0, layers=5)], ["m"])
    assert heatmap.fraction.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert (heatmap.middle, heatmap.last) == (heatmap.mean_cosine[2], heatmap.mean_cosine[4])
    assert prepare_heatmaps([make_measurement("m", 0, layers=1)], ["m"])[0].fraction.tolist() == [0]


def test_a_condensation_is_what_is_drawn() -> None:
    random = numpy.random.default_rng(0)
    cosines = random.random((4, 3))
    counts = random.integers(1, 100, (3, 128))
    result = Condensation(
        model="tiny",
        max_length=8,
        tokens=numpy.full(4, 8),
        text_metrics={"mean_cosine": cosines, "mean_cosine_off_diagonal": cosines},
        pair_counts=counts,
    )
    [heatmap] = prepare_heatmaps([result], ["Tiny"])
    numpy.testing.assert_array_equal(heatmap.counts, counts)
    numpy.testing.assert_array_equal(heatmap.mean_cosine, cosines.mean(axis=0))
    assert (heatmap.model, heatmap.spearman) == ("tiny", result.spearman)
    with pytest.raises(UserError, match=r"Tiny: no histogram of the averaged matrix.*kind='histogram' draws all pairs"):
        prepare_heatmaps([result], ["Tiny"], kind="histogram_of_mean")


def test_none_is_a_gap_in_a_line_and_in_its_interval() -> None:
    one = Series("a", [0, 1], [None, 2.0], low=[None, 1], high=[None, 3.0])
    numpy.testing.assert_array_equal([one.y, one.low, one.high], [[numpy.nan, 2], [numpy.nan, 1], [numpy.nan, 3]])


def wrong_shape(make: Make) -> object:
    result = make("m", 0)
    result.histogram = result.histogram[:3]
    return prepare_heatmaps([result], ["m"])


REFUSED: dict[str, tuple[Callable[[Make], object], str]] = {
    "half an interval": (lambda make: Series("a", [0], [1], low=[0]), "needs low and high"),
    "unlike lengths": (lambda make: Series("a", [0, 1], [1]), r"all of one length expected, given \{'x': 2, 'y': 1\}"),
    "nothing": (lambda make: Series("a", [], []), r"a row of numbers expected, given shape \[0\]"),
    "falling x": (lambda make: Series("a", [1, 1], [1, 2]), "must rise"),
    "swapped interval": (lambda make: Series("a", [0], [1], low=[2], high=[0]), "swapped"),
    "flat trajectory": (
        lambda make: Trajectory("a", [0, 1], [0.5, 0.5]),
        r"shape \[2 steps, layers\] expected, given \[2\]",
    ),
    "step before 0": (lambda make: Trajectory("a", [-1, 1], [[0.5], [0.5]]), "training starts at step 0"),
    "no trajectory": (lambda make: check_trajectories([]), "no arm to draw"),
    "no number": (
        lambda make: check_trajectories([Trajectory("a", [0], [[float("nan")]])]),
        "'a': not one mean cosine",
    ),
    "no series": (lambda make: check_curves([], "linear", "linear"), "no series"),
    "unknown scale": (lambda make: check_curves([Series("a", [1], [1])], "logg", "log"), "did you mean 'log'"),
    "step 0 on log": (lambda make: check_curves([Series("a", [0], [1])], "log", "log"), "x_scale='steps' can"),
    "before step 0": (
        lambda make: check_curves([Series("a", [-1], [1])], "steps", "log"),
        "x_scale='steps' begins at 0",
    ),
    "zero on log": (lambda make: check_curves([Series("a", [1], [0])], "log", "log"), "y_scale='linear' can"),
    "low on log": (lambda make: check_curves([Series("a", [1], [1], [-1], [2])], "log", "log"), "y_scale='linear' can"),
    "no finite value": (lambda make: check_curves([Series("a", [1], [float("inf")])], "log", "log"), "not one value"),
    "titles": (lambda make: prepare_heatmaps([make("m", 0)], []), "one title for each result"),
    "no result": (lambda make: prepare_heatmaps([], []), "at least one of them, given 0 and 0"),
    "unknown kind": (
        lambda make: prepare_heatmaps([make("m", 0)], ["m"], "histogramm"),
        "did you mean 'histogram'",
    ),
    "wrong shape": (wrong_shape, r"histogram of shape \[7 layers, bins\] expected, given \[3, 128\]"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_drawn_is_refused_in_one_line(case: str, make_measurement: Make) -> None:
    act, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as caught:
        act(make_measurement)
    assert "\n" not in str(caught.value)
