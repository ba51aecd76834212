"""Tokens of documents: each ends with the end of text, and the bytes of tokens add up to those of the text."""

import pytest

from decondense import UserError
from decondense.texts import tokenizer as tokenizers
from decondense.texts.encoding import Encoded, encode

TEXTS = [f"the {number} naïve “quick” fox jumps over {'the lazy dog ' * (number % 5)}" for number in range(40)]


@pytest.fixture(scope="module")
def bpe():
    return tokenizers.train(TEXTS, 320)


def test_documents_end_with_the_end_of_text(bpe) -> None:
    assert [found.ids for found in encode(bpe, TEXTS)] == [
        [*bpe(text)["input_ids"], bpe.eos_token_id] for text in TEXTS
    ]


def test_bytes_of_tokens_add_up_to_the_text(bpe) -> None:
    for found in encode(bpe, [*TEXTS, "日本語 text 🎉 done  ", "a", ""]):
        lengths = found.bytes_of_tokens()
        assert len(lengths) == len(found.ids)
        assert sum(lengths) == len(found.text.encode())
        assert min(lengths) >= 0
        assert lengths[-1] == 0
        assert sum(Encoded(found.text, found.ids, None).bytes_of_tokens()) == pytest.approx(len(found.text.encode()))
    # In a byte-level BPE of plain text a token's name has as many characters as it stands for bytes.
    [found] = encode(bpe, [TEXTS[7].replace("ï", "i").replace("“", '"').replace("”", '"')])
    names = bpe.convert_ids_to_tokens(found.ids[:-1])
    assert found.bytes_of_tokens()[:-1] == [len(name) for name in names]


def test_a_tokenizer_without_an_end_of_text_is_refused(bpe) -> None:
    class Endless:
        eos_token_id = None

    with pytest.raises(UserError, match="no end-of-text token"):
        next(encode(Endless(), TEXTS))
