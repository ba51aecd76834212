"""What is true of measuring: it gives what the definition gives for each text, and it leaves the model as it was."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from decondense.condensation import Condensation
from decondense.errors import UserError
from decondense.geometry import METRICS
from decondense.measure import count_positions, measure
from decondense.passes import PADDING_SHARE
from decondense.tokens import plan_batches

WORDS = [f"w{number}" for number in range(90)]
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def gpt2() -> transformers.PreTrainedModel:
    config = transformers.GPT2Config(vocab_size=100, n_positions=64, n_embd=24, n_layer=3, n_head=2, **SPECIAL)
    return transformers.GPT2LMHeadModel(config)


def llama() -> transformers.PreTrainedModel:
    config = transformers.LlamaConfig(
        vocab_size=100,
        max_position_embeddings=64,
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        **SPECIAL,
    )
    return transformers.LlamaForCausalLM(config)


def bert() -> transformers.PreTrainedModel:
    config = transformers.BertConfig(
        vocab_size=100,
        max_position_embeddings=64,
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        **SPECIAL,
    )
    return transformers.BertForMaskedLM(config)


def build(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return make()


def word_level() -> tokenizers.Tokenizer:
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<s>", "</s>", *WORDS])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="</s>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Words to ids; it has no padding token, as GPT-2's and Llama's have none."""
    return transformers.PreTrainedTokenizerFast(tokenizer_object=word_level())


def texts_of(*lengths: int, seed: int = 0) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, length)) for length in lengths]


MIXED = texts_of(9, 30, 2, 17, 30, 5, 29, 64)


def by_definition(model: nn.Module, tokenizer: Callable, texts: list[str], limit: int) -> list[list[np.ndarray]]:
    """The cosine matrix of each text and layer: each text alone, all hidden states kept, every pair formed."""
    matrices = []
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"][:limit]])
        with torch.no_grad():
            layers = model.eval()(input_ids=ids, output_hidden_states=True).hidden_states
        units = [(hidden[0] / hidden[0].norm(dim=1, keepdim=True)).numpy() for hidden in layers]
        matrices.append([(unit @ unit.T).clip(-1, 1) for unit in units])
    return matrices


@pytest.mark.parametrize("make", [gpt2, llama, bert])
@pytest.mark.parametrize(("texts", "limit"), [(MIXED, 64), (MIXED[:2], 20), (texts_of(20, 30, 21), 20)])
def test_equals_the_definition(make: Callable, tokenizer: Callable, texts: list[str], limit: int) -> None:
    model = build(make).double()
    found = measure(model, tokenizer, texts, max_length=limit, batch_size=3, metrics="all")
    matrices = by_definition(model, tokenizer, texts, limit)
    # 1e-9: float64 throughout; padding changes the order of sums in attention.
    expected = [[matrix.mean() for matrix in text] for text in matrices]
    np.testing.assert_allclose(found.per_text, expected, atol=1e-9)
    np.testing.assert_allclose(found.mean_cosine, np.mean(expected, axis=0), atol=1e-9)
    ranks = [[1 / (matrix**2).mean() for matrix in text] for text in matrices]
    np.testing.assert_allclose(found.text_metrics["effective_rank"], ranks, rtol=1e-9)
    off_diagonal = [
        [(matrix.sum() - len(matrix)) / (matrix.size - len(matrix)) for matrix in text] for text in matrices
    ]
    np.testing.assert_allclose(found.per_text_off_diagonal, off_diagonal, atol=1e-9)
    counts = [[np.histogram(matrix, 128, (-1, 1))[0] for matrix in text] for text in matrices]
    np.testing.assert_array_equal(found.histogram, np.sum(counts, axis=0))
    assert found.tokens.tolist() == [len(text[0]) for text in matrices]
    if len(set(found.tokens)) == 1:
        means = np.mean(matrices, axis=0)
        np.testing.assert_array_equal(
            found.histogram_of_mean, [np.histogram(matrix, 128, (-1, 1))[0] for matrix in means]
        )
    else:
        assert found.histogram_of_mean is None


