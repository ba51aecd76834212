"""Tokens in files: made once, mapped, cut into windows; batches by the number of the step."""

import json
import os
from pathlib import Path

import pytest
import torch
import transformers

from decondense import UserError
from decondense.texts import packing
from decondense.texts import tokenizer as tokenizers
from decondense.train import data as room
from decondense.train.documents import Documents

TEXTS = [f"the {number} naïve “quick” fox jumps over {'the lazy dog ' * (number % 5)}" for number in range(40)]


def documents(texts=TEXTS, streamed=False, identity="a", read=None):
    def given():
        return ((text, index % 4 == 0) for index, text in enumerate(texts))

    return Documents("given", {"which": identity}, streamed, read or given)


def opened(cache, context=16, tokenizer=None, windows=100, **options):
    entry = room.prepare(documents(**options), tokenizer, 300, cache, 100, 50)
    return room.open_text(entry, tokenizer, context, windows)


@pytest.fixture(scope="module")
def bpe():
    return tokenizers.train(TEXTS, 400)


def test_windows_are_those_of_packing_all_documents_in_order(tmp_path, bpe):
    text = opened(tmp_path, tokenizer=bpe)
    for windows, held in ((text.training.rows(slice(None)), False), (text.held_out, True)):
        expected = packing.pack([one for one, side in documents().read() if side == held], bpe, 16)
        assert torch.equal(windows, expected.tokens)
    batch = text.training.batch(4, step=3, seed=1)
    packed = packing.pack([one for one, side in documents().read() if not side], bpe, 16)
    expected = packing.batch(packed, 4, step=3, seed=1)
    assert torch.equal(batch["input_ids"], expected.tokens)
    assert torch.equal(batch["labels"], expected.tokens)
    assert torch.equal(batch["documents"], expected.documents - expected.documents[:, :1])


def test_it_is_tokenised_once_and_only_what_is_needed_is_read(tmp_path, bpe):
    first = opened(tmp_path, tokenizer=bpe)

    def never():
        raise AssertionError("read again")

    again = opened(tmp_path, tokenizer=bpe, read=never)
    assert again.digest == first.digest
    assert torch.equal(again.held_out, first.held_out)
    # Windows of another length are cut from the same tokens.
    assert opened(tmp_path, context=8, tokenizer=bpe, read=never).held_out.shape[1] == 8
    assert "memmap" in type(again.training._tokens).__name__
    # Other documents, or another tokenizer, are another entry.
    assert opened(tmp_path, tokenizer=bpe, identity="b", texts=TEXTS[::-1]).digest != first.digest
    assert opened(tmp_path).digest != first.digest
    assert len(list(tmp_path.iterdir())) == 3


def test_a_stream_is_read_no_further_than_needed(tmp_path, bpe):
    read = []

    def endless():
        number = 0
        while True:
            read.append(number)
            yield "the quick brown fox " * 1000, number % 2 == 0
            number += 1

    entry = room.prepare(documents(streamed=True, read=endless), bpe, 300, tmp_path, 20_000, 10_000)
    meta = json.loads((entry / "meta.json").read_text())
    assert meta["training"]["tokens"] >= 20_000
    assert meta["held-out"]["tokens"] >= 10_000
    assert len(read) < 200


def test_the_tokenizer_that_was_trained_is_kept_and_saw_no_held_out_text(tmp_path):
    text = opened(tmp_path)
    expected = tokenizers.train([one for one, held in documents().read() if not held], 300)
    assert text.tokenizer.get_vocab() == expected.get_vocab()
    assert isinstance(text.tokenizer, transformers.PreTrainedTokenizerFast)


def test_a_killed_preparation_leaves_nothing_that_is_taken_for_the_result(tmp_path, bpe):
    def broken():
        yield from documents().read()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path, tokenizer=bpe, read=broken)
    assert list(tmp_path.iterdir()) == []
    # After kill -9 the folder stays; it is nobody's entry, and goes when it is old.
    left = tmp_path / ".abc.1234.part"
    left.mkdir()
    os.utime(left, (0, 0))
    opened(tmp_path, tokenizer=bpe)
    assert not left.exists()


def test_less_than_a_window_is_told(tmp_path, bpe):
    with pytest.raises(
        UserError, match=r"texts 'given' have \d+ tokens to train on, of 30 documents, and one window needs 9999"
    ):
        opened(tmp_path, context=9999, tokenizer=bpe)
    with pytest.raises(UserError, match="tokens that are held out, of 10 documents"):
        opened(tmp_path, context=400, tokenizer=bpe)


def test_a_tokenizer_without_an_end_of_text_is_told(tmp_path):
    bare = tokenizers.train(TEXTS, 300)
    bare.eos_token = None
    with pytest.raises(UserError, match="no end-of-text token"):
        opened(tmp_path, tokenizer=bare)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line(tmp_path, bpe, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(room, "_write", full)
    with pytest.raises(UserError, match="cannot be written .No space left on device.; make room"):
        opened(tmp_path, tokenizer=bpe)


def test_a_tokenizer_of_many_tokens(tmp_path: Path, data: Path) -> None:
    folder = data / "tokenizers" / "gpt2"
    if not folder.is_dir():
        pytest.skip(f"no tokenizer: {folder} is absent")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = opened(tmp_path, tokenizer=tokenizer)
    assert int(text.held_out.max()) < len(tokenizer)
    decoded = tokenizer.decode(text.held_out[0, 1:], skip_special_tokens=True)
    assert text.bytes_per_token == pytest.approx(len(decoded.encode()) / 15, rel=0.2)
