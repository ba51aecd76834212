"""Texts in, a small byte-level BPE tokenizer out, in transformers' form. Knows no model, file or window."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from decondense.errors import UserError, require

END_OF_TEXT = "<|endoftext|>"
# Each byte is a token of its own, so that no text is unknown; and there is the end of a text.
SMALLEST_VOCABULARY = 257


def train(texts: Iterable[str], vocabulary_size: int = 1024) -> Any:
    """Train a byte-level BPE tokenizer (as GPT-2's): the same texts give the same tokenizer.

    Args:
        texts: strings to learn merges from. Held-out text must not be among them.
        vocabulary_size: tokens at most, the 256 bytes and the end-of-text token included; few texts give fewer.

    Returns:
        a `PreTrainedTokenizerFast` whose token 0, `<|endoftext|>`, ends a text and pads. It adds no special tokens
        by itself, and `len(tokenizer)` is the size of its vocabulary.

    Raises:
        UserError: the vocabulary cannot hold the bytes, or there is no text.

    >>> tokenizer = train(["to be or not to be"] * 10, vocabulary_size=264)
    >>> tokenizer.decode(tokenizer("to be, naïve or not")["input_ids"])
    'to be, naïve or not'
    """
    if vocabulary_size < SMALLEST_VOCABULARY:
        raise UserError(
            f"vocabulary_size={vocabulary_size}: at least {SMALLEST_VOCABULARY}, 256 bytes and the end-of-text token"
        )
    given = list(texts)
    if not any(text.strip() for text in given):
        raise UserError("no text to train a tokenizer on: give at least one that is not blank")
    tokenizers = require("tokenizers", extra="hf")
    transformers = require("transformers", extra="hf")
    pieces = tokenizers.Tokenizer(tokenizers.models.BPE())
    pieces.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pieces.train_from_iterator(given, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=pieces,
        eos_token=END_OF_TEXT,
        bos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )
