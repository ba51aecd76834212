"""A tiny random model with its tokenizer as a folder on disk, for tests of what loads models. Knows no test."""

import contextlib
import io
from pathlib import Path

import torch
import transformers

from decondense.texts import tokenizer

POSITIONS = 64
WORDS = "the quick brown fox jumps over the lazy dog and the dog sleeps on"


def save_tiny_model(folder: Path, vocabulary: int | None = None) -> Path:
    """Write a GPT-2 of two layers; `vocabulary` rows of embeddings, by default as many as its tokenizer has tokens."""
    words = tokenizer.train([WORDS] * 10, vocabulary_size=300)
    config = transformers.GPT2Config(
        vocab_size=vocabulary or len(words),
        n_positions=POSITIONS,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    # transformers draws a progress bar, which is not what the tests look at.
    with torch.random.fork_rng(), contextlib.redirect_stderr(io.StringIO()):
        torch.manual_seed(0)
        transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
