"""A model and held-out windows of tokens in, its cross entropy (perplexity) and its condensation on them out, from one pass. Reads no text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from decondense.condensation import Condensation
from decondense.geometry.metrics import choose_metrics, collectors
from decondense.layers import count_layers, evaluating, watch
from decondense.shapes import Int


@dataclass(frozen=True)
class HeldOut:
    """What a model makes of held-out text.

    Attributes:
        loss: mean cross entropy of a predicted token, in nats.
        condensation: of the same windows, each a text.
    """

    loss: float
    condensation: Condensation

    @property
    def perplexity(self) -> float:
        """exp of the mean cross entropy of a token; depends on the tokenizer."""
        return math.exp(self.loss)

    def bits_per_byte(self, bytes_per_token: float) -> float:
        """Cross entropy in bits for each byte of text; does not depend on the tokenizer."""
        return self.loss / math.log(2) / bytes_per_token


@torch.no_grad()
def evaluate_windows(
    model: nn.Module,
    windows: Int[Tensor, "windows length"],
    metrics: str | Sequence[str],
    name: str,
    batch_size: int = 16,
) -> HeldOut:
    """Cross entropy of every token of a window but its first, given those before it in the window; and the model's condensation.

    Windows do not overlap and none sees another, so that the perplexity is that of short contexts: compare it within one length only.
    """
    names = choose_metrics(metrics)
    statistics = collectors(names, count_layers(model), one_length=True)
    with watch(model, lambda index, hidden: statistics[index].update(hidden)):
        loss = window_loss(model, windows, batch_size)
    return HeldOut(loss, Condensation.from_statistics(statistics, names, name, windows.shape[1]))


@torch.no_grad()
def window_loss(model: nn.Module, windows: Int[Tensor, "windows length"], batch_size: int = 16) -> float:
    """Mean cross entropy, in nats, of every token of a window but its first, given those before it in the window."""
    total = 0.0
    with evaluating(model):
        for batch in windows.split(batch_size):
            logits = model(input_ids=batch).logits[:, :-1].float()
            total += nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum").item()
    return total / windows[:, 1:].numel()
