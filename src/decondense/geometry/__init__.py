"""Hidden states in, statistics of their geometry out. Knows tensors only: no model, no text, no file."""

from decondense.geometry.causes import Marks
from decondense.geometry.diagnosis import Diagnosis, diagnose
from decondense.geometry.metrics import METRICS, Metric, choose_metrics, collectors
from decondense.geometry.spectrum import Cloud, similarity
from decondense.geometry.statistics import LayerStatistics, NotFinite, TextSums, count_cosines, histogram_of_mean
from decondense.geometry.uncertainty import bootstrap_interval, rank_correlation, rank_interval

__all__ = [
    "METRICS",
    "Cloud",
    "Diagnosis",
    "LayerStatistics",
    "Marks",
    "Metric",
    "NotFinite",
    "TextSums",
    "bootstrap_interval",
    "choose_metrics",
    "collectors",
    "count_cosines",
    "diagnose",
    "histogram_of_mean",
    "rank_correlation",
    "rank_interval",
    "similarity",
]
