"""Perplexity and condensation on held-out windows equal what is computed by hand."""

import math

import pytest
import torch
from models import build, tokens

from decondense import measure
from decondense.evaluate.window_loss import evaluate_windows


class Numbers:
    """A tokenizer whose texts are token ids in writing."""

    def encode(self, text):
        return [int(word) for word in text.split()]


def test_perplexity_and_condensation_of_windows():
    model, windows = build("llama"), tokens(7, 12)
    model.train()
    seen = evaluate_windows(model, windows, "paper", "tiny", batch_size=3)
    assert model.training
    model.eval()
    with torch.no_grad():
        loss = model(windows, labels=windows).loss.item()
    # float32 sums in another order
    assert seen.loss == pytest.approx(loss, rel=1e-5)
    assert seen.perplexity == pytest.approx(math.exp(loss), rel=1e-4)
    assert seen.bits_per_byte(2.0) == pytest.approx(loss / math.log(2) / 2, rel=1e-5)
    measured = measure(model, Numbers(), [" ".join(map(str, row)) for row in windows.tolist()], max_length=64)
    assert seen.condensation.mean_cosine == pytest.approx(measured.mean_cosine, abs=1e-6)
    assert seen.condensation.spearman == measured.spearman
