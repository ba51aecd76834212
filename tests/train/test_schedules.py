"""Schedules of the weight: planned ones by their shape, the controllers by what they do to a plant, and that each goes on after a stop."""

import itertools
import math
import random

import pytest
import torch
from models import build, tokens

from decondense import DispersionLoss, UserError, attach
from decondense.train.schedules import Adaptive, GradientShare, Planned, gradient_ratio


@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_a_planned_weight_rises_stays_and_falls(shape):
    plan = Planned(2.0, warmup=10, decay_start=50, decay_steps=20, final=0.5, shape=shape)
    weights = [plan.weight(step) for step in range(100)]
    assert weights[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert set(weights[9:51]) == {2.0}
    assert all(one > other for one, other in itertools.pairwise(weights[50:71]))
    assert weights[60] == pytest.approx(1.25)  # half way in either shape
    assert weights[70:] == [0.5] * 30


def test_a_plan_for_less_than_nothing_is_allowed_as_a_weight_below_0_is():
    assert Planned(-0.2, warmup=2).weight(0) == pytest.approx(-0.1)


def settle(schedule, lag, noise=0.0, free=0.6, power=1.2, steps=800):
    """Mean cosines of a model that, under a weight w, tends to free / (1 + (w / 0.3)^power), and gets there with a lag of so many steps."""
    draw, cosine, seen = random.Random(0), free, []
    weight = schedule.weight(0)
    for step in range(steps):
        cosine += (free / (1 + (weight / 0.3) ** power) - cosine) / lag
        seen.append(cosine)
        weight = schedule.weight(step, cosine * (1 + noise * draw.gauss(0, 1)))
    return seen[steps // 2 :]


@pytest.mark.parametrize("power", [1.2, 2.0])
@pytest.mark.parametrize("lag", [1, 5, 20, 50])
@pytest.mark.parametrize("target", [0.05, 0.1, 0.3])
def test_the_controller_holds_its_target_whatever_the_lag(lag, target, power):
    quiet = settle(Adaptive(target), lag, power=power)
    assert quiet[-1] == pytest.approx(target, rel=0.02)
    assert max(quiet) - min(quiet) < 0.05 * target  # it does not swing
    # Noise of 10 %, as the mean cosine of one batch has it: what is held on average moves little, for its error is taken as a share.
    noisy = settle(Adaptive(target), lag, power=power, noise=0.1)
    assert sum(noisy) / len(noisy) == pytest.approx(target, rel=0.05)


def test_a_model_that_does_not_condense_is_left_alone():
    schedule = Adaptive(0.3)
    settle(schedule, lag=1, free=0.05)
    assert schedule.weight(800) == pytest.approx(1e-4)


def test_a_target_out_of_reach_does_not_wind_up():
    schedule = Adaptive(0.1, highest=2.0)
    for step in range(500):
        assert schedule.weight(step, 0.9) <= 2.0
    assert schedule.weight(500) == pytest.approx(2.0)
    steps = next(count for count in range(1, 500) if schedule.weight(500 + count, 0.05) < 1.0)
    assert steps < 10  # of an integral that had grown on, hundreds


def test_what_is_no_number_leaves_the_weight_as_it_is():
    adaptive, share = Adaptive(0.1), GradientShare(0.1)
    for schedule in (adaptive, share):
        before = schedule.weight(0)
        assert [schedule.weight(step, observed) for step, observed in enumerate((None, math.nan))] == [before, before]
    assert share.weight(1, math.inf) == share.weight(1, 0.0) == 0.1


def test_the_gradient_s_share_is_held_and_smoothed():
    schedule = GradientShare(0.2, smoothing=0.5)
    assert schedule.weight(0, 0.1) == pytest.approx(2.0)  # the first observation replaces the start
    assert schedule.weight(1, 0.4) == pytest.approx(1.0)  # the geometric mean of 2 and 0.5
    for step in range(50):
        schedule.weight(step, 0.4)
    assert schedule.weight(51) == pytest.approx(0.5)


@pytest.mark.parametrize("make", [lambda: Adaptive(0.1), lambda: GradientShare(0.1)])
def test_a_schedule_goes_on_where_it_was(make):
    draw = random.Random(0)
    observed = [draw.random() for _ in range(40)]
    whole, first, second = make(), make(), make()
    weights = [whole.weight(step, value) for step, value in enumerate(observed)]
    for step in range(17):
        first.weight(step, observed[step])
    second.load_state_dict(first.state_dict())
    assert [second.weight(step, observed[step]) for step in range(17, 40)] == weights[17:]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Planned(math.nan), "height=nan: a weight is a finite number"),
        (lambda: Planned(0.1, warmup=-1), "warmup=-1"),
        (lambda: Planned(0.1, warmup=10, decay_start=5), "decay_start=5: the weight still rises then"),
        (lambda: Planned(0.1, decay_start=5, shape="cosin"), "did you mean 'cosine'"),
        (lambda: Adaptive(0.0), "target=0.0: a mean cosine between 0 and 1"),
        (lambda: Adaptive(1.0), "target=1.0"),
        (lambda: Adaptive(0.1, gain=0.0), "gain=0.0"),
        (lambda: Adaptive(0.1, start=20.0), "start=20.0, highest=10.0: must rise"),
        (lambda: Adaptive(0.1, start=-0.1), "must rise, and be above 0"),
        (lambda: GradientShare(0.0), "share=0.0"),
        (lambda: GradientShare(0.1, smoothing=1.0), "smoothing=1.0"),
    ],
)
def test_a_schedule_that_cannot_be_is_told(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_the_ratio_of_gradients_is_that_of_two_backward_passes_and_leaves_none():
    model, ids = build("gpt2").train(), tokens()
    with attach(model, DispersionLoss(), add_to_loss=False) as handle:
        loss = model(ids, labels=ids).loss
        ratio = gradient_ratio(loss, handle.loss(), model.parameters())
        assert all(parameter.grad is None for parameter in model.parameters())
        norms = []
        for value in (handle.loss(), loss):
            model.zero_grad()
            value.backward(retain_graph=True)
            grads = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
            norms.append(float(torch.cat(grads).norm()))
    assert ratio == pytest.approx(norms[0] / norms[1], rel=1e-5)
    assert ratio > 0
