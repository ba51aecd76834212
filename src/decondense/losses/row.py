"""What a row of the table of formulations is: its settings and its parts.

A row knows token vectors and settings. It does not know batches, padding beyond `valid`, documents, or which pairs are taken: `pairs.py` brings
the tokens of a sequence (or a random part of them) as one group, and an engine sums over the pairs of a group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from decondense.losses.transforms import Transform

PAPER = (
    "Dispersion loss counteracts embedding condensation in small language models, ICML 2026, arXiv 2602.00217, Table 1"
)
AUTHORS = "the code of the paper's authors"
WANG_HE = "Wang & He 2025, Diffuse and Disperse, arXiv 2506.09027"


@dataclass(frozen=True)
class Settings:
    """The numbers that a formulation may read: those of `DispersionLoss`, and the step and layer that a row draws random numbers from."""

    temperature: float = 1.0
    clamp: float = 0.1
    epsilon: float = 1e-2
    margin: float = 0.5
    step: int | Tensor = 0
    layer: int = 0


PairFunction = Callable[[Tensor, Settings], Tensor]
"""(inner products or squared distances of any shape, settings) -> the pair's value, or its logit under `log_mean_exp`."""

GroupFunction = Callable[[Tensor, Tensor, Settings], Tensor]
"""(vectors [group, size, features], valid [group, size], settings) -> value of each group [group]."""


@dataclass(frozen=True)
class Formulation:
    """One row of the table: transform the tokens, apply a function to each pair, aggregate over pairs.

    Attributes:
        name: the name that `DispersionLoss` takes.
        formula: the equation, with u the transformed tokens, c_ij = u_i . u_j, d_ij = ||u_i - u_j||, L tokens, F features, t the temperature.
        source: where the equation comes from.
        transform: tokens -> vectors, and back.
        pair: value (or logit) of a pair; None for a row that is no sum over pairs.
        slope: first derivative of `pair` by its argument; the blocked engine and `Moments` need it.
        curvature: second derivative of `pair`; where it is None the row has no expansion in moments (`pair` is not smooth, or reads distances of
            unbounded vectors).
        logit_bounds: lowest and highest logit that can occur under `log_mean_exp`; None where there are none.
        function: value of a whole group, for a row that is no sum over pairs.
        aggregate: `log_mean_exp` (pair gives logits), `log_mean`, `mean` or `sum`.
        diagonal: whether a token is also paired with itself.
        distances: whether `pair` reads squared distances in place of inner products.
        features: whether the vectors that are paired are the features (over tokens) in place of the tokens.
        penalty: a further term of each token [group, size], averaged over the tokens of the sequence and added.
    """

    name: str
    formula: str
    source: str
    transform: Transform
    pair: PairFunction | None = None
    slope: PairFunction | None = None
    curvature: PairFunction | None = None
    logit_bounds: Callable[[Settings], tuple[float, float]] | None = None
    function: GroupFunction | None = None
    aggregate: Literal["log_mean_exp", "log_mean", "mean", "sum"] = "mean"
    diagonal: bool = False
    distances: bool = False
    features: bool = False
    penalty: Callable[[Tensor], Tensor] | None = None