@pytest.mark.parametrize("make", [gpt2, llama, bert])
def test_batches_do_not_matter(make: Callable, tokenizer: Callable) -> None:
    model = build(make)
    alone = measure(model, tokenizer, MIXED, max_length=64, batch_size=1, metrics="all")
    for batch_size in (2, 3, 8, 100):
        found = measure(model, tokenizer, MIXED, max_length=64, batch_size=batch_size, metrics="all")
        np.testing.assert_array_equal(found.tokens, alone.tokens)
        np.testing.assert_allclose(found.per_text, alone.per_text, rtol=0, atol=1e-6)
        np.testing.assert_allclose(found.per_text_off_diagonal, alone.per_text_off_diagonal, rtol=0, atol=1e-6)
        np.testing.assert_allclose(
            found.text_metrics["effective_rank"], alone.text_metrics["effective_rank"], rtol=1e-5
        )  # float32, and a rank is up to the number of tokens
        assert found.histogram.sum() == alone.histogram.sum()


def test_merged_parts_are_the_whole(tokenizer: Callable) -> None:
    model = build(gpt2).double()
    whole = measure(model, tokenizer, MIXED, max_length=64)
    merged = measure(model, tokenizer, MIXED[:3], max_length=64).merge(
        measure(model, tokenizer, MIXED[3:], max_length=64)
    )
    np.testing.assert_allclose(merged.per_text, whole.per_text, atol=1e-9)
    np.testing.assert_array_equal(merged.histogram, whole.histogram)


