"""Which matrices of a model are quantised, what it takes on disk, and that the model is as it was afterwards."""

import warnings
from pathlib import Path

import pytest
import torch
import transformers
from models import CONFIGS
from saved import save_tiny_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from decondense import models
from decondense.errors import UserError
from decondense.evaluate.kernels import _as_linears
from decondense.evaluate.matrices import choose_matrices, rounded, shown
from decondense.evaluate.quantization import Rounding, dequantise, quantise, round_tokens

IDS = torch.arange(24).view(2, 12)


def make(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(CONFIGS[kind]()).eval()


@pytest.fixture
def gpt2() -> nn.Module:
    return make("gpt2")


def test_the_matrices_of_gpt2_are_its_conv1d(gpt2: nn.Module) -> None:
    chosen = choose_matrices(gpt2)
    assert {matrix.kind for matrix in chosen.matrices} == {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}
    assert len(chosen.matrices) == 3 * 4
    assert all(matrix.transposed for matrix in chosen.matrices)
    assert chosen.matrices[0].rows.shape == (96, 32)  # outputs, inputs: the module keeps [32, 96]
    assert chosen.share == pytest.approx(3 * 12 * 32 * 32 / sum(p.numel() for p in gpt2.parameters()), rel=0.2)
    assert "tied weights" in chosen.notes[0] and "left as it is" in chosen.notes[0]


def test_tied_embeddings_are_one_matrix_and_either_option_names_both(gpt2: nn.Module) -> None:
    without = choose_matrices(gpt2).matrices
    for options in ({"head": True}, {"embeddings": True}, {"head": True, "embeddings": True}):
        chosen = choose_matrices(gpt2, **options)
        tables = {matrix.name for matrix in chosen.matrices} - {matrix.name for matrix in without}
        assert "transformer.wte" in tables and "lm_head" not in tables
        assert ("transformer.wpe" in tables) == options.get("embeddings", False)
        assert "both are quantised" in chosen.notes[0]


def test_untied_embeddings_are_chosen_one_by_one() -> None:
    model = make("gpt-neox")
    plain = {matrix.name for matrix in choose_matrices(model).matrices}
    head = next(name for name, module in model.named_modules() if module is model.get_output_embeddings())
    assert {matrix.name for matrix in choose_matrices(model, head=True).matrices} - plain == {head}
    assert {matrix.name for matrix in choose_matrices(model, embeddings=True).matrices} - plain == {"gpt_neox.embed_in"}
    assert choose_matrices(model).notes == []


def test_conv1d_gives_what_the_transposed_linear_gives() -> None:
    torch.manual_seed(1)
    conv = Conv1D(12, 40)
    linear = nn.Linear(40, 12)
    with torch.no_grad():
        linear.weight.copy_(conv.weight.T)
        linear.bias.copy_(conv.bias)
    outputs = []
    for module in (conv, linear):
        model = nn.ModuleDict({"one": module})
        model.get_output_embeddings = model.get_input_embeddings = lambda: None
        chosen = choose_matrices(model)
        with rounded(chosen.matrices, Rounding(3, 16, symmetric=False), activation_bits=8):
            outputs.append(module(torch.arange(80.0).view(2, 40).sin()))
    assert torch.allclose(outputs[0], outputs[1], atol=1e-6)  # the two add in another order


@pytest.mark.parametrize("kind", ["gpt2", "llama", "opt"])
def test_a_rounded_model_computes_with_its_rounded_weights_and_is_itself_again(kind: str) -> None:
    model = make(kind)
    chosen = choose_matrices(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        own = model(IDS).logits
        with rounded(chosen.matrices, Rounding(4, 16)):
            for matrix in chosen.matrices:
                stored = before[f"{matrix.name}.weight"]
                rows = stored.T if matrix.transposed else stored
                assert torch.equal(matrix.rows, dequantise(quantise(rows, Rounding(4, 16))))
            inside = model(IDS).logits
        assert not torch.allclose(inside, own, atol=1e-4)
        assert torch.equal(model(IDS).logits, own)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_weights_come_back_where_the_block_fails(gpt2: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in gpt2.state_dict().items()}
    chosen = choose_matrices(gpt2)
    with torch.no_grad():
        chosen.matrices[5].rows[0, 0] = float("nan")
    with (
        pytest.raises(UserError, match=f"{chosen.matrices[5].name}: weights are NaN"),
        rounded(chosen.matrices, Rounding(4)),
    ):
        pass
    left = [name for name, tensor in gpt2.state_dict().items() if not torch.equal(tensor, before[name])]
    assert left == [f"{chosen.matrices[5].name}.weight"]


def test_activations_are_rounded_before_each_product(gpt2: nn.Module) -> None:
    chosen = choose_matrices(gpt2)
    seen = []
    with (
        torch.no_grad(),
        rounded(chosen.matrices, None, activation_bits=8),
        shown(chosen.matrices, lambda matrix, values: seen.append(values)),
    ):
        gpt2(IDS)
    assert len(seen) == len(chosen.matrices)
    for values in seen:  # hooks run in their order: these see what was rounded
        assert torch.allclose(round_tokens(values), values, rtol=1e-5, atol=1e-7)
        assert len(values[0, 0].unique()) <= 255
    assert not any(module._forward_pre_hooks for module in gpt2.modules())


def test_bytes_are_those_of_a_checkpoint(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "tiny")
    model, _ = models.load(str(folder))
    content = (folder / "model.safetensors").read_bytes()
    tensors = len(content) - 8 - int.from_bytes(content[:8], "little")
    chosen = choose_matrices(model)
    assert chosen.bytes_on_disk(None) == tensors
    rounding = Rounding(3, 8, symmetric=False)
    packed = [quantise(matrix.rows, rounding).packed() for matrix in chosen.matrices]
    kept = tensors - sum(4 * matrix.rows.numel() for matrix in chosen.matrices)
    expected = kept + sum(part.numel() * part.element_size() for parts in packed for part in parts.values())
    assert chosen.bytes_on_disk(rounding) == expected


def test_bytes_of_a_half_precision_checkpoint_do_not_change_with_what_it_is_computed_in(gpt2: nn.Module) -> None:
    chosen = choose_matrices(gpt2.half())
    half = chosen.bytes_on_disk(None), chosen.bytes_on_disk(Rounding(4))
    gpt2.float()
    assert (chosen.bytes_on_disk(None), chosen.bytes_on_disk(Rounding(4))) == half
    assert choose_matrices(gpt2).bytes_on_disk(None) == pytest.approx(2 * half[0], rel=0.05)


def test_the_linear_of_a_conv1d_equals_it(gpt2: nn.Module) -> None:
    with torch.no_grad():
        before = gpt2(IDS).logits
        linears = _as_linears(gpt2, choose_matrices(gpt2).matrices)
        assert len(linears) == 12 and not any(isinstance(module, Conv1D) for module in gpt2.modules())
        assert torch.allclose(gpt2(IDS).logits, before, atol=1e-5)


def test_torchao_int8_is_near_to_the_model_and_leaves_it_alone(gpt2: nn.Module) -> None:
    pytest.importorskip("torchao")
    from decondense.evaluate.kernels import quantise_by_torchao

    chosen = choose_matrices(gpt2)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchao's own
        before = gpt2(IDS).logits
        kernel = quantise_by_torchao(gpt2, chosen, 8, 0)
        found = kernel.model(IDS).logits
    assert kernel.left == []
    assert 1e-7 < float((found - before).abs().max()) < 0.02
    assert torch.equal(gpt2(IDS).logits, before)
    codes = sum(matrix.rows.numel() for matrix in chosen.matrices)
    kept = chosen.total_bytes - 4 * codes
    assert kept + codes < kernel.bytes_on_disk < kept + 1.4 * codes  # scales of 32 bits on narrow rows


def test_a_model_without_matrices_is_an_error() -> None:
    model = nn.ModuleDict({"table": nn.Embedding(4, 4), "norm": nn.LayerNorm(4)})
    model.get_output_embeddings = model.get_input_embeddings = lambda: None
    with pytest.raises(UserError, match="ModuleDict has no matrices to quantise"):
        choose_matrices(model)
    assert len(choose_matrices(model, embeddings=True).matrices) == 1
