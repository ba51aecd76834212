"""Inputs that break a careless loss, given to every way to have it: equal to the definition, or finite where they only estimate it."""

import pytest
import torch

from decondense import DispersionLoss, Moments, Partition, Subset
from decondense.losses import portions
from decondense.losses.formulations import FORMULATIONS

ROWS = [name for name, row in FORMULATIONS.items() if row.slope is not None and not row.features]
EXPANDED = [name for name in ROWS if FORMULATIONS[name].curvature is not None]
# In exact ways the groups hold all tokens: their value is the definition's.
EXACT = {
    "blocked": {"engine": "blocked"},
    "one group": {"pairs": Partition(64)},
    "one group, controlled": {"pairs": Partition(64, control=2)},
    "whole subset": {"pairs": Subset(64)},
}
ESTIMATES = {
    "order 1": {"pairs": Moments(1)},
    "order 2": {"pairs": Moments(2)},
    "groups": {"pairs": Partition(5)},
    "controlled groups": {"pairs": Partition(5, control=1)},
    "subset": {"pairs": Subset(5)},
}
pytestmark = pytest.mark.filterwarnings("ignore:.*an expansion is far from it there:UserWarning")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setitem(portions.BLOCK_OF, "cpu", 4)
    monkeypatch.setitem(portions.PAIRS_AT_ONCE, "cpu", 48)


def random_hidden(length=13, features=6, seed=0):
    return torch.randn(2, length, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.3


def with_outlier():
    hidden = random_hidden()
    hidden[0, 4] *= 1e3
    return hidden


def parallel_and_antipodal():
    hidden = random_hidden(length=12)
    hidden[:, 3:6] = hidden[:, :1] * torch.tensor([1.0, 2.0, 0.5])[:, None]
    hidden[:, 6:9] = -hidden[:, :1]
    return hidden


def some_zeros():
    hidden = random_hidden()
    hidden[0, 2], hidden[1, :7] = 0.0, 0.0
    return hidden


HARD = {
    "huge outlier": with_outlier(),
    "parallel and antipodal": parallel_and_antipodal(),
    "zero vectors": some_zeros(),
    "all zero": torch.zeros(2, 9, 6, dtype=torch.float64),
    "length of a prime": random_hidden(length=13),
    "two tokens": random_hidden(length=2),
    "two features": random_hidden(features=2),
    "transposed": random_hidden(length=6, features=13).mT,
    "every other feature": random_hidden(features=12)[..., ::2],
    "batch last in memory": random_hidden().permute(1, 2, 0).contiguous().permute(2, 0, 1),
    "expanded": random_hidden()[:1].expand(2, -1, -1),
}
inputs = pytest.mark.parametrize("hidden", HARD.values(), ids=HARD)


def value_and_gradient(name, hidden, **arguments):
    leaf = hidden.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    value = DispersionLoss(name, **arguments)(leaf)
    value.backward()
    return value.detach(), leaf.grad


@inputs
@pytest.mark.parametrize(
    ("name", "way"), [(name, way) for name in ROWS for way in EXACT if name in EXPANDED or "controlled" not in way]
)
def test_exact_ways_give_the_definition(name, way, hidden):
    expected, expected_gradient = value_and_gradient(name, hidden, engine="eager")
    value, gradient = value_and_gradient(name, hidden, **EXACT[way])
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-10)
    # Rounding of float64, of gradients as large as the largest there is.
    assert (gradient - expected_gradient).abs().max() <= 1e-9 * max(float(expected_gradient.abs().max()), 1.0)


@inputs
@pytest.mark.parametrize("way", ESTIMATES)
@pytest.mark.parametrize("name", EXPANDED)
def test_estimates_stay_finite(name, way, hidden):
    value, gradient = value_and_gradient(name, hidden, **ESTIMATES[way])
    assert value.isfinite()
    assert gradient.isfinite().all()
    # A zero vector has no direction: its gradient is finite, and those that other tokens get must not have vanished with it.
    _, expected = value_and_gradient(name, hidden, engine="eager")
    if way in ("order 2", "controlled groups") and expected.abs().max() > 1e-6:
        assert gradient.abs().max() > 0


@pytest.mark.parametrize("way", {**EXACT, **ESTIMATES})
def test_one_token_and_no_token(way):
    arguments = {**EXACT, **ESTIMATES}[way]
    hidden = random_hidden()
    value, gradient = value_and_gradient("dispersion", hidden[:, :1], **arguments)
    assert value == 0
    assert (gradient == 0).all()
    leaf = hidden.clone().requires_grad_()
    value = DispersionLoss(**arguments)(leaf, mask=torch.zeros(2, 13, dtype=torch.int64))
    value.backward()
    assert value == 0
    assert (leaf.grad == 0).all()


@pytest.mark.parametrize("way", {**EXACT, **ESTIMATES})
def test_what_is_no_hidden_state_is_refused(way):
    loss = DispersionLoss(**{**EXACT, **ESTIMATES}[way])
    with pytest.raises(TypeError, match="hidden: expected a floating-point tensor"):
        loss(torch.ones(2, 13, 6, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"mask: expected shape \[2, 13\] as hidden has, got \[2, 12\]"):
        loss(random_hidden(), mask=torch.ones(2, 12, dtype=torch.int64))
