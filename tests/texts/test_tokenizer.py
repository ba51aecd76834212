"""The small tokenizer: it loses nothing, is the same each time, and survives being saved."""

from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import transformers
from hypothesis import given

from decondense.errors import UserError
from decondense.texts import embedded, tokenizer

TEXTS = [document.text for document in embedded.documents()[:5]]
TRAINED = tokenizer.train(TEXTS, vocabulary_size=400)


@given(st.text(max_size=200))
def test_any_text_comes_back_as_it_was(text: str) -> None:
    assert TRAINED.decode(TRAINED(text)["input_ids"]) == text


def test_the_same_texts_give_the_same_tokenizer() -> None:
    again = tokenizer.train(TEXTS, vocabulary_size=400)
    assert again.backend_tokenizer.to_str() == TRAINED.backend_tokenizer.to_str()


@pytest.mark.parametrize("size", [257, 300, 1024])
def test_the_vocabulary_has_the_size_asked_for(size: int) -> None:
    trained = tokenizer.train([document.text for document in embedded.documents()], size)
    assert len(trained) == size
    assert sorted(trained.get_vocab().values()) == list(range(size))


def test_more_merges_make_shorter_texts() -> None:
    text = TEXTS[0]
    lengths = [len(tokenizer.train(TEXTS, size)(text)["input_ids"]) for size in (257, 300, 400)]
    assert lengths[0] == len(text.encode())  # no merges: a token a byte
    assert lengths[0] > lengths[1] > lengths[2]


def test_the_end_of_a_text_is_token_0_and_comes_by_itself_never() -> None:
    assert TRAINED.eos_token_id == TRAINED.pad_token_id == 0
    assert 0 not in TRAINED(TEXTS[0])["input_ids"]


def test_a_saved_tokenizer_is_the_same(tmp_path: Path) -> None:
    TRAINED.save_pretrained(tmp_path)
    loaded: Any = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(TEXTS[1])["input_ids"] == TRAINED(TEXTS[1])["input_ids"]
    assert loaded.eos_token_id == 0
    assert len(loaded) == len(TRAINED)


def test_a_vocabulary_that_cannot_hold_the_bytes_is_an_error() -> None:
    with pytest.raises(UserError, match="at least 257"):
        tokenizer.train(TEXTS, vocabulary_size=256)


@pytest.mark.parametrize("texts", [[], ["", " \n"]])
def test_no_text_is_an_error(texts: list[str]) -> None:
    with pytest.raises(UserError, match="no text"):
        tokenizer.train(texts)
