"""A sample of a layer's tokens in, what does not add up over texts out: its spectrum, its intrinsic dimension, its likeness to other layers.

All are of a cloud of at most a few hundred tokens, in float64. Matrices are of the smaller of the two sides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from decondense.shapes import Float
from decondense.sums import unit

SAMPLE_TOKENS = 512
"""Tokens of the sample: as many as a text has in the paper, so that over one text the numbers are those of the text."""

DISCARDED = 0.1
"""Share of the largest ratios that TwoNN leaves out (Facco et al. 2017)."""


class Cloud:
    """Vectors of a layer's sampled tokens, [tokens, features]; eigenvalues and the like are computed once."""

    def __init__(self, vectors: Float[Tensor, "tokens features"]) -> None:
        self.vectors = vectors.double()

    @cached_property
    def singular_values(self) -> Float[Tensor, " values"]:
        """Singular values of the vectors as they are, falling."""
        return _singular_values(self.vectors)

    @cached_property
    def gram(self) -> Float[Tensor, "tokens tokens"]:
        """Inner products of the vectors less their mean."""
        centred = self.vectors - self.vectors.mean(dim=0)
        return centred @ centred.T


def maximum_explainable_variance(cloud: Cloud) -> float:
    """sigma_1^2 / sum sigma^2: the share that one direction explains; 1 where all vectors are parallel."""
    squares = cloud.singular_values.square()
    return _ratio(squares[0], squares.sum())


def singular_value_entropy(cloud: Cloud) -> float:
    """-sum p log p, p = sigma / sum sigma, in nats; 0 where all vectors are parallel."""
    return _entropy(cloud.singular_values)


def effective_rank_entropy(cloud: Cloud) -> float:
    """exp of the entropy of p = sigma / sum sigma, sigma the singular values of the unit vectors; from 1 to min(tokens, features)."""
    return math.exp(_entropy(_singular_values(unit(cloud.vectors))))


def high_low_ratio_spectral(cloud: Cloud) -> float:
    """||X - mean||_2 / ||mean part||_2: the largest singular value about the mean over sqrt(tokens) ||mean||."""
    low = math.sqrt(len(cloud.vectors)) * torch.linalg.vector_norm(cloud.vectors.mean(dim=0))
    return _ratio(_singular_values(cloud.vectors - cloud.vectors.mean(dim=0))[0], low)


def isoscore(cloud: Cloud) -> float:
    """IsoScore of the covariance C of F features: (r^2 - 1) / (F - 1), r = tr C / ||C||_F; 1 where all eigenvalues are equal."""
    features = cloud.vectors.shape[1]
    # tr C and ||C||_F are those of the matrix of inner products, up to one factor.
    ratio = _ratio(cloud.gram.trace().square(), cloud.gram.square().sum())
    return (ratio - 1) / (features - 1) if features > 1 else math.nan


def intrinsic_dimension(cloud: Cloud) -> float:
    """TwoNN: the slope of -log(1 - F(mu)) over log mu through 0, mu a token's ratio of the distances to its two nearest; F their ranks.

    Coinciding tokens count once, and the largest tenth of the ratios is left out. NaN for fewer than ten different tokens.
    """
    different = torch.unique(cloud.vectors, dim=0)
    if len(different) < 10:
        return math.nan
    centred = different - different.mean(dim=0)
    products = centred @ centred.T
    squares = products.diagonal()
    distances = (squares[:, None] + squares - 2 * products).clamp(min=0).sqrt().fill_diagonal_(math.inf)
    nearest = distances.topk(2, dim=1, largest=False).values
    nearest = nearest[nearest[:, 0] > 0]
    logs = (nearest[:, 1] / nearest[:, 0]).log().sort().values
    kept = int(len(logs) * (1 - DISCARDED))
    height = -torch.log1p(-torch.arange(1, kept + 1, dtype=torch.float64) / len(logs))
    return _ratio((logs[:kept] * height).sum(), logs[:kept].square().sum())


def similarity(clouds: Sequence[Cloud]) -> Float[Tensor, "layers layers"]:
    """Linear CKA of each two layers, of the same tokens: HSIC(i, j) / sqrt(HSIC(i, i) HSIC(j, j)), unbiased; about 0 for independent layers.

    The biased form comes near 1 where there are more features than tokens, whatever the layers (Nguyen et al. 2021); this is Song et al.'s
    estimator of HSIC. NaN for fewer than four tokens.
    """
    tokens = len(clouds[0].vectors)
    if tokens < 4:
        return torch.full((len(clouds), len(clouds)), math.nan, dtype=torch.float64)
    # HSIC does not see a common shift; about the mean float64 keeps more digits.
    grams = torch.stack([cloud.gram for cloud in clouds])
    grams.diagonal(dim1=1, dim2=2).zero_()
    rows = grams.sum(dim=2)
    totals = rows.sum(dim=1)
    flat = grams.flatten(1)
    products = flat @ flat.T - 2 / (tokens - 2) * rows @ rows.T
    products += totals[:, None] * totals / ((tokens - 1) * (tokens - 2))
    own = products.diagonal().clamp(min=0).sqrt()
    scale = own[:, None] * own
    return torch.where(scale > 0, products / scale.masked_fill(scale == 0, 1.0), math.nan)


def _singular_values(matrix: Float[Tensor, "tokens features"]) -> Float[Tensor, " values"]:
    tokens, features = matrix.shape
    product = matrix @ matrix.T if tokens <= features else matrix.T @ matrix
    return torch.linalg.eigvalsh(product).clamp(min=0).flip(0).sqrt()


def _entropy(values: Float[Tensor, " values"]) -> float:
    if not values.sum() > 0:
        return math.nan
    return float(torch.special.entr(values / values.sum()).sum())


def _ratio(numerator: Tensor, denominator: Tensor) -> float:
    return float(numerator / denominator) if denominator > 0 else math.nan
