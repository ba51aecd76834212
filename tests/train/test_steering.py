"""What is observed in one step steers the next: weight and layers, in a loop, and after a stop as without one."""

import math

import pytest
import torch
from models import build, tokens

from decondense import DispersionLoss, Partition, UserError, attach
from decondense.train.monitor import Observation
from decondense.train.schedules import Adaptive, GradientShare, Planned
from decondense.train.steering import Steering, condensed


def train(steps, make, condensed_above=None, every=2, stop=None):
    """Train with a steered loss; with `stop` in two halves, of which the second knows the saved states alone. Returns weights and what steered."""
    model = build("gpt2").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    seen, first, states = [], 0, None
    for last in (steps,) if stop is None else (stop, steps):
        handle = attach(model, DispersionLoss(pairs=Partition(3)), weight=1.0)
        steering = Steering(model, handle, every, make(), condensed_above, patience=99)
        with handle, steering:
            if states is not None:
                handle.load_state_dict(states[0])
                steering.load_state_dict(states[1])
            for step in range(first, last):
                steering.before_step(step)
                ids = tokens(seed=step)
                output = model(ids, labels=ids)
                steering.see_terms(output.loss - handle.weight * handle.loss(), handle.loss())
                output.loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                seen.append((handle.weight, handle.chosen))
            states = handle.state_dict(), steering.state_dict()
        first = last
    return torch.cat([parameter.flatten() for parameter in model.parameters()]), seen, steering


@pytest.mark.parametrize(
    "make", [lambda: Adaptive(0.02, start=1.0), lambda: GradientShare(0.5), lambda: Planned(1.0, 4)]
)
@pytest.mark.parametrize("stop", [4, 5])
def test_a_run_that_goes_on_is_steered_as_one_that_was_not_stopped(make, stop):
    # After step 4 there is an observation that nothing has been done with yet.
    whole, seen, _ = train(9, make, condensed_above=0.05)
    parts, again, _ = train(9, make, condensed_above=0.05, stop=stop)
    assert again == seen
    assert torch.equal(whole, parts)
    assert len({weight for weight, _ in seen}) > 3


def test_an_observation_steers_the_step_after_it():
    _, seen, steering = train(6, lambda: Adaptive(0.02, start=1.0))
    assert [one.step for one in steering.monitor.history] == [1, 2, 4, 6]
    weights = [weight for weight, _ in seen]
    assert weights[0] == 1.0
    changed = [step for step in range(1, 6) if weights[step] != weights[step - 1]]
    assert changed == [1, 2, 4]
    schedule = Adaptive(0.02, start=1.0)
    expected = [schedule.weight(0, one.average([1, 2, 3])) for one in steering.monitor.history[:3]]
    assert [weights[1], weights[2], weights[4]] == expected


def test_the_share_of_the_gradient_is_the_target():
    model, ids = build("gpt2").train(), tokens()
    with (
        attach(model, DispersionLoss(), add_to_loss=False) as handle,
        Steering(model, handle, 1, GradientShare(0.25, smoothing=0.0)) as steering,
    ):
        norms = []
        for step in range(2):
            steering.before_step(step)
            loss = model(ids, labels=ids).loss
            steering.see_terms(loss, handle.loss())
            for value in (handle.weight * handle.loss(), loss):
                model.zero_grad()
                value.backward(retain_graph=True)
                grads = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
                norms.append(float(torch.cat(grads).norm()))
    assert norms[2] / norms[3] == pytest.approx(0.25, rel=1e-4)


def test_the_loss_is_taken_where_the_last_observation_was_condensed():
    _, seen, steering = train(5, lambda: None, condensed_above=0.05)
    chosen = [layers for _, layers in seen]
    first, second, third, *_ = [condensed(one, [1, 2, 3], 0.05) for one in steering.monitor.history]
    assert chosen == [None, first, second, second, third]
    assert 0 < len(first) < 3


def test_the_term_is_the_mean_over_the_chosen_layers():
    model, ids = build("gpt2").train(), tokens()
    terms = {}
    for layers in ([1, 3], [1, 2, 3]):
        with attach(model, DispersionLoss(), layers=layers, add_to_loss=False) as handle:
            model(ids)
            terms["given", len(layers)] = handle.loss()
            handle.chosen = [1, 3]
            model(ids)
            terms["chosen", len(layers)] = handle.loss()
            handle.chosen = []
            with pytest.raises(UserError, match=r"chosen=\[\]: none of these is one of the layers"):
                model(ids)
    assert terms["chosen", 3] == terms["given", 2] == terms["chosen", 2] != terms["given", 3]


@pytest.mark.parametrize(
    ("cosines", "expected"),
    [
        ((0.9, 0.1, 0.3, 0.5), [2, 3]),
        ((0.9, 0.1, 0.15, 0.12), [2]),  # none: the most condensed one, so that there is always a term
        ((0.9, math.nan, 0.1, 0.5), [3]),
        ((0.9, math.nan, math.nan, math.nan), [1, 2, 3]),
    ],
)
def test_condensed_layers(cosines, expected):
    assert condensed(Observation(1, cosines), [1, 2, 3], 0.2) == expected


def test_without_a_loss_it_observes_alone():
    model = build("gpt2").train()
    with Steering(model, every=1) as steering:
        steering.before_step(0)
        model(tokens())
    assert [one.step for one in steering.monitor.history] == [1]
    with pytest.raises(UserError, match="needs the handle of a loss"):
        Steering(model, schedule=Adaptive(0.1))
    with attach(model, DispersionLoss()) as handle, pytest.raises(UserError, match="condensed_above=1.5"):
        Steering(model, handle, condensed_above=1.5)
