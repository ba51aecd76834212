"""The 90 + 40 golden cases: value and gradient of every formulation, in float64."""

import json
from pathlib import Path

import numpy
import pytest
import torch

from decondense import DispersionLoss
from decondense.losses.formulations import FORMULATIONS

GOLDEN = Path(__file__).parents[1] / "golden"
OTHER_NAMES = {"decorrelation_features": "decorrelation", "covariance_features": "covariance"}
INPUTS = numpy.load(GOLDEN / "losses.npz")


def cases():
    for file in ("losses", "losses_beyond"):
        gradients = numpy.load(GOLDEN / f"{file}.npz")
        for case in json.loads((GOLDEN / f"{file}.json").read_text()):
            name = f"{case['formulation']}-{case['input']}-tau{case['tau']}"
            yield pytest.param(case, gradients[f"grad_{case['key']}"], id=name)


@pytest.mark.parametrize(("case", "gradient"), list(cases()))
@pytest.mark.parametrize("engine", ["auto", "eager"])
def test_value_and_gradient(case, gradient, engine):
    hidden = torch.tensor(INPUTS[f"z_{case['input']}"], requires_grad=True)
    name = OTHER_NAMES.get(case["formulation"], case["formulation"])
    loss = DispersionLoss(name, temperature=case["tau"], clamp=case["clamp"], epsilon=case["epsilon"], engine=engine)
    value = loss(hidden)
    value.backward()
    assert value.item() == pytest.approx(case["value"], rel=1e-9, abs=1e-12)
    # Rounding of float64 over a few thousand terms; the floor is for gradients that are zero but for rounding.
    tolerance = max(1e-9 * numpy.abs(gradient).max(), 1e-12)
    assert numpy.abs(hidden.grad.numpy() - gradient).max() <= tolerance


def test_every_formulation_has_golden_cases():
    seen = {OTHER_NAMES.get(case.values[0]["formulation"], case.values[0]["formulation"]) for case in cases()}
    # These two have closed forms of their own (test_whole_rows.py).
    assert seen == set(FORMULATIONS) - {"isoscore", "sigreg"}
    assert len(list(cases())) == 130
