"""Made-up measurements for the report's tests: smooth numbers, none of them measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy
import pytest
from numpy.typing import NDArray

from decondense.report import Series, Trajectory

ARMS = ("cross_entropy", "dispersion", "effective_rank")


@dataclass
class Measurement:
    """What the report needs of a `Condensation` and no more."""

    model: str
    mean_cosine: NDArray[numpy.float64]
    spearman: float
    kendall: float
    histogram: NDArray[numpy.int64]
    histogram_of_mean: NDArray[numpy.int64] | None = None


def measurement(model: str, seed: int, layers: int = 7) -> Measurement:
    random = numpy.random.default_rng(seed)
    return Measurement(
        model=model,
        mean_cosine=random.random(layers),
        spearman=random.uniform(-1, 1),
        kendall=random.uniform(-1, 1),
        histogram=random.integers(0, 10_000, (layers, 128)),
    )


@pytest.fixture(scope="session")
def make_measurement() -> Callable[..., Measurement]:
    """Make up a measurement by the name of its model, a seed, and the number of its layers (7)."""
    return measurement


@pytest.fixture
def results() -> list[Measurement]:
    """Three arms, one of them with more layers than the others."""
    return [measurement(f"runs/{name}", seed, 7 + seed) for seed, name in enumerate(ARMS)]


@pytest.fixture
def series() -> list[Series]:
    """A curve with an interval, one without, and one with a gap and a step at which perplexity was infinite."""
    steps = [0, 10, 100, 300]
    return [
        Series("cross_entropy", steps, [1000, 600.5, 200, 1 / 3], [900, 500, 150, 0.25], [1100, 700, 250, 0.5]),
        Series("dispersion", steps[1:], [500, 150, 94.0]),
        Series("effective_rank", steps, [1000, float("nan"), float("inf"), 81.0]),
    ]


@pytest.fixture
def arms() -> list[Trajectory]:
    """Three arms, seven layers, five steps."""
    random = numpy.random.default_rng(3)
    return [Trajectory(name, [0, 5, 20, 60, 300], random.random((5, 7))) for name in ARMS]
