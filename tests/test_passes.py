"""How texts are run through a model: memory that runs out, a killed run, several processes, stacks, named layers, windows."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

import conftest  # noqa: F401 - shapes are checked in the processes that this file starts, too
import numpy as np
import pytest
import torch
import torch.distributed as dist
import transformers
from torch import nn

from decondense.condensation import Condensation
from decondense.errors import UserError
from decondense.measure import measure
from decondense.passes import Progress
from decondense.tokens import Marker, tokenize

VOCABULARY = 60


class Numbers:
    """A tokenizer of texts such as "3 17 5"; id 7 decodes to a comma."""

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        return " ".join("," if token == 7 else f"w{token}" for token in ids)


def texts_of(*lengths: int, seed: int = 0) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(map(str, generator.integers(10, VOCABULARY, length))) for length in lengths]


MIXED = texts_of(9, 30, 2, 17, 30, 5, 29, 40)
ALIKE = texts_of(*[20] * 9, seed=1)


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=64, n_embd=16, n_layer=3, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def t5() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_decoder_layers=3, num_heads=2,
        decoder_start_token_id=0,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config)


class Plain(nn.Module):
    """A model of nobody's making: blocks in a ModuleList, no configuration."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(VOCABULARY, 8)
        self.steps = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.table(tokens)
        for step in self.steps:
            hidden = hidden + step(hidden).tanh()
        return hidden


def assert_same(one: Condensation, two: Condensation, tolerance: float = 0.0) -> None:
    assert one.digest == two.digest
    np.testing.assert_array_equal(one.tokens, two.tokens)
    assert list(one.metrics) == list(two.metrics)
    for name, values in one.text_metrics.items():
        np.testing.assert_allclose(values, two.text_metrics[name], rtol=0, atol=tolerance, err_msg=name)
    for name, values in one.sample_metrics.items():
        np.testing.assert_allclose(values, two.sample_metrics[name], rtol=tolerance, atol=tolerance, err_msg=name)
    for name, values in one.totals.items():
        np.testing.assert_allclose(values, two.totals[name], rtol=1e-12, atol=1e-12 + tolerance, err_msg=name)
    np.testing.assert_array_equal(one.histogram, two.histogram)
    np.testing.assert_equal(one.histogram_of_mean, two.histogram_of_mean)


# --- memory -------------------------------------------------------------------------------------------------------------------------


def full_above(model: nn.Module, rows: int, error: type[RuntimeError] = torch.OutOfMemoryError) -> None:
    """Let the model's second block run out of memory for batches of more rows."""

    def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if args[0].shape[0] > rows:
            raise error("DefaultCPUAllocator: can't allocate memory")

    model.transformer.h[1].register_forward_pre_hook(hook)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_where_memory_runs_out_the_batch_is_halved_and_nothing_counted_twice(error: type[RuntimeError]) -> None:
    model = gpt2()
    expected = measure(model, Numbers(), ALIKE, batch_size=2, metrics="all", max_length=64)
    full_above(model, 2, error)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = measure(model, Numbers(), ALIKE, batch_size=8, metrics="all", max_length=64)
    assert [str(one.message) for one in caught] == [
        "GPT2LMHeadModel: memory is full with 8 texts in a batch: going on with 4",
        "GPT2LMHeadModel: memory is full with 4 texts in a batch: going on with 2",
    ]
    assert_same(found, expected)


def test_where_one_text_is_too_much_it_says_what_would_help() -> None:
    model = gpt2()
    full_above(model, 0)
    with (
        pytest.warns(UserWarning, match="memory is full"),
        pytest.raises(UserError, match="one text of 20 tokens .* lower max_length"),
    ):
        measure(model, Numbers(), ALIKE, batch_size=2, max_length=64)


