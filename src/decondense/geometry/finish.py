"""Statistics of all layers in, what needs several layers or a sample of tokens out. A layer that was given up (None) is NaN, or zero in sums."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from decondense.geometry.metrics import METRICS
from decondense.geometry.spectrum import Cloud, similarity
from decondense.geometry.statistics import LayerStatistics

TOTALS = ("directions", "features", "positions", "at_position")
"""Sums over texts, by the name that `causes` gives them."""


def sample_metrics(statistics: Sequence[LayerStatistics | None], names: Sequence[str]) -> dict[str, Tensor]:
    """Those of the metrics `names` that are of the sample, float64 [layers]; "similarity" [layers, layers]."""
    wanted = [name for name in names if METRICS[name].level == "sample"]
    if not wanted:
        return {}
    vectors = [None if layer is None else layer.sample.vectors for layer in statistics]
    clouds = {layer: Cloud(found) for layer, found in enumerate(vectors) if found is not None}
    metrics: dict[str, Tensor] = {}
    for name in wanted:
        of_sample = METRICS[name].of_sample
        if of_sample is not None:
            metrics[name] = torch.full((len(vectors),), math.nan, dtype=torch.float64)
            for layer, cloud in clouds.items():
                metrics[name][layer] = of_sample(cloud)
    if "similarity" in wanted:
        metrics["similarity"] = torch.full((len(vectors), len(vectors)), math.nan, dtype=torch.float64)
        if clouds:
            places = torch.tensor(list(clouds))
            metrics["similarity"][places[:, None], places] = similarity(list(clouds.values()))
    return metrics


def totals(statistics: Sequence[LayerStatistics | None]) -> dict[str, Tensor]:
    """Sums over texts, float64 [layers, width] by name, padded with zeros to the widest layer; none where no layer has them."""
    found = {}
    for name in TOTALS:
        rows = [None if layer is None else layer.total(name) for layer in statistics]
        width = max((len(row) for row in rows if row is not None), default=0)
        if width:
            found[name] = torch.zeros(len(rows), width, dtype=torch.float64)
            for place, row in enumerate(rows):
                if row is not None:
                    found[name][place, : len(row)] = row
    return found
