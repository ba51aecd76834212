"""Windows hold every token in order and know whose it is; batches are a function of the step."""

from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from decondense.errors import UserError
from decondense.texts import embedded, tokenizer
from decondense.texts.packing import Windows, batch, batches, pack

TEXTS = [document.text for document in embedded.documents()[:8]]
TRAINED: Any = tokenizer.train(TEXTS, vocabulary_size=300)


def numbered(count: int, context: int = 4) -> Windows:
    tokens = torch.arange(count * context).reshape(count, context)
    return Windows(tokens, tokens // 10)


@given(st.lists(st.text("ab c", max_size=30), min_size=1, max_size=6), st.integers(2, 9))
def test_windows_are_the_texts_in_order_with_an_end_after_each(texts: list[str], context: int) -> None:
    expected = [(token, index) for index, text in enumerate(texts) for token in [*TRAINED(text)["input_ids"], 0]]
    whole = len(expected) // context * context
    if whole == 0:
        with pytest.raises(UserError, match="one window needs"):
            pack(texts, TRAINED, context)
        return
    windows = pack(texts, TRAINED, context)
    assert windows.tokens.shape == windows.documents.shape == (whole // context, context)
    assert windows.tokens.dtype == windows.documents.dtype == torch.int64
    # All but the rest that fills no window.
    pairs = zip(windows.tokens.flatten().tolist(), windows.documents.flatten().tolist(), strict=True)
    assert list(pairs) == expected[:whole]


def test_windows_of_the_corpus_can_be_read_back() -> None:
    windows = pack(TEXTS, TRAINED, context=32)
    text = TRAINED.decode(windows.tokens[windows.documents == 1].tolist())
    assert text == TEXTS[1] + tokenizer.END_OF_TEXT


def test_a_text_longer_than_the_context_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    short = tokenizer.train(TEXTS, vocabulary_size=300)
    short.model_max_length = 8
    pack(TEXTS, short, context=8)
    assert caplog.records == []


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 3))
def test_an_epoch_sees_every_window_once(count: int, batch_size: int, seed: int) -> None:
    windows = numbered(count)
    seen = torch.cat([one.tokens for one in batches(windows, batch_size, steps=2 * count, seed=seed)])
    for epoch in range(2 * batch_size):  # 2 * count steps of batch_size windows are so many epochs
        rows = seen[epoch * count : (epoch + 1) * count]
        assert torch.equal(rows[rows[:, 0].argsort()], windows.tokens)


def test_a_run_that_goes_on_gets_the_batches_it_would_have_got() -> None:
    windows = numbered(7)
    whole = [one.tokens for one in batches(windows, 3, steps=20, seed=5)]
    rest = [one.tokens for one in batches(windows, 3, steps=20, seed=5, start=11)]
    assert all(torch.equal(first, second) for first, second in zip(whole[11:], rest, strict=True))
    assert torch.equal(batch(windows, 3, step=4, seed=5).tokens, whole[4])


def test_documents_stay_with_their_tokens() -> None:
    windows = numbered(9)
    one = batch(windows, 4, step=3, seed=1)
    assert torch.equal(one.documents, one.tokens // 10)


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    windows = numbered(40)
    orders = [batch(windows, 40, step, seed).tokens[:, 0].tolist() for step in (0, 1) for seed in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_what_cannot_be_packed_is_an_error() -> None:
    with pytest.raises(UserError, match="context=1"):
        pack(TEXTS, TRAINED, context=1)
    with pytest.raises(UserError, match="0 texts make 0 tokens"):
        pack([], TRAINED, context=8)
    endless = tokenizer.train(TEXTS, vocabulary_size=300)
    endless.eos_token = None
    with pytest.raises(UserError, match="end-of-text"):
        pack(TEXTS, endless, context=8)
    with pytest.raises(UserError, match="batch_size=0"):
        batch(numbered(3), 0, step=0, seed=0)
