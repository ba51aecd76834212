"""Values of single texts in, intervals of what is computed from their means out, by resampling texts. Knows no metric."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from decondense.errors import require
from decondense.shapes import Float

Ranks = Literal["spearman", "kendall"]
RESAMPLES = 9999


def rank_correlation(kind: Ranks, layer_means: Float[Tensor, " layers"]) -> float:
    """Correlation by rank of the layers' means with their index, in [-1, 1]; NaN for one layer or where all are equal.

    `scipy.stats.spearmanr` and `scipy.stats.kendalltau`, as in the paper.

    >>> rank_correlation("spearman", torch.tensor([0.1, 0.2, 0.4]).double())
    1.0
    """
    if len(layer_means) < 2 or not torch.isfinite(layer_means).all() or bool((layer_means == layer_means[0]).all()):
        return math.nan
    stats = require("scipy.stats", extra="hf")
    correlate = stats.spearmanr if kind == "spearman" else stats.kendalltau
    return float(correlate(range(len(layer_means)), layer_means.tolist()).statistic)


def bootstrap_interval(
    per_text: Float[Tensor, "texts layers"], seed: int, confidence: float = 0.95, resamples: int = RESAMPLES
) -> Float[Tensor, "layers 2"]:
    """Interval of each layer's mean over texts: [layers, 2], lower and upper end, float64.

    `scipy.stats.bootstrap` over texts, the same resamples for all layers; bias-corrected and accelerated (Efron 1987),
    or, where that is not defined (all texts give one value), the percentiles. NaN for one text, and in layers that hold
    NaN.
    """
    samples, layers = per_text.shape
    if samples < 2:
        return torch.full((layers, 2), math.nan, dtype=torch.float64)
    stats = require("scipy.stats", extra="hf")
    values = per_text.double().numpy()
    ends = []
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            # scipy warns where a layer's values are constant; exactly those layers take the percentiles.
            warnings.simplefilter("ignore")
            found = stats.bootstrap(
                (values,),
                _mean,
                axis=0,
                vectorized=True,
                method=method,
                confidence_level=confidence,
                n_resamples=resamples,
                batch=max(1, 2_000_000 // values.size),  # at most 16 MB of resampled values at a time
                rng=seed,
            )
        interval = torch.stack([torch.from_numpy(end) for end in found.confidence_interval], dim=1)
        ends.append(interval)
        if not torch.isnan(interval).any():
            return interval
    return torch.where(torch.isnan(ends[0]), ends[1], ends[0])


def rank_interval(
    kind: Ranks,
    per_text: Float[Tensor, "texts layers"],
    seed: int,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Interval of the rank correlation of layer means with the layer's index: percentiles over resampled texts.

    A correlation of ranks is bounded and has few values, so that corrections of the percentiles (BCa) are not defined for it. NaN for one text,
    for one layer, and where a value is NaN.
    """
    samples, layers = per_text.shape
    if samples < 2 or layers < 2 or not torch.isfinite(per_text).all():
        return math.nan, math.nan
    found = torch.cat([_rank_correlations(kind, means) for means in _resampled_means(per_text, seed, resamples)])
    tail = (1 - confidence) / 2
    low, high = found.nanquantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def _resampled_means(per_text: Float[Tensor, "texts layers"], seed: int, resamples: int) -> Iterator[Tensor]:
    """Layer means of resampled texts, [some, layers] at a time: the weights are how often each text was drawn."""
    samples = len(per_text)
    generator = torch.Generator().manual_seed(seed)
    at_once = max(1, 2_000_000 // samples)
    for start in range(0, resamples, at_once):
        drawn = torch.randint(samples, (min(at_once, resamples - start), samples), generator=generator)
        weights = torch.zeros(drawn.shape, dtype=torch.float64).scatter_add_(
            1, drawn, torch.ones(drawn.shape, dtype=torch.float64)
        )
        yield weights @ per_text.double() / samples


def _rank_correlations(kind: Ranks, means: Float[Tensor, "resamples layers"]) -> Float[Tensor, " resamples"]:
    """Of each row, `rank_correlation`; NaN where all of a row are equal."""
    layers = means.shape[1]
    if kind == "kendall":
        signs = (means[:, None, :] - means[:, :, None]).sign()
        later = torch.ones(layers, layers).triu(1).bool()
        concordant, untied = signs[:, later].sum(dim=1), signs[:, later].abs().sum(dim=1)
        return concordant / (untied * layers * (layers - 1) / 2).sqrt()
    ranks = torch.from_numpy(require("scipy.stats", extra="hf").rankdata(means.numpy(), axis=1))
    ranks = ranks - ranks.mean(dim=1, keepdim=True)
    index = torch.arange(layers, dtype=torch.float64)
    index = index - index.mean()
    return ranks @ index / (ranks.square().sum(dim=1) * index.square().sum()).sqrt()


def _mean(values: Any, axis: int) -> Any:
    return values.mean(axis=axis)
