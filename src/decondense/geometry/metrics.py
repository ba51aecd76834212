"""Sums of each text, or means of each layer, in; metrics by name out. Knows tensors, and scipy for ranks and draws."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from decondense.errors import UserError, choose, require
from decondense.geometry.statistics import LayerStatistics, TextSums
from decondense.shapes import Float


@dataclass(frozen=True)
class Metric:
    """One row of the table of metrics.

    Attributes:
        name: what `measure(metrics=[...])` and `Condensation.metrics` call it.
        formula: how it is computed; u_i are the unit vectors of a text's N tokens (a zero vector stays zero),
            c_ij = u_i . u_j.
        source: where it comes from.
        level: "text": computed for each text, then averaged over texts; "layers": computed from the layer means;
            "pairs": counts of cosines over all texts.
        needs: the sums over pairs that it takes: "pairs", "matrix", "squares", the arguments of `LayerStatistics`.
        paper: whether the paper reports it.
        of_texts: for a metric of level "text", the sums of the texts -> [texts] float64.
    """

    name: str
    formula: str
    source: str
    level: Literal["text", "layers", "pairs"]
    needs: frozenset[str] = frozenset()
    paper: bool = True
    of_texts: Callable[[TextSums], Tensor] | None = None


def mean_cosine(sums: TextSums) -> Float[Tensor, " texts"]:
    """Mean of the whole cosine matrix, diagonal included; no pair is formed, since sum c_ij = ||sum u_i||^2."""
    # The matrix is clipped to [-1, 1] by definition; a sum of rounded unit vectors may exceed 1 by a rounding error.
    return (sums.resultant / sums.tokens**2).clamp(max=1.0)


def mean_cosine_off_diagonal(sums: TextSums) -> Float[Tensor, " texts"]:
    """Mean of the cosines of different tokens, i != j."""
    return ((sums.resultant - sums.norms) / (sums.tokens * (sums.tokens - 1))).clamp(max=1.0)


def effective_rank(sums: TextSums) -> Float[Tensor, " texts"]:
    """Participation ratio of the second moment of the unit vectors; NaN for a text of which every vector is zero."""
    if sums.squares is None:
        raise UserError("effective_rank needs the sum of squared cosines: LayerStatistics(squares=True)")
    return torch.where(sums.squares > 0, sums.tokens**2 / sums.squares, math.nan)


_PAPER = "Dispersion loss counteracts embedding condensation in small language models, arXiv 2602.00217"

METRICS: dict[str, Metric] = {
    row.name: row
    for row in (
        Metric(
            name="mean_cosine",
            formula="sum of all c_ij / N^2 = ||sum u_i||^2 / N^2, diagonal included",
            source=_PAPER,
            level="text",
            of_texts=mean_cosine,
        ),
        Metric(
            name="mean_cosine_off_diagonal",
            formula="sum of c_ij over i != j / (N (N - 1)) = (||sum u_i||^2 - sum ||u_i||^2) / (N (N - 1))",
            source="Ethayarajh 2019, arXiv 1909.00512 (average similarity of different tokens)",
            level="text",
            of_texts=mean_cosine_off_diagonal,
        ),
        Metric(
            name="spearman",
            formula="Spearman's rho of the layers' mean cosine against their index (+1: ever more condensed)",
            source=_PAPER,
            level="layers",
        ),
        Metric(
            name="kendall",
            formula="Kendall's tau-b of the layers' mean cosine against their index",
            source=_PAPER,
            level="layers",
        ),
        Metric(
            name="histogram",
            formula="counts of all c_ij of all texts in 128 bins on [-1, 1], diagonal included",
            source="the paper's heatmap without averaging over texts first",
            level="pairs",
            needs=frozenset({"pairs"}),
        ),
        Metric(
            name="histogram_of_mean",
            formula="counts in 128 bins on [-1, 1] of the cosine matrix averaged over texts (of one length)",
            source=f"{_PAPER}: its heatmaps, as the authors' code draws them",
            level="pairs",
            needs=frozenset({"matrix"}),
        ),
        Metric(
            name="last_n",
            formula="for n = 1 ... layers, the mean of the mean cosine over the last n layers",
            source=_PAPER,
            level="layers",
        ),
        Metric(
            name="effective_rank",
            formula="(sum of all c_ij^2 / N^2)^-1 = (tr M)^2 / tr M^2 where M = U^T U / N and no vector is zero",
            source="participation ratio, or exponential of the Renyi-2 entropy, of the second moment's eigenvalues",
            level="text",
            needs=frozenset({"squares"}),
            paper=False,
            of_texts=effective_rank,
        ),
    )
}


def choose_metrics(metrics: str | Sequence[str]) -> tuple[str, ...]:
    """The names that "paper", "all", one name, or a list of names stand for; UserError at an unknown name.

    >>> choose_metrics(["effective_rank"])
    ('effective_rank',)
    """
    asked = [metrics] if isinstance(metrics, str) else list(metrics)
    if not asked:
        raise UserError(f'metrics=[] names no metric: give "paper", "all", or some of {", ".join(METRICS)}')
    names: list[str] = []
    for name in asked:
        if choose("metric", name, ["paper", "all", *METRICS]) in METRICS:
            names.append(name)
        else:
            names += [row.name for row in METRICS.values() if row.paper or name == "all"]
    return tuple(dict.fromkeys(names))


def collectors(names: Sequence[str], layers: int, one_length: bool) -> list[LayerStatistics]:
    """An empty `LayerStatistics` for each layer, which collects what the metrics of these names need and no more.

    Where texts are not of one length (`one_length`) they have no averaged matrix, and none is begun.

    >>> [statistics.pairs for statistics in collectors(["mean_cosine"], 2, one_length=True)]
    [False, False]
    """
    needs = frozenset[str]().union(*(METRICS[name].needs for name in names))
    matrix = "matrix" in needs and one_length
    return [LayerStatistics("pairs" in needs, matrix, "squares" in needs) for _ in range(layers)]


def rank_correlation(kind: Literal["spearman", "kendall"], layer_means: Float[Tensor, " layers"]) -> float:
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
    per_text: Float[Tensor, "texts layers"], seed: int, confidence: float = 0.95, resamples: int = 9999
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


def _mean(values: Any, axis: int) -> Any:
    return values.mean(axis=axis)
