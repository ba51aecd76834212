"""The training loop: schedule, observations, and that a stopped run ends with the same weights."""

import pytest
import torch
from models import build, tokens

from decondense import DispersionLoss, Partition, attach
from decondense.train.loop import Diverged, Schedule, Together, train
from decondense.train.update import Update


class Stopped(Exception):
    """Stands for a kill in the middle of training."""


def run(folder, stop_at=None, steps=12):
    model = build("gpt2")
    seen = []

    def progress(step):
        if step == stop_at:
            raise Stopped

    # The resumed run finds its weights in the state, not in what the model happens to be.
    with attach(model, DispersionLoss(pairs=Partition(3)), weight=0.5) as handle:
        seconds = train(
            model,
            lambda step: tokens(seed=step),
            Schedule(steps),
            folder / "state.pt",
            observe=lambda step: seen.append((step, model.training)),
            observe_at=(0, 5, steps),
            extra_state=handle,
            save_every=4,
            progress=progress,
        )
    return model, seen, seconds


@pytest.mark.parametrize("stop_at", [1, 7, 8, 11])
def test_a_stopped_run_ends_with_the_same_weights(tmp_path, stop_at):
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole, seen, _ = run(tmp_path / "whole")
    with pytest.raises(Stopped):
        run(tmp_path / "parts", stop_at)
    resumed, _, _ = run(tmp_path / "parts")
    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert seen == [(0, False), (5, False), (12, False)]


def test_learning_rate_rises_and_falls():
    schedule = Schedule(steps=100, learning_rate=1.0, warmup=0.1)
    rates = [schedule.learning_rate_at(step) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[-1] < 0.01


def broken_at(step):
    """An objective whose second term is no number at one step, or whose gradient is none."""

    def objective(model, part, total):
        objective.step += 1
        loss = model(**part).loss
        if objective.step <= step:
            return {"cross entropy": loss, "term": loss * 0.0}
        if objective.gradient:
            # The square root of 0 is 0, and its slope is infinite.
            return {"cross entropy": loss, "term": (loss * 0.0).sqrt()}
        return {"cross entropy": loss, "term": loss * float("nan")}

    objective.step, objective.gradient = 0, False
    return objective


@pytest.mark.parametrize("gradient", [False, True])
def test_a_broken_loss_stops_the_training_and_keeps_the_last_state(tmp_path, gradient):
    model, objective = build("gpt2"), broken_at(step=5)
    objective.gradient = gradient
    path = tmp_path / "state.pt"
    what = "the gradient of a finite loss is (nan|inf)" if gradient else "term is nan"
    with pytest.raises(Diverged, match=f"{what} at step 5: lower .*; the state after 4 steps is kept in .*state.pt"):
        train(
            model, lambda step: tokens(seed=step), Schedule(9), path, lambda step: None,
            save_every=2, update=Update(objective),
        )  # fmt: skip
    state = torch.load(path, weights_only=True)
    assert state["step"] == 4
    assert all(tensor.isfinite().all() for tensor in state["model"].values())
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_a_loss_that_is_broken_at_once_is_told_by_its_step(tmp_path):
    model = build("gpt2")
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="the loss is nan at step 0: .*no state was saved yet"):
        train(model, lambda step: tokens(), Schedule(3), tmp_path / "state.pt", observe=lambda step: None)


def test_what_is_reported_are_the_terms_and_the_norm(tmp_path):
    told = []
    train(
        build("gpt2"), lambda step: tokens(), Schedule(3, learning_rate=1e-3), tmp_path / "state.pt", lambda step: None,
        report=lambda step, numbers: told.append((step, numbers)),
    )  # fmt: skip
    assert [step for step, _ in told] == [1, 2, 3]
    assert list(told[0][1]) == ["the loss", "learning_rate", "gradient_norm"]
    assert told[0][1]["learning_rate"] == 1e-3
    assert told[0][1]["gradient_norm"] > 0


def test_several_states_are_one():
    first, second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    state = Together(a=first, b=second).state_dict()
    fresh = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    Together(a=fresh[0], b=fresh[1]).load_state_dict(state)
    assert torch.equal(fresh[0].weight, first.weight)
    assert torch.equal(fresh[1].weight, second.weight)
