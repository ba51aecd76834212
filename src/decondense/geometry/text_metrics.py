"""Sums of texts in, a number for each text out: the metrics of single texts, all finished in float64. Knows no table."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from decondense.errors import UserError
from decondense.geometry.statistics import TextSums
from decondense.shapes import Float


def mean_cosine(sums: TextSums) -> Float[Tensor, " texts"]:
    """Mean of the whole cosine matrix, diagonal included; no pair is formed, since sum c_ij = ||sum u_i||^2."""
    # The matrix is clipped to [-1, 1] by definition; a sum of rounded unit vectors may exceed 1 by a rounding error.
    return (sums.resultant / sums.tokens**2).clamp(max=1.0)


def mean_cosine_off_diagonal(sums: TextSums) -> Float[Tensor, " texts"]:
    """Mean of the cosines of different tokens, i != j."""
    return ((sums.resultant - sums.norms) / (sums.tokens * (sums.tokens - 1))).clamp(max=1.0)


def effective_rank(sums: TextSums) -> Float[Tensor, " texts"]:
    """Participation ratio of the second moment of the unit vectors; NaN for a text of which every vector is zero."""
    squares = given(sums.squares, "squares")
    return torch.where(squares > 0, sums.tokens**2 / squares, math.nan)


def mean_resultant_length(sums: TextSums) -> Float[Tensor, " texts"]:
    """Length of the mean unit vector: 0 spread evenly, 1 all in one direction."""
    return mean_cosine(sums).clamp(min=0).sqrt()


def uniformity(sums: TextSums) -> Float[Tensor, " texts"]:
    """Log of the mean Gaussian potential of different tokens; lower is more uniform, 0 is one point."""
    return (given(sums.closeness, "closeness") / (sums.tokens * (sums.tokens - 1))).log()


def norm_mean(sums: TextSums) -> Float[Tensor, " texts"]:
    """Mean length of the vectors as they are."""
    return given(sums.total_length, "lengths") / sums.tokens


def norm_variation(sums: TextSums) -> Float[Tensor, " texts"]:
    """Standard deviation of the lengths over their mean."""
    mean = norm_mean(sums)
    variance = given(sums.total_square, "lengths") / sums.tokens - mean**2
    return torch.where(mean > 0, variance.clamp(min=0).sqrt() / mean, math.nan)


def norm_max_over_mean(sums: TextSums) -> Float[Tensor, " texts"]:
    """Length of the longest vector over the mean length: massive activations show here."""
    mean = norm_mean(sums)
    return torch.where(mean > 0, given(sums.longest, "lengths") / mean, math.nan)


def high_low_ratio(sums: TextSums) -> Float[Tensor, " texts"]:
    """Frobenius norm of the vectors less their mean, over that of the mean part."""
    low = sums.tokens * given(sums.mean_square, "lengths")
    high = (given(sums.total_square, "lengths") - low).clamp(min=0)
    return torch.where(low > 0, (high / low).sqrt(), math.nan)


def given(sums: Tensor | None, need: str) -> Tensor:
    """The sums, or UserError where they were not collected."""
    if sums is None:
        raise UserError(f"the metric needs sums that were not collected: LayerStatistics({need}=True)")
    return sums
