"""Models from scratch by name, and from weights; what cannot be made is one line."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
import transformers
from models import CONFIGS
from saved import save_tiny_model

from decondense import UserError
from decondense.texts import tokenizer as tokenizers
from decondense.train import build

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture(scope="module")
def words():
    return tokenizers.train(["to be or not to be"] * 9, 280)


def make(name, words, seed=0, context=16, **overrides):
    return build.from_scratch(name, build.configure(name, overrides, context, words), seed)


def test_the_default_is_the_demo_s_model(words):
    model = make("tiny", words, context=24)
    config = model.config
    assert (config.n_layer, config.n_embd, config.n_head, config.n_positions) == (6, 128, 4, 24)
    assert config.vocab_size == len(words)
    assert config.eos_token_id == words.eos_token_id
    assert {config.resid_pdrop, config.embd_pdrop, config.attn_pdrop} == {0.0}
    assert make("tiny", words, n_inner=64).transformer.h[0].mlp.c_fc.weight.shape == (128, 64)


def test_model_types_and_folders(words, tmp_path):
    assert make("llama", words, **SMALL).config.num_key_value_heads == 2  # follows the heads
    assert type(make("gpt2", words, n_layer=1, n_embd=32, n_head=2)).__name__ == "GPT2LMHeadModel"
    CONFIGS["qwen3"]().save_pretrained(tmp_path)
    model = make(str(tmp_path), words, num_hidden_layers=1)
    assert (model.config.model_type, model.config.num_hidden_layers) == ("qwen3", 1)
    assert len(model.get_input_embeddings().weight) == len(words)


def test_a_seed_is_the_same_weights(words):
    one, same, other = (make("tiny", words, seed=seed, n_layer=1) for seed in (3, 3, 4))
    assert torch.equal(one.lm_head.weight, same.lm_head.weight)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("tinny", {}, "--model 'tinny': did you mean 'tiny'"),
        ("tiny", {"n_layr": 2}, "--override n_layr: a gpt2 has no such entry; did you mean n_layer"),
        ("tiny", {"n_embd": 30}, "--model tiny: cannot be made .*divisible"),
        ("llama", {"hidden_size": "wide"}, "--model llama: cannot be made"),
        ("gpt2", {"n_positions": 8}, "has 8 positions, fewer than --context 16"),
    ],
)
def test_what_cannot_be_made_is_one_line(name, overrides, message, words):
    with pytest.raises(UserError, match=message) as caught:
        make(name, words, **overrides)
    assert "\n" not in str(caught.value)


def test_overrides_are_name_and_value():
    assert build.parse_overrides(["a=1", "b=0.5", "c=null", "d=x=y", "e=true"]) == {
        "a": 1, "b": 0.5, "c": None, "d": "x=y", "e": True,
    }  # fmt: skip
    for wrong in ("n_layer", "=2", "n-layer=2"):
        with pytest.raises(UserError, match="NAME=VALUE is expected"):
            build.parse_overrides([wrong])


def test_going_on_from_a_model(tmp_path):
    folder = save_tiny_model(tmp_path / "tiny")
    model, tokenizer = build.from_weights(str(folder), context=32)
    stored = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(model.lm_head.weight, stored.lm_head.weight)
    assert tokenizer.eos_token_id == 0
    with pytest.raises(UserError, match="has 64 positions, fewer than --context 65"):
        build.from_weights(str(folder), context=65)
    config = CONFIGS["bert"]()
    config.vocab_size = 300
    for file in ("config.json", "generation_config.json"):
        (folder / file).unlink(missing_ok=True)
    transformers.BertModel(config).save_pretrained(folder)
    with pytest.raises(UserError, match="BertModel, and a causal language model is expected"):
        build.from_weights(str(folder), context=16)


@pytest.mark.parametrize("name", ["tiny", "llama"])
def test_adapters_alone_are_trained(name, words):
    model = build.adapt(make(name, words, **({"n_layer": 1} if name == "tiny" else SMALL)))
    trained = [key for key, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in key for key in trained)
    kinds = {key.split(".lora_")[0].rpartition(".")[2] for key in trained}
    assert {"c_attn", "c_proj", "c_fc"} == kinds if name == "tiny" else {"q_proj", "down_proj"} <= kinds
    [config] = model.peft_config.values()
    assert (config.r, config.lora_alpha, config.lora_dropout) == (16, 32, 0.05)


def test_a_tokenizer_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match="--tokenizer nobody/nothing: cannot be loaded"):
        build.load_tokenizer("nobody/nothing")
    with pytest.raises(UserError, match="cannot be loaded"):
        build.load_tokenizer(str(tmp_path))


@pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed")
def test_what_torchao_logs_when_it_is_imported_is_not_told():
    program = (
        "import sys, transformers; from decondense.train.build import from_scratch\n"
        "config = transformers.GPT2Config(vocab_size=10, n_embd=8, n_head=1, n_layer=1, bos_token_id=0, eos_token_id=0)\n"
        "from_scratch('tiny', config, 0); print('torchao' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert (ran.stdout, ran.stderr) == ("True\n", "")
