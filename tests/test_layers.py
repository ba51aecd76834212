"""The watched layers are what `output_hidden_states=True` returns, in every family."""

import pytest
import torch
from models import CONFIGS, build, tokens
from torch import nn

from decondense.errors import UserError
from decondense.layers import body, count_layers, find_blocks, watch


@pytest.mark.parametrize("head", [True, False], ids=["head", "body"])
@pytest.mark.parametrize("name", CONFIGS)
def test_watched_layers_are_the_hidden_states(name, head):
    model = build(name, head)
    seen = []
    with torch.no_grad():
        with watch(model, lambda index, hidden: seen.append((index, hidden))):
            model(tokens())
        expected = model(tokens(), output_hidden_states=True).hidden_states
    assert count_layers(model) == len(expected)
    assert [index for index, _ in seen] == list(range(len(expected)))
    assert all(torch.equal(hidden, expected[index]) for index, hidden in seen)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_body_gives_the_last_hidden_state(name):
    model = build(name)
    with torch.no_grad():
        last = body(model)(tokens())[0]
        assert torch.equal(last, model(tokens(), output_hidden_states=True).hidden_states[-1])


def test_only_the_wanted_layers_are_shown_and_nothing_stays():
    model = build("llama")
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    seen = []
    with watch(model, lambda index, hidden: seen.append(index), layers=[0, 2]), torch.no_grad():
        model(tokens())
        model(tokens())
    assert seen == [0, 2, 0, 2]
    assert hooks == [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]


class Plain(nn.Module):
    """A model that is no transformers model: blocks in a list, a norm behind them, a head."""

    def __init__(self, norm=True):
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.blocks = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])
        self.norm = nn.LayerNorm(8) if norm else nn.Identity()
        self.head = nn.Linear(8, 50)

    def forward(self, ids):
        hidden = self.embed(ids)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.norm(hidden))


@pytest.mark.parametrize("norm", [True, False])
def test_a_model_outside_transformers(norm):
    model = Plain(norm)
    assert find_blocks(model) == list(model.blocks)
    seen = {}
    with watch(model, seen.__setitem__), torch.no_grad():
        model(tokens())
    expected = [model.embed(tokens())]
    for block in model.blocks:
        expected.append(block(expected[-1]))
    expected[-1] = model.norm(expected[-1])
    assert list(seen) == [0, 1, 2, 3]
    assert all(torch.equal(seen[index], hidden) for index, hidden in enumerate(expected))


def test_a_model_without_blocks_is_refused():
    with pytest.raises(UserError, match="Linear: found no list of blocks"):
        watch(nn.Linear(2, 2), lambda index, hidden: None)
