"""Noise and forgetting are what their papers define."""

import itertools
import math

import pytest
import torch
from models import build, tokens

from decondense import UserError
from decondense.train.baselines import ActiveForgetting, NoisyEmbedding
from decondense.train.loop import Schedule, make_optimizer, train
from decondense.train.update import Update


def embedded(model, ids):
    """What the first block reads, and the token embeddings alone."""
    seen = []
    with model.get_input_embeddings().register_forward_hook(lambda module, args, output: seen.append(output)):
        model(input_ids=ids)
    return seen[0].detach(), model.get_input_embeddings().weight[ids].detach()


def test_noise_is_uniform_of_the_height_that_neftune_defines():
    model, ids = build("llama").train(), tokens(batch=64, length=32)
    torch.manual_seed(0)
    with NoisyEmbedding(model, alpha=5.0):
        noisy, clean = embedded(model, ids)
    noise = noisy - clean
    height = 5.0 / math.sqrt(32 * clean.shape[-1])  # length and features; the batch does not count
    # Rounding of the sum is 1e-7 of the embeddings.
    assert height * 0.999 < noise.abs().max() <= height + 1e-6
    assert abs(noise.mean()) < 4 * height / math.sqrt(3 * noise.numel())
    # A uniform distribution has variance height^2 / 3 and kurtosis 9/5.
    assert float(noise.var()) == pytest.approx(height**2 / 3, rel=0.02)
    assert float((noise**4).mean() / noise.var() ** 2) == pytest.approx(1.8, rel=0.02)


def test_noise_is_added_while_training_only():
    model, ids = build("gpt2"), tokens()
    with NoisyEmbedding(model, alpha=5.0):
        noisy, clean = embedded(model.eval(), ids)
        assert torch.equal(noisy, clean)
        with torch.no_grad():
            noisy, clean = embedded(model.train(), ids)
        assert torch.equal(noisy, clean)
        noisy, clean = embedded(model, ids)
        assert not torch.equal(noisy, clean)
    noisy, clean = embedded(model, ids)
    assert torch.equal(noisy, clean)
    with pytest.raises(UserError, match="noisy embedding 0.0: a number above 0"):
        NoisyEmbedding(model, 0.0)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_every_so_many_updates_embeddings_are_drawn_anew_and_their_adam_state_is_cleared(name, tmp_path):
    model = build(name)
    schedule = Schedule(steps=10, learning_rate=1e-3)
    forgetting = ActiveForgetting(model, every=4, steps=10, learning_rate=0.5, seed=7)
    weight = model.get_input_embeddings().weight
    assert forgetting.tied == (name == "gpt2")
    seen = []

    class Watched:
        parameters = forgetting.parameters

        def before_update(self, step, optimizer):
            body = next(parameter for parameter in model.parameters() if parameter is not weight)
            before, others = weight.clone(), body.clone()
            moments = optimizer.state.get(body, {}).get("exp_avg")
            kept = None if moments is None else moments.clone()
            forgetting.before_update(step, optimizer)
            assert torch.equal(body, others)
            assert kept is None or torch.equal(optimizer.state[body]["exp_avg"], kept)
            rates = {group["lr"] for group in optimizer.param_groups if group["params"][0] is not weight}
            assert rates == {schedule.learning_rate_at(step)}
            [own] = [group for group in optimizer.param_groups if group["params"][0] is weight]
            assert len(own["params"]) == 1
            assert own["lr"] == forgetting.learning_rate_at(step)
            seen.append((step, not torch.equal(weight, before), weight in optimizer.state, weight.detach().clone()))

    train(
        model, lambda step: tokens(seed=step), schedule, tmp_path / "state.pt", lambda step: None,
        update=Update(), intervention=Watched(),
    )  # fmt: skip
    assert [step for step, drawn, _, _ in seen if drawn] == [4, 8]
    assert [step for step, _, has_state, _ in seen if not has_state] == [0, 4, 8]
    drawn = seen[4][3]
    padding = model.get_input_embeddings().padding_idx
    if padding is not None:
        assert not drawn[padding].any()
        drawn = torch.cat([drawn[:padding], drawn[padding + 1 :]])
    # 49 * 32 draws: the mean is known to 0.02 / 40, the deviation to 2 %.
    assert abs(float(drawn.mean())) < 4 * 0.02 / math.sqrt(drawn.numel())
    assert float(drawn.std()) == pytest.approx(0.02, rel=0.08)
    assert not torch.equal(seen[4][3], seen[8][3])


def test_the_learning_rate_of_embeddings_begins_again_with_each_period():
    forgetting = ActiveForgetting(build("gpt2"), every=100, steps=250, learning_rate=2.0, seed=0)
    rates = [forgetting.learning_rate_at(step) for step in range(250)]
    assert rates[:8] == pytest.approx([2.0 * (step + 1) / 8 for step in range(8)])  # 8 % of the period
    assert rates[:100] == rates[100:200]
    assert max(rates) == 2.0
    falls = [earlier - later for earlier, later in itertools.pairwise(rates[8:100])]
    assert falls == pytest.approx([falls[0]] * len(falls))
    assert 0 < rates[99] < 0.03
    # The last period ends with the training.
    assert rates[200:204] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert 0 < rates[249] < 0.05


def test_what_cannot_be_forgotten_is_told():
    model = build("gpt2")
    with pytest.raises(UserError, match="at least 1"):
        ActiveForgetting(model, 0, 10, 1.0, 0)
    model.requires_grad_(False)
    with pytest.raises(UserError, match="these are not trained"):
        ActiveForgetting(model, 5, 10, 1.0, 0)


def test_only_what_is_trained_is_in_the_optimizer_and_vectors_do_not_decay():
    model = build("gpt2")
    model.transformer.h[0].requires_grad_(False)
    groups = make_optimizer(model, Schedule(1, weight_decay=0.3)).param_groups
    assert {group["weight_decay"]: {one.ndim for one in group["params"]} for group in groups} == {0.3: {2}, 0.0: {1}}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert sum(len(group["params"]) for group in groups) == len(trained)