def test_other_errors_pass_through() -> None:
    model = gpt2()
    model.transformer.h[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        measure(model, Numbers(), ALIKE, max_length=64)


# --- a killed run -------------------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for a signal: no code of ours may catch it."""


def kill_at(model: nn.Module, forward_pass: int) -> list[int]:
    """Let a forward pass die in the middle; the list counts them."""
    passes: list[int] = []

    def hook(*_: object) -> None:
        passes.append(1)
        if len(passes) == forward_pass:
            raise Killed

    model.transformer.h[1].register_forward_pre_hook(hook)
    return passes


@pytest.mark.parametrize("texts", [ALIKE, MIXED], ids=["one length", "mixed"])
def test_a_killed_run_loses_one_batch_and_ends_with_the_same_numbers(tmp_path: Path, texts: list[str]) -> None:
    options = {"batch_size": 2, "metrics": "all", "max_length": 64}
    expected = measure(gpt2(), Numbers(), texts, **options)
    path = tmp_path / "state.pt"
    model = gpt2()
    passes = kill_at(model, 4)
    with pytest.raises(Killed):
        measure(model, Numbers(), texts, **options, checkpoint=path)
    assert path.exists()
    found = measure(model, Numbers(), texts, **options, checkpoint=path)
    whole = kill_at(again := gpt2(), 0)
    measure(again, Numbers(), texts, **options)
    assert len(passes) == len(whole) + 1  # the pass that died, and no other, was made twice
    assert_same(found, expected)
    assert list(tmp_path.iterdir()) == []


def test_a_state_of_other_texts_is_not_gone_on_from(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    model = gpt2()
    kill_at(model, 3)
    with pytest.raises(Killed):
        measure(model, Numbers(), ALIKE, batch_size=2, max_length=64, checkpoint=path)
    found = measure(gpt2(), Numbers(), MIXED, batch_size=2, max_length=64, checkpoint=path)
    assert_same(found, measure(gpt2(), Numbers(), MIXED, batch_size=2, max_length=64))


def test_progress_says_what_was_seen() -> None:
    assert Progress([[3, 1], [0], [2]], [], done=2).order == [3, 1, 0]


# --- several processes --------------------------------------------------------------------------------------------------------------


def on_rank(rank: int, world: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    torch.set_num_threads(1)
    for name, texts in (("alike", ALIKE), ("mixed", MIXED)):
        measure(gpt2(), Numbers(), texts, batch_size=2, metrics="all", max_length=64).save(f"{folder}/{name}{rank}.npz")
    dist.destroy_process_group()


@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="this build of torch has no gloo")
def test_two_processes_give_the_result_of_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(functools.partial(on_rank), args=(2, str(tmp_path)), nprocs=2)
    for name, texts in (("alike", ALIKE), ("mixed", MIXED)):
        expected = measure(gpt2(), Numbers(), texts, batch_size=2, metrics="all", max_length=64)
        for rank in range(2):
            # Batches are the same; one thread or two change the rounding of float32.
            assert_same(Condensation.load(tmp_path / f"{name}{rank}.npz"), expected, tolerance=1e-5)


# --- which layers -------------------------------------------------------------------------------------------------------------------


def mean_cosines(layers: tuple[torch.Tensor, ...]) -> list[float]:
    return [float(nn.functional.normalize(hidden[0], dim=-1).mean(dim=0).square().sum()) for hidden in layers]


@pytest.mark.parametrize("stack", ["encoder", "decoder", None])
def test_both_stacks_of_an_encoder_decoder(stack: str | None) -> None:
    model = t5().eval()
    found = measure(model, Numbers(), MIXED, stack=stack, max_length=64, metrics="all")
    assert found.layers == {"encoder": 3, "decoder": 4, None: 3}[stack]
    for text in (1, 5):
        ids = torch.tensor([Numbers().encode(MIXED[text])])
        shifted = torch.cat([torch.zeros_like(ids[:, :1]), ids[:, :-1]], dim=1)
        with torch.no_grad():
            output = model(input_ids=ids, decoder_input_ids=shifted, output_hidden_states=True)
        layers = output.decoder_hidden_states if stack == "decoder" else output.encoder_hidden_states
        np.testing.assert_allclose(found.per_text[text], mean_cosines(layers), atol=1e-6)


def test_any_module_by_the_names_of_its_layers() -> None:
    model = Plain()
    found = measure(model, Numbers(), MIXED, layers=["table", "steps.*"])
    assert found.layers == 4
    ids = torch.tensor([Numbers().encode(MIXED[3])])
    with torch.no_grad():
        hidden = model.table(ids)
        layers = [hidden]
        for step in model.steps:
            layers.append(step(hidden))
            hidden = hidden + layers[-1].tanh()
    np.testing.assert_allclose(found.per_text[3], mean_cosines(tuple(layers)), atol=1e-6)
    with pytest.raises(UserError, match="step"):
        measure(model, Numbers(), MIXED, layers=["step.0"])


def test_logits_are_one_more_layer() -> None:
    model = gpt2().eval()
    found = measure(model, Numbers(), MIXED, logits=True, metrics="all", max_length=64)
    plain = measure(model, Numbers(), MIXED, metrics="all", max_length=64)
    assert found.layers == plain.layers + 1
    np.testing.assert_array_equal(found.per_text[:, :-1], plain.per_text)
    with torch.no_grad():
        logits = model(torch.tensor([Numbers().encode(MIXED[4])])).logits
    np.testing.assert_allclose(found.per_text[4, -1], mean_cosines((logits,))[0], atol=1e-5)
    with pytest.raises(UserError, match="no language-model head"):
        measure(model.transformer, Numbers(), MIXED, logits=True, max_length=64)


# --- what is read -------------------------------------------------------------------------------------------------------------------


def test_windows_take_all_of_a_text() -> None:
    tokenized = tokenize(Numbers(), texts_of(25, 4, 11), 10, windows=True)
    assert tokenized.lengths == [10, 10, 5, 4, 10]  # the last window of 11 would have one token
    assert tokenize(Numbers(), texts_of(25, 4, 11), 10).lengths == [10, 4, 10]


@pytest.mark.parametrize(
    ("budget", "lengths"), [(22, [10, 10, 2]), (20, [10, 10]), (21, [10, 10]), (1000, [10, 10, 5, 4, 10])]
)
def test_reading_stops_at_the_budget(budget: int, lengths: list[int]) -> None:
    def endless():
        yield from texts_of(25, 4, 11)
        if budget < 1000:
            raise AssertionError("read past the budget")

    assert tokenize(Numbers(), endless(), 10, windows=True, max_tokens=budget).lengths == lengths


def test_the_digest_tells_texts_apart() -> None:
    digests = [
        tokenize(Numbers(), texts, 10).digest
        for texts in (["1 2", "3 4"], ["1 2", "3 5"], ["1 2 ", "3 4"], ["3 4", "1 2"])
    ]
    assert len(set(digests)) == 4


def test_what_is_known_of_tokens() -> None:
    texts = ["9 7 9 8", "8 9 9 5"]
    tokenized = tokenize(Numbers(), texts, 10)
    marks = Marker(tokenized, Numbers(), seed=0).mark(
        [0, 1], torch.stack(tokenized.ids).long(), torch.ones(2, 4, dtype=torch.bool)
    )
    # 9 makes four of eight tokens.
    assert marks.frequent.tolist() == [[True, False, True, False], [False, True, True, False]]
    assert marks.sinks.tolist() == [[True, True, False, False], [True, False, False, False]]
    assert (marks.kinds[0, 0] == marks.kinds[0, 2]) and len(set(marks.kinds[0].tolist())) == 3
    assert len(set(marks.keys.flatten().tolist())) == 8


def test_comparing_two_models_on_the_same_texts() -> None:
    one = measure(gpt2(), Numbers(), MIXED, max_length=64)
    other = gpt2()
    with torch.no_grad():
        other.transformer.wte.weight += 1.0
    two = measure(other, Numbers(), MIXED, max_length=64)
    found = one.compare(two)
    np.testing.assert_allclose([layer.value for layer in found.layers], two.mean_cosine - one.mean_cosine, atol=1e-12)
    assert found.layers[0].clear and found.layers[0].low > 0
    assert not one.compare(one).mean.clear
    assert found.summary()["mean"][0] == found.mean.value
    with pytest.raises(UserError, match="measured on different texts"):
        one.compare(measure(gpt2(), Numbers(), ALIKE, max_length=64))
