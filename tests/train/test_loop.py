"""The training loop: schedule, observations, and that a stopped run ends with the same weights."""

import pytest
import torch
from models import build, tokens

from decondense import DispersionLoss, Partition, attach
from decondense.train.loop import Schedule, train


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


def test_a_broken_loss_stops_the_training(tmp_path):
    model = build("gpt2")
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="the loss is nan at step 0"):
        train(model, lambda step: tokens(), Schedule(3), tmp_path / "state.pt", observe=lambda step: None)
