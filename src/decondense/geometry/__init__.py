"""Hidden states in, statistics of their geometry out. Knows tensors only: no model, no text, no file."""

from decondense.geometry.metrics import (
    METRICS,
    Metric,
    bootstrap_interval,
    choose_metrics,
    collectors,
    rank_correlation,
)
from decondense.geometry.statistics import LayerStatistics, NotFinite, TextSums, count_cosines, histogram_of_mean

__all__ = [
    "METRICS",
    "LayerStatistics",
    "Metric",
    "NotFinite",
    "TextSums",
    "bootstrap_interval",
    "choose_metrics",
    "collectors",
    "count_cosines",
    "histogram_of_mean",
    "rank_correlation",
]
