"""The monitor sees the mean cosines of the training batch, at the steps it says, changes nothing, warns of a collapse and draws it."""

import math
import warnings

import pytest
import torch
from models import build, tokens
from PIL import Image
from torch import nn

from decondense import DispersionLoss, UserError, attach
from decondense.train import monitor as room
from decondense.train.build import checkpoint_activations
from decondense.train.monitor import CollapseWarning, Monitor, Observation


def measured(hidden_states, mask=None):
    """The mean cosine of different tokens of each layer, by its definition: of the real tokens of each row, then averaged over rows."""
    means = []
    for hidden in hidden_states:
        rows = []
        for number, row in enumerate(hidden.detach().double()):
            real = nn.functional.normalize(row if mask is None else row[mask[number]], dim=-1)
            cosines = real @ real.T
            rows.append(float(cosines[~torch.eye(len(real), dtype=torch.bool)].mean()))
        means.append(sum(rows) / len(rows))
    return means


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "bert"])
def test_it_sees_the_mean_cosine_of_each_layer(name):
    model, ids = build(name).train(), tokens(3, 12)
    with Monitor(model) as monitor:
        hidden = model(ids, output_hidden_states=True).hidden_states
    [seen] = monitor.history
    assert seen.step == 0
    assert seen.mean_cosine == pytest.approx(measured(hidden), abs=1e-5)
    assert seen.average() == pytest.approx(sum(seen.mean_cosine[1:]) / 3)
    assert seen.average([0, 2]) == pytest.approx((seen.mean_cosine[0] + seen.mean_cosine[2]) / 2)


def test_padding_and_documents_are_told_apart():
    model, ids = build("gpt2").train(), tokens(2, 12)
    mask = torch.arange(12)[None] < torch.tensor([7, 12])[:, None]
    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6]])
    with Monitor(model, every=1) as monitor:
        hidden = model(ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states
        packed = model(ids[:1], position_ids=positions, output_hidden_states=True).hidden_states
        monitor.documents = torch.arange(2)[:, None].repeat_interleave(12, dim=1) + torch.tensor([0] * 5 + [5] * 7)
        model(ids)
    padded, packs, given = monitor.history
    assert padded.mean_cosine == pytest.approx(measured(hidden, mask), abs=1e-5)
    parts = [measured([layer[:, :5] for layer in packed]), measured([layer[:, 5:] for layer in packed])]
    assert packs.mean_cosine == pytest.approx([sum(pair) / 2 for pair in zip(*parts, strict=True)], abs=1e-5)
    assert not math.isnan(given.average())


def test_it_observes_the_training_every_so_many_passes_and_nothing_else():
    model, ids = build("gpt2"), tokens()
    with Monitor(model, every=3) as monitor:
        for _ in range(7):
            model.train()(ids)
            with torch.no_grad():
                model(ids)
            model.eval()(ids)
    assert [seen.step for seen in monitor.history] == [0, 3, 6]
    model.train()(ids)
    assert len(monitor.history) == 3  # it was removed


def test_a_loop_says_where_a_step_begins_and_its_first_pass_is_observed():
    model = build("gpt2").train()
    with Monitor(model, every=10) as monitor:
        for step in range(1, 21):
            monitor.begin_step(step)
            for part in range(2):
                model(tokens(seed=2 * step + part))
    # The first step that is seen at all is observed too, so that there is something to compare with.
    assert [seen.step for seen in monitor.history] == [1, 10, 20]
    with Monitor(model) as fresh:
        model(tokens(seed=2))
    assert monitor.history[0].mean_cosine == fresh.history[0].mean_cosine


def test_it_changes_no_bit_of_the_training():
    def train(watched, weight):
        model = build("gpt2")
        with attach(model.train(), DispersionLoss(), weight=weight):
            monitor = Monitor(model, every=1) if watched else None
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for step in range(3):
                ids = tokens(seed=step)
                model(ids, labels=ids).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            assert monitor is None or len(monitor.history) == 3
        return torch.cat([parameter.flatten() for parameter in model.parameters()])

    for weight in (0.0, 1.0):
        assert torch.equal(train(True, weight), train(False, weight))


def test_recomputed_blocks_are_observed_once():
    model, ids = build("gpt2").train(), tokens()
    with Monitor(model, every=1) as monitor:
        model(ids, labels=ids).loss.backward()
        checkpoint_activations(model)
        model(ids, labels=ids).loss.backward()
    plain, recomputed = monitor.history
    assert recomputed.mean_cosine == pytest.approx(plain.mean_cosine, abs=1e-6)


def test_a_layer_that_is_no_number_is_nan_and_the_others_are_seen():
    model = build("gpt2").train()
    model.transformer.h[1].mlp.c_proj.bias.data.fill_(math.nan)
    with Monitor(model) as monitor:
        model(tokens())
    seen = monitor.history[0].mean_cosine
    assert [math.isnan(value) for value in seen] == [False, False, True, True]


# --- warnings -----------------------------------------------------------------------------------------------------------------------


def observe(monitor, *values, start=0):
    """Give the monitor one mean cosine a step, the same for all layers, as if it had seen them; returns the steps that it warned at."""
    warned = []
    for step, value in enumerate(values, start):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            monitor._keep(Observation(step, (0.0, value, value)))
            monitor._warn()
        warned += [step] * len(caught)
        assert all(issubclass(one.category, CollapseWarning) for one in caught)
    return warned


@pytest.fixture
def two_layers():
    config = build("gpt2").config
    config.n_layer = 2
    return type(build("gpt2"))(config)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.1, 0.95, 0.95, 0.95, 0.95], [3]),  # above the threshold three times in a row, told once
        ([0.1, 0.95, 0.95, 0.1, 0.95, 0.95, 0.1], []),  # a cone that it leaves again
        ([0.1, 0.65, 0.65, 0.65], [3]),  # risen by more than half
        ([0.3, 0.7, 0.7, 0.7, 0.7], []),
        ([0.95, 0.96, 0.97, 0.98, 0.99], []),  # it began there, as the last layers of a trained GPT-2 do
        ([0.95, 0.2, 0.8, 0.8, 0.8], [4]),  # and came back
        ([0.1, math.nan, 0.95, 0.95, 0.95], [4]),
    ],
)
def test_a_collapse_is_told_once_and_a_passing_cone_is_not(values, expected, two_layers):
    with Monitor(two_layers) as monitor:
        assert observe(monitor, *values) == expected


