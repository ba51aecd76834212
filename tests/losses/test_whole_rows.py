"""Rows that are no sum over pairs, against closed forms and the package of their authors."""

import math

import pytest
import torch

from decondense import DispersionLoss
from decondense.draws import random_directions


def normal(seed, batch, length, features):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, features, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("length", "features"), [(40, 6), (5, 12)], ids=["tall", "wide"])
def test_isoscore_by_its_definition(length, features):
    """The isotropy defect of the eigenvalues of the covariance, as I-STAR defines it."""
    hidden = normal(0, 1, length, features) * torch.arange(1, features + 1) + 3
    values = torch.linalg.eigvalsh(torch.cov(hidden[0].T)).clamp(min=0)
    scaled = math.sqrt(features) * values / values.norm()
    defect = (scaled - 1).norm() / math.sqrt(2 * (features - math.sqrt(features)))
    share = (features - defect**2 * (features - math.sqrt(features))) ** 2 / features**2
    score = (features * share - 1) / (features - 1)
    torch.testing.assert_close(DispersionLoss("isoscore")(hidden), 1 - score, rtol=1e-10, atol=1e-12)


def test_isoscore_of_known_clouds():
    axes = torch.cat([torch.eye(5), -torch.eye(5)]).double()
    assert DispersionLoss("isoscore")(axes[None]).item() == pytest.approx(0.0, abs=1e-12)
    line = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None] * torch.tensor([[1.0, 2, 3]])
    assert DispersionLoss("isoscore")(line[None]).item() == pytest.approx(1.0, abs=1e-12)


def test_isoscore_by_its_package():
    package = pytest.importorskip(
        "IsoScore.IsoScore", reason="IsoScore is not installed (pip install IsoScore --no-deps)"
    )
    hidden = normal(1, 1, 60, 8) * torch.arange(1, 9)
    star = package.istar()
    # No shrinkage: zeta = 0. The package takes the square root of the number of features in float32.
    score = star.IsoScore_star(hidden[0].numpy(), torch.eye(8, dtype=torch.float64), 0.0)
    assert DispersionLoss("isoscore")(hidden).item() == pytest.approx(1 - score.item(), abs=1e-6)


def test_sigreg_is_the_epps_pulley_statistic():
    """The integral in closed form (Baringhaus & Henze 1988), for the very directions that are drawn."""
    hidden = normal(2, 1, 30, 6) ** 3 + 1
    tokens = hidden[0]
    standard = (tokens - tokens.mean(dim=0)) / tokens.std(dim=0)
    directions = random_directions(6, 64, 0, 5, 2, hidden.device)
    seen = []
    for direction in directions.T:
        x = standard @ direction
        pairs = (-0.5 * (x[:, None] - x[None, :]) ** 2).exp().mean()
        singles = (-x.square() / 4).exp().mean() * math.sqrt(2)
        seen.append(pairs - singles + 1 / math.sqrt(3))
    # The trapezoid rule with 17 knots to 5: beyond lies a millionth of the weight, between knots the rule is exact to 1e-6.
    found = DispersionLoss("sigreg")(hidden, step=5, layer=2)
    torch.testing.assert_close(found, torch.stack(seen).mean(), rtol=1e-4, atol=1e-5)


def test_sigreg_tells_a_gaussian_from_two_clusters():
    gaussian = normal(3, 1, 400, 4)
    clusters = 0.1 * normal(4, 1, 400, 4) + torch.where(torch.arange(400) % 2 == 0, 1.0, -1.0)[:, None]
    loss = DispersionLoss("sigreg")
    # Of a Gaussian sample the statistic over L is about 0.3 / L.
    assert loss(gaussian) < 0.005
    assert loss(clusters) > 10 * loss(gaussian)


def test_directions_are_uniform_and_drawn_anew():
    directions = random_directions(3, 20000, 0, 1, 0, torch.device("cpu"))
    torch.testing.assert_close(directions.norm(dim=0), torch.ones(20000, dtype=torch.float64))
    # 4 standard errors: a coordinate of a uniform direction in three dimensions has variance 1/3.
    assert directions.mean(dim=1).abs().max() < 4 * (1 / 3 / 20000) ** 0.5
    assert (directions.square().mean(dim=1) - 1 / 3).abs().max() < 4 * (4 / 45 / 20000) ** 0.5
    assert not torch.equal(directions, random_directions(3, 20000, 0, 2, 0, torch.device("cpu")))
