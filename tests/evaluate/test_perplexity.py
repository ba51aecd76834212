"""Perplexity equals what a plain loop gives, token by token."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from saved import POSITIONS, WORDS, save_tiny_model

from decondense import models
from decondense.errors import UserError
from decondense.evaluate.perplexity import SEPARATOR, Perplexity, _windows, by_document, by_window

DOCUMENTS = [WORDS, "", f"{WORDS} {WORDS} é " * 4, "fox"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return models.load(str(save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")))


def token_by_token(model: Any, tokenizer: Any, text: str, context: int, stride: int) -> list[float]:
    """Each token's nats from a forward pass of its own, over the tokens that the definition lets it see."""
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    ids = [first, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    found = []
    for place in range(1, len(ids)):
        # The window that first reaches this token begins at a multiple of the stride.
        start = 0 if place <= context else math.ceil((place - context) / stride) * stride
        with torch.no_grad():
            logits = model(torch.tensor([ids[start:place]])).logits[0, -1].double()
        found.append(-logits.log_softmax(-1)[ids[place]].item())
    return found


@pytest.mark.parametrize(("context", "stride"), [(POSITIONS, 16), (20, 20), (20, 7), (20, 1)])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_it_is_that_of_a_plain_loop(tiny: tuple[Any, Any], context: int, stride: int, batch_size: int) -> None:
    texts = [text for text in DOCUMENTS if text]
    direct = [token_by_token(*tiny, text, context, stride) for text in texts]
    found = by_document(*tiny, DOCUMENTS, context, stride, batch_size)
    # float32 logits of a batch differ in their last bits from those of one row.
    assert found.nats == pytest.approx([math.fsum(one) for one in direct], rel=1e-5)
    assert found.tokens == [len(one) for one in direct]
    assert found.bytes == sum(len(text.encode()) for text in texts)
    stream = token_by_token(*tiny, SEPARATOR.join(texts), context, stride)
    sliding = by_window(*tiny, DOCUMENTS, context, stride, batch_size)
    assert sliding.value == pytest.approx(math.exp(math.fsum(stream) / len(stream)), rel=1e-5)
    assert sliding.bits_per_byte == pytest.approx(
        math.fsum(stream) / math.log(2) / len(SEPARATOR.join(texts).encode()), rel=1e-5
    )
    assert max(sliding.tokens) == context


def test_stories260K_predicts_stories(stories260K: Path, data: Path) -> None:
    model, tokenizer = models.load(str(stories260K))
    with (data / "texts" / "tinystories" / "tinystories_val_794k.txt").open(encoding="utf-8") as file:
        text = file.read(600)
    direct = token_by_token(model, tokenizer, text, 128, 64)
    found = by_window(model, tokenizer, [text], context=128)
    assert (found.context, found.stride, sum(found.tokens)) == (128, 64, len(direct))
    assert found.value == pytest.approx(math.exp(math.fsum(direct) / len(direct)), rel=1e-5)
    # There are 512 tokens: a model that has learnt nothing is at 512.
    assert found.value < 5


@given(st.integers(2, 200), st.integers(1, 50), st.data())
def test_windows_score_each_token_once(length: int, context: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, context))
    scored = []
    for start, stop, skip in _windows(length, context, stride):
        assert 0 < stop - start <= context
        scored += range(start + skip + 1, stop + 1)
        # What a prediction sees: all that is before it, or at least context - stride + 1 tokens.
        assert start == 0 or skip + 1 > context - stride
    assert scored == list(range(1, length))


def test_standard_errors_are_those_of_a_mean_where_parts_are_alike() -> None:
    found = Perplexity([10.0, 14.0, 9.0, 15.0], [5, 5, 5, 5], 100, 8, 4)
    losses = [2.0, 2.8, 1.8, 3.0]
    mean = sum(losses) / 4
    stderr = math.sqrt(sum((loss - mean) ** 2 for loss in losses) / 3 / 4)
    assert found.loss_stderr == pytest.approx(stderr, rel=1e-12)
    metrics = found.metrics("/document")
    assert metrics["perplexity/document"] == pytest.approx(
        {"value": math.exp(mean), "stderr": math.exp(mean) * stderr}, rel=1e-12
    )
    bits = metrics["bits_per_byte/document"]
    assert bits["value"] == pytest.approx(48 / math.log(2) / 100, rel=1e-12)
    assert bits["stderr"] == pytest.approx(stderr * 20 / math.log(2) / 100, rel=1e-12)
    assert Perplexity([10.0], [5], 100, 8, 4).loss_stderr is None


def test_a_window_that_the_model_does_not_take_is_refused(tiny: tuple[Any, Any]) -> None:
    with pytest.raises(UserError, match=f"context={POSITIONS + 1}: a window has from 1 to {POSITIONS} tokens"):
        by_window(*tiny, [WORDS], POSITIONS + 1)
    with pytest.raises(UserError, match="stride=9: a window of 8 tokens moves by 1 to 8"):
        by_document(*tiny, [WORDS], 8, 9)
    with pytest.raises(UserError, match="there is no text"):
        by_document(*tiny, ["", " "])


def test_progress_counts_every_token(tiny: tuple[Any, Any]) -> None:
    counted: list[int] = []
    found = by_document(*tiny, DOCUMENTS, 20, 7, progress=counted.append)
    assert sum(counted) == sum(found.tokens)
