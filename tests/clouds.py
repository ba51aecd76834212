"""Made-up texts: hidden states, and what is known of their tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from decondense.draws import token_keys
from decondense.geometry import LayerStatistics, Marks, TextSums, choose_metrics, collectors


def marks_of(hidden: Tensor, first: int = 0, ids: Tensor | None = None) -> Marks:
    """Marks of a batch of texts numbered from `first`: all tokens different, the first a sink, none frequent, unless `ids` [batch, length] say else.

    Even ids are frequent then, and id 0 is a separator.
    """
    batch, length = hidden.shape[:2]
    kinds = torch.arange(length).expand(batch, length) if ids is None else ids
    nothing = torch.zeros(batch, length, dtype=torch.bool)
    sinks = nothing.clone() if ids is None else ids == 0
    sinks[:, 0] = True
    frequent = nothing if ids is None else ids % 2 == 0
    return Marks(kinds, sinks, frequent, token_keys(torch.arange(first, first + batch), length, seed=0))


def collect(hidden: Tensor, metrics: str | list[str] = "all", batch: int = 2) -> list[LayerStatistics]:
    """Statistics of hidden states [texts, layers, tokens, features], seen in batches."""
    statistics = collectors(choose_metrics(metrics), hidden.shape[1], one_length=True)
    for layer, collected in enumerate(statistics):
        for start in range(0, len(hidden), batch):
            part = hidden[start : start + batch, layer]
            collected.update(part, marks=marks_of(part, start))
    return statistics


def sums_of(hidden: Tensor, marks: Marks | None = None, mask: Tensor | None = None) -> TextSums:
    """All sums of texts [texts, tokens, features] of one layer."""
    (statistics,) = collectors(choose_metrics("all"), 1, one_length=True)
    statistics.update(hidden, mask, marks or marks_of(hidden))
    return statistics.texts()