@given(
    lengths=st.lists(st.integers(2, 600), min_size=1, max_size=60),
    batch_size=st.integers(1, 20),
    share=st.sampled_from([0.0, PADDING_SHARE]),
)
def test_every_text_is_in_one_batch_and_little_is_padding(lengths: list[int], batch_size: int, share: float) -> None:
    batches = plan_batches(lengths, batch_size, share)
    assert sorted(text for batch in batches for text in batch) == list(range(len(lengths)))
    for batch in batches:
        inside = [lengths[text] for text in batch]
        assert 1 <= len(batch) <= batch_size
        assert max(inside) * len(inside) - sum(inside) <= share * max(inside) * len(inside)
    if len(set(lengths)) == 1:
        assert len(batches) == -(-len(lengths) // batch_size)


def test_it_equals_the_authors_package(stories260K: Path, data: Path, golden: Path) -> None:
    """tests/golden/record_embedding_condensation.py says how the numbers came about and what the conventions are."""
    record = json.loads((golden / "embedding_condensation.json").read_text(encoding="utf-8"))
    texts = record["texts"]
    content = (data / texts["file"]).read_text(encoding="utf-8")
    slices = [content[texts["every"] * index :][: texts["characters"]] for index in range(texts["count"])]
    model = transformers.AutoModelForCausalLM.from_pretrained(stories260K)
    tokenizer = transformers.AutoTokenizer.from_pretrained(stories260K)
    found = measure(model, tokenizer, slices, max_length=texts["tokens"])
    assert set(found.tokens) == {texts["tokens"]}
    # 1e-5: both float32; theirs divides by max(length, 1e-3), which no token here is shorter than.
    np.testing.assert_allclose(found.mean_cosine, record["mean_cosine"], rtol=0, atol=1e-5)
    assert found.spearman == pytest.approx(record["spearman"], abs=1e-12)
    assert found.kendall == pytest.approx(record["kendall"], abs=1e-12)
    moved = np.abs(found.histogram_of_mean - np.array(record["histogram_of_mean"])).sum(axis=1)
    assert moved.max() <= 65_536 // 1_000  # of 256 x 256 entries, those that rounding moves over the edge of a bin


def test_any_tokenizer_will_do(tokenizer: Callable) -> None:
    class Plain:
        def encode(self, text: str) -> list[int]:
            return tokenizer(text)["input_ids"]

    model = build(gpt2)
    expected = measure(model, tokenizer, MIXED, max_length=20).per_text
    for other in (Plain(), word_level()):
        np.testing.assert_array_equal(measure(model, other, MIXED, max_length=20).per_text, expected)


def test_a_tokenizer_that_cuts_at_the_beginning_is_made_to_cut_at_the_end(tokenizer: Callable) -> None:
    model = build(gpt2)
    expected = measure(model, tokenizer, MIXED, max_length=8).per_text
    cutting = transformers.PreTrainedTokenizerFast(tokenizer_object=word_level(), truncation_side="left")
    np.testing.assert_array_equal(measure(model, cutting, MIXED, max_length=8).per_text, expected)
    assert cutting.truncation_side == "left"


def test_the_model_is_left_as_it_was(tokenizer: Callable) -> None:
    model = build(gpt2).train()
    model.transformer.h[1].eval()  # frozen, as a trainer may have it
    flags = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = (measure(model, tokenizer, MIXED, max_length=64).per_text for _ in range(2))
    np.testing.assert_array_equal(first, second)  # no dropout
    assert [module.training for module in model.modules()] == flags
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.bias[0] = torch.nan
    with pytest.warns(UserWarning, match="layer 2 holds NaN"):
        measure(model, tokenizer, MIXED, max_length=64)
    assert [module.training for module in model.modules()] == flags
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_head_is_not_run(tokenizer: Callable) -> None:
    model = build(gpt2)
    model.lm_head.forward = None
    assert measure(model, tokenizer, MIXED, max_length=64).samples == len(MIXED)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precision_models(tokenizer: Callable, dtype: torch.dtype) -> None:
    exact = measure(build(llama), tokenizer, MIXED, max_length=64)
    found = measure(build(llama).to(dtype), tokenizer, MIXED, max_length=64)
    np.testing.assert_allclose(found.mean_cosine, exact.mean_cosine, atol=0.02)  # a few steps of bfloat16, 2^-8


@pytest.mark.parametrize(
    ("metrics", "names"),
    [
        ("paper", ["mean_cosine", "mean_cosine_off_diagonal"]),
        ("all", [name for name, row in METRICS.items() if row.of_texts or row.of_sample or name == "between_texts"]),
        (["effective_rank"], ["mean_cosine", "mean_cosine_off_diagonal", "effective_rank"]),
    ],
)
def test_what_is_asked_for_is_measured(tokenizer: Callable, metrics: str | list[str], names: list[str]) -> None:
    found = measure(build(gpt2), tokenizer, texts_of(9, 9), max_length=64, metrics=metrics)
    assert sorted(found.metrics) == sorted(names)
    assert (found.pair_counts is None) == (metrics == ["effective_rank"])
    assert (found.histogram_of_mean is None) == (metrics == ["effective_rank"])


def test_the_seed_is_the_bootstraps(tokenizer: Callable) -> None:
    model = build(gpt2)
    one, same, other = (measure(model, tokenizer, MIXED, max_length=64, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.per_text, other.per_text)
    np.testing.assert_array_equal(one.mean_cosine_interval, same.mean_cosine_interval)
    assert (one.mean_cosine_interval != other.mean_cosine_interval).any()


def test_a_longer_limit_than_the_model_has_positions_is_lowered_with_one_warning(tokenizer: Callable) -> None:
    model = build(gpt2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = measure(model, tokenizer, texts_of(100, 200, 30), max_length=512)
    assert [str(warning.message).split(";")[0] for warning in caught] == [
        "max_length=512: GPT2LMHeadModel has 64 positions"
    ]
    assert found.tokens.tolist() == [64, 64, 30]
    assert found.max_length == 64


def test_positions_that_padding_takes_are_not_counted(tokenizer: Callable) -> None:
    config = transformers.RobertaConfig(
        vocab_size=100,
        max_position_embeddings=34,
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        pad_token_id=1,
    )
    model = build(lambda: transformers.RobertaModel(config))
    assert count_positions(model) == 32
    assert measure(model, tokenizer, texts_of(60), max_length=32).tokens.tolist() == [32]


def test_a_model_without_a_limit_takes_any_length(tokenizer: Callable) -> None:
    config = transformers.BloomConfig(vocab_size=100, hidden_size=16, n_layer=2, n_head=2)
    model = build(lambda: transformers.BloomModel(config))
    assert count_positions(model) is None
    assert measure(model, tokenizer, texts_of(90), max_length=512).tokens.tolist() == [90]


class Stack(nn.Module):
    """A model outside of transformers: no configuration, no attention mask, and each token sees all tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(100, 12)
        self.blocks = nn.ModuleList(nn.Linear(12, 12) for _ in range(2))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.table(ids)
        for block in self.blocks:
            hidden = hidden + block(hidden).mean(dim=1, keepdim=True)
        return hidden


def test_a_model_that_takes_no_mask_is_never_given_padding(tokenizer: Callable) -> None:
    model = build(Stack)
    alone = measure(model, tokenizer, MIXED, batch_size=1)
    np.testing.assert_allclose(measure(model, tokenizer, MIXED).per_text, alone.per_text, atol=1e-6)


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_shown_on_a_terminal_alone(
    tokenizer: Callable, terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    measure(build(gpt2), tokenizer, MIXED, max_length=64, progress=True)
    assert ("text" in capsys.readouterr().err) == terminal
    measure(build(gpt2), tokenizer, MIXED, max_length=64)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("block", [0, 2])
def test_a_layer_that_gives_nan_is_named_and_counted_no_more(tokenizer: Callable, block: int) -> None:
    model = build(gpt2)
    # Only texts that hold the word with this id are hurt.
    unlucky = tokenizer("w7")["input_ids"][0]
    texts = [*texts_of(10, 10), "w7 w1 w2", "w3 w4 w5"]
    healthy = [index for index, text in enumerate(texts) if "w7" not in text.split()]
    assert healthy == [0, 1, 3]
    with torch.no_grad():
        model.transformer.wte.weight[unlucky] = torch.inf if block == 0 else 1e-3
        if block:
            model.transformer.h[block - 1].mlp.c_proj.bias[0] = torch.nan
    layer, text = (0, 2) if block == 0 else (2, r"\d")
    if block == 0:
        with (
            pytest.warns(UserWarning, match=rf"GPT2LMHeadModel: layer {layer} holds NaN or infinity at text {text}"),
            pytest.raises(UserError, match="every layer holds NaN"),
        ):
            measure(model, tokenizer, texts, max_length=64)
        return
    with pytest.warns(UserWarning, match=rf"GPT2LMHeadModel: layer {layer} holds NaN or infinity at text {text}"):
        found = measure(model, tokenizer, texts, max_length=64, metrics="all")
    assert found.broken == list(range(layer, found.layers))
    clean = measure(build(gpt2), tokenizer, texts, max_length=64, metrics="all")
    assert not clean.broken
    # What comes before the broken layer is as it was (but for the word's embedding), and nothing of the rest is averaged.
    for name, values in found.metrics.items():
        assert np.isnan(values[layer:]).all(), name
        np.testing.assert_array_equal(np.isnan(values[:layer]), np.isnan(clean.metrics[name][:layer]), name)
    assert not found.histogram[layer:].any()
    assert math.isnan(found.spearman)
    assert any("hold NaN" in doubt for doubt in found.doubts)
    assert json.dumps(found.summary(), allow_nan=False)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "texts is empty"),
        ("one string", "texts is one string"),
        (iter(["w1 w2", 3]), r"texts\[1\] is int"),
        (["w1 w2", "w1"], r"texts\[1\] has 1 token"),
        (["w1 w2", ""], r"texts\[1\] has 0 token"),
    ],
)
def test_texts_without_an_answer_are_refused(tokenizer: Callable, texts: Iterable[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        measure(build(gpt2), tokenizer, texts, max_length=64)


@pytest.mark.parametrize("token", [100, 50_256, -1])
def test_a_tokenizer_of_another_model_is_refused(token: int) -> None:
    class Other:
        def encode(self, text: str) -> list[int]:
            return [1, token] if "strange" in text else [1, 2]

    with pytest.raises(UserError, match=rf"texts\[1\] has token id {token}, the model's embedding table has 100 rows"):
        measure(build(gpt2), Other(), ["fine", "strange"], max_length=64)


def test_what_is_no_tokenizer_is_refused() -> None:
    with pytest.raises(UserError, match=r"tokenizer is str: give transformers' tokenizer"):
        measure(build(gpt2), "gpt2", MIXED, max_length=64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 1}, "max_length=1: must be at least 2"),
        ({"max_length": 64, "batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"max_length": 64, "metrics": "mean"}, "metric 'mean' is not known"),
    ],
)
def test_options_without_an_answer_are_refused(tokenizer: Callable, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        measure(build(gpt2), tokenizer, MIXED, **options)


@pytest.mark.parametrize("first", ["decondense.measure", "decondense.condensation", "decondense"])
def test_the_public_name_is_the_function_whichever_module_was_imported_first(first: str) -> None:
    # The module has the function's name: importing it must not put the module in the function's place.
    program = (
        f"import {first}, decondense; from decondense import measure; "
        "assert callable(measure) and decondense.measure is measure"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_result_is_a_condensation_named_after_the_model(tokenizer: Callable) -> None:
    model = build(gpt2)
    assert isinstance(measure(model, tokenizer, MIXED, max_length=64), Condensation)
    assert measure(model, tokenizer, MIXED, max_length=64).model == "GPT2LMHeadModel"
    model.config._name_or_path = "folder/of the model"
    assert measure(model, tokenizer, MIXED, max_length=64).model == "folder/of the model"