def test_the_warning_names_step_layers_and_numbers(two_layers):
    ids = tokens(2, 12)
    two_layers.train().transformer.wpe.weight.data.zero_()
    with Monitor(two_layers, every=1, patience=1):
        two_layers(ids)
        # One direction for all tokens from the first block on.
        two_layers.transformer.h[0].mlp.c_proj.bias.data.fill_(50.0)
        told = r"step 1: the hidden states of layers 1, 2 condense: the mean cosine of layer \d is (1.00|0.99), and was -?0\.\d\d; attach"
        # The common direction is the mean, which the last layer norm takes out: what it leaves is told of layer 1 alone.
        with pytest.warns(CollapseWarning, match=told.replace("layers 1, 2", "layers? 1(, 2)?")):
            two_layers(ids)


def test_a_state_goes_on_with_history_warnings_and_steps(two_layers):
    values = [0.1, 0.95, 0.95, 0.95, 0.95]
    with Monitor(two_layers) as whole, Monitor(two_layers) as first:
        observe(whole, *values)
        observe(first, *values[:2])
        state = first.state_dict()
    with Monitor(two_layers) as second:
        second.load_state_dict(state)
        assert observe(second, *values[2:], start=2) == [3]
        assert second.history == whole.history
    with Monitor(two_layers) as third:
        third.load_state_dict(whole.state_dict())
        assert observe(third, 0.95, start=5) == []  # it was told already
    with Monitor(build("gpt2")) as other, pytest.raises(UserError, match="a model with 3 layers, and this one has 4"):
        other.load_state_dict(state)


def test_steps_go_on_from_the_state():
    model = build("gpt2").train()
    with Monitor(model, every=3) as first:
        for _ in range(5):
            model(tokens())
        state = first.state_dict()
    with Monitor(model, every=3) as second:
        second.load_state_dict(state)
        for _ in range(5):
            model(tokens())
    assert [seen.step for seen in second.history] == [0, 3, 6, 9]


# --- picture ------------------------------------------------------------------------------------------------------------------------


def test_the_heatmap_has_a_cell_for_each_layer_and_observation(two_layers, tmp_path):
    with Monitor(two_layers) as monitor:
        observe(monitor, 0.1, 0.5, 0.8)
    [image] = monitor.draw().axes[0].collections
    assert image.get_array().tolist() == [[0, 0, 0], [0.1, 0.5, 0.8], [0.1, 0.5, 0.8]]
    assert image.get_clim() == (0, 1)
    monitor.figure(tmp_path / "cosine.png")
    with Image.open(tmp_path / "cosine.png") as picture:
        assert picture.size[0] > 500
    assert [path.name for path in tmp_path.iterdir()] == ["cosine.png"]


def test_what_cannot_be_drawn_is_told(two_layers, tmp_path):
    with Monitor(two_layers) as monitor:
        with pytest.raises(UserError, match="nothing to draw"):
            monitor.draw()
        with pytest.raises(UserError, match="suffix '.gif' is not known"):
            monitor.figure(tmp_path / "cosine.gif")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every=0: must be at least 1"),
        ({"patience": 0}, "patience=0"),
        ({"threshold": 0.0}, "threshold=0.0"),
        ({"rise": math.nan}, "rise=nan"),
    ],
)
def test_numbers_out_of_range_are_told(options, message):
    with pytest.raises(UserError, match=message):
        Monitor(build("gpt2"), **options)


def test_ranks_are_averaged_together(monkeypatch):
    model, ids = build("gpt2").train(), tokens(2, 12)
    with Monitor(model) as alone:
        model(ids)
    # Another rank with the same sequences and one layer's sums twice as high.
    monkeypatch.setattr(room, "world", lambda: 2)
    monkeypatch.setattr(room.dist, "all_reduce", lambda sums: sums.mul_(torch.tensor([3.0, 2.0])))
    with Monitor(model) as both:
        model(ids)
    assert both.history[0].mean_cosine == pytest.approx([min(1.5 * value, 1) for value in alone.history[0].mean_cosine])
