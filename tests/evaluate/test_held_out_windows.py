"""Windows of held-out text: the same that a run was evaluated on, and bytes that add up."""

import pytest
import torch
import transformers
from saved import WORDS, save_tiny_model

from decondense.errors import UserError
from decondense.evaluate import held_out_windows


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    return transformers.AutoTokenizer.from_pretrained(save_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny"))


def test_texts_are_joined_and_bytes_add_up(tokenizer) -> None:
    texts = [WORDS, "naïve “quotes”", WORDS]
    ids = [token for text in texts for token in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]
    length = len(ids) // 2
    found = held_out_windows.cut("three", texts, tokenizer, length, tokens=1000)
    assert found.windows.flatten().tolist() == ids[: 2 * length]
    one = held_out_windows.cut("three", texts, tokenizer, len(ids), tokens=1000)
    first = len(tokenizer.decode([ids[0]]).encode())
    # All bytes but those of the first token of the one window.
    assert one.bytes_per_token * (len(ids) - 1) == pytest.approx(sum(len(text.encode()) for text in texts) - first)


def test_no_more_is_read_than_is_needed(tokenizer) -> None:
    read = []

    def texts():
        for number in range(100):
            read.append(number)
            yield WORDS

    found = held_out_windows.cut("many", texts(), tokenizer, 8, tokens=20)
    assert found.windows.shape == (2, 8)
    assert len(read) < 4


def test_the_embedded_corpus_is_what_training_holds_out(tokenizer) -> None:
    from decondense.texts import embedded

    _, held = embedded.split(embedded.documents())
    found = held_out_windows.windows_of_source("embedded", None, tokenizer, tokens=64, length=32)
    assert tokenizer.decode(found.windows.flatten()) in "".join(document.text for document in held)


@pytest.mark.parametrize(
    ("tokens", "length", "message"),
    [
        (100, 1, "length=1: a window needs at least 2"),
        (10, 20, "10 tokens are fewer than one window of 20"),
        (400, 300, r"texts 'short' make \d+ tokens to evaluate on, and one window needs 300: give more text"),
    ],
)
def test_too_short(tokenizer, tokens: int, length: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        held_out_windows.cut("short", [WORDS], tokenizer, length, tokens)


def test_windows_tell_texts_apart(tokenizer) -> None:
    one, two = (held_out_windows.cut("x", [text], tokenizer, 4, 4) for text in (WORDS, WORDS[::-1]))
    assert one.digest != two.digest
    assert one.windows.dtype == torch.int64
