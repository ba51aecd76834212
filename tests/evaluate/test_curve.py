"""The curve of a model: what it loses at each setting, and that the spread is that of what is multiplied."""

import math
import sys

import pytest
import torch
import transformers
from models import CONFIGS

from decondense.evaluate.curve import compute_curve, find_spread, settings
from decondense.evaluate.held_out_windows import HeldOutWindows
from decondense.evaluate.matrices import choose_matrices
from decondense.evaluate.quantization import Rounding
from decondense.evaluate.spread import spread_of
from decondense.evaluate.window_loss import evaluate_windows, window_loss


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(CONFIGS["gpt2"]()).eval()


@pytest.fixture(scope="module")
def text() -> HeldOutWindows:
    windows = torch.randint(50, (5, 20), generator=torch.Generator().manual_seed(0))
    return HeldOutWindows("random", windows, 2.5, "0" * 16)


def test_settings_are_the_schemes_at_all_bits() -> None:
    found = [(one.scheme, one.bits) for one in settings(["channel", "group-asymmetric"], [8, 3], 32)]
    assert found == [
        ("stored", 0),
        ("channel", 8),
        ("channel", 3),
        ("group32-asymmetric", 8),
        ("group32-asymmetric", 3),
    ]
    both = settings(["activations", "torchao"], [2], 64)[1:]
    assert [one.scheme for one in both] == ["activations", "channel+activations", "torchao-int8", "torchao-int4"]
    assert [one.activation_bits for one in both] == [8, 8, 0, 0]
    assert both[0].rounding is None and both[1].rounding == Rounding(8)


def test_the_stored_row_is_the_model_itself(model, text: HeldOutWindows) -> None:
    chosen = choose_matrices(model)
    rows, unavailable = compute_curve(model, chosen, text, settings(["channel", "activations"], [8, 2], 0), 2)
    expected = evaluate_windows(model, text.windows, "mean_cosine", "x", 2)
    assert unavailable == []
    assert [(row["scheme"], row["bits"]) for row in rows] == [
        ("stored", 32),
        ("channel", 8),
        ("channel", 2),
        ("activations", 32),
        ("channel+activations", 8),
    ]
    assert rows[0]["perplexity"] == pytest.approx(expected.perplexity, rel=1e-12)
    assert rows[0]["bits_per_byte"] == pytest.approx(expected.loss / math.log(2) / 2.5, rel=1e-12)
    assert rows[0]["bytes"] == rows[3]["bytes"] == chosen.total_bytes > rows[1]["bytes"] > rows[2]["bytes"]
    lost = [abs(row["bits_per_byte"] - rows[0]["bits_per_byte"]) for row in rows]
    assert 0 < lost[1] < lost[2] and lost[3] > 0


def test_a_model_without_a_number_has_none_in_its_row(text: HeldOutWindows) -> None:
    torch.manual_seed(0)
    broken = transformers.GPT2LMHeadModel(CONFIGS["gpt2"]()).eval()
    with torch.no_grad():
        broken.transformer.ln_f.weight.fill_(float("nan"))
    [row], _ = compute_curve(broken, choose_matrices(broken), text, settings([], [8], 0))
    assert row["perplexity"] is None and row["bits_per_byte"] is None


def test_a_kernel_that_is_not_there_is_told_and_nothing_fails(model, text, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    rows, unavailable = compute_curve(model, choose_matrices(model), text, settings(["torchao"], [8], 64))
    assert [row["scheme"] for row in rows] == ["stored"]
    assert [one["scheme"] for one in unavailable] == ["torchao-int8", "torchao-int4"]
    assert "torchao" in unavailable[0]["reason"]


def test_spread_is_that_of_the_weights_and_of_what_they_are_multiplied_with(model, text: HeldOutWindows) -> None:
    found = find_spread(model, choose_matrices(model), text, 2)
    weights = [spread_of(block.attn.c_attn.weight.detach().T)["kurtosis"] for block in model.transformer.h]
    assert found["weights"]["attn.c_attn"]["kurtosis"] == pytest.approx(sum(weights) / 3)
    seen: list[torch.Tensor] = []
    handles = [
        block.mlp.c_proj.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
        for block in model.transformer.h
    ]
    with torch.no_grad():
        hidden = model(text.windows, output_hidden_states=True).hidden_states
    for handle in handles:
        handle.remove()
    assert set(found["inputs"]) == {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj", "all"}
    assert len(found["hidden_states"]) == 4
    for layer, values in zip(found["hidden_states"], hidden, strict=True):
        assert layer == pytest.approx(spread_of(values), rel=1e-6)
    own = [spread_of(values)["kurtosis"] for values in seen]
    assert found["inputs"]["mlp.c_proj"]["kurtosis"] == pytest.approx(sum(own) / 3, rel=1e-6)


def test_nothing_of_the_model_is_changed(model, text: HeldOutWindows) -> None:
    before = window_loss(model, text.windows)
    chosen = choose_matrices(model)
    compute_curve(model, chosen, text, settings(["group", "activations"], [3], 8))
    find_spread(model, chosen, text)
    assert window_loss(model, text.windows) == before
