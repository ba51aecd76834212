"""Table of formulations: one row a loss, and nothing else needs to change where a row is added.

A row knows token vectors and settings. It does not know batches, masks of padding beyond `valid`, documents, or which pairs are taken:
`pairs.py` brings the tokens of a sequence (or a random part of them) as one group, `engine.py` sums over the pairs of a group.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from decondense.shapes import Bool, Float
from decondense.sums import unit


@dataclass(frozen=True)
class Settings:
    """The numbers of `DispersionLoss` that a formulation may read."""

    temperature: float = 1.0
    clamp: float = 0.1
    epsilon: float = 1e-2
    margin: float = 0.5


Transform = Callable[[Tensor, Tensor, Settings], Tensor]
"""(tokens [group, size, features], valid [group, size], settings) -> vectors [group, items, width], zero where not valid."""

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
        transform: tokens -> vectors.
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


# --- transforms ---------------------------------------------------------------------------------------------------------------------


def unit_tokens(
    tokens: Float[Tensor, "group size features"], valid: Bool[Tensor, "group size"], settings: Settings
) -> Float[Tensor, "group size features"]:
    return unit(tokens, settings.epsilon)


def centred_tokens(
    tokens: Float[Tensor, "group size features"], valid: Bool[Tensor, "group size"], settings: Settings
) -> Float[Tensor, "group size features"]:
    # Distances do not see a common shift, so the centre is a constant; without it ||u_i||^2 + ||u_j||^2 - 2 c_ij would cancel in a narrow cone.
    count = valid.sum(dim=1).clamp(min=1)[:, None, None]
    return (tokens - tokens.detach().sum(dim=1, keepdim=True) / count) * valid[..., None]


def standardised_tokens(
    tokens: Float[Tensor, "group size features"], valid: Bool[Tensor, "group size"], settings: Settings
) -> Float[Tensor, "group size features"]:
    """Tokens with mean 0 and unbiased variance 1 over their features, scaled so that inner products are correlations."""
    width = tokens.shape[-1]
    centred = tokens - tokens.mean(dim=-1, keepdim=True)
    deviation = torch.linalg.vector_norm(centred, dim=-1, keepdim=True) / math.sqrt(max(width - 1, 1))
    return centred / deviation.masked_fill(deviation == 0, 1.0) / math.sqrt(max(width - 1, 1))


def standardised_features(
    tokens: Float[Tensor, "group size features"], valid: Bool[Tensor, "group size"], settings: Settings
) -> Float[Tensor, "group features size"]:
    """Features with mean 0 and unbiased variance 1 over the valid tokens, scaled so that inner products are correlations."""
    count = valid.sum(dim=1)[:, None, None].to(tokens.dtype)
    centred = (tokens - tokens.sum(dim=1, keepdim=True) / count.clamp(min=1)) * valid[..., None]
    freedom = (count - 1).clamp(min=1).sqrt()
    deviation = torch.linalg.vector_norm(centred, dim=1, keepdim=True) / freedom
    # A constant feature has no correlation with any other: it stays zero.
    return (centred / deviation.masked_fill(deviation == 0, 1.0) / freedom).mT


# --- functions of a pair ------------------------------------------------------------------------------------------------------------


def angle(cosine: Tensor, settings: Settings) -> Tensor:
    """Angle as a share of pi: arccos(c) / pi inside the clamp; outside its value stays, and its slope stays that of the boundary."""
    bound = 1 - settings.clamp
    inside = cosine.clamp(-bound, bound)
    slope = -1 / math.sqrt(1 - bound * bound)
    # Adds nothing to the value; the slope that `clamp` takes away beyond the boundary comes back here.
    straight_through = torch.where(cosine.abs() > bound, slope * (cosine - cosine.detach()), 0.0)
    return (torch.acos(inside) + straight_through) / math.pi


def angle_slope(cosine: Tensor, settings: Settings) -> Tensor:
    bound = 1 - settings.clamp
    inside = cosine.clamp(-bound, bound)
    return (1 - inside * inside).rsqrt() / -math.pi


def angle_curvature(cosine: Tensor, settings: Settings) -> Tensor:
    # Beyond the clamp the slope is that of the boundary, a constant.
    slope = angle_slope(cosine, settings)
    return torch.where(cosine.abs() > 1 - settings.clamp, 0.0, cosine * math.pi**2 * slope**3)


def negative_angle(cosine: Tensor, settings: Settings) -> Tensor:
    return angle(cosine, settings) / -settings.temperature


def negative_angle_slope(cosine: Tensor, settings: Settings) -> Tensor:
    return angle_slope(cosine, settings) / -settings.temperature


def negative_angle_curvature(cosine: Tensor, settings: Settings) -> Tensor:
    return angle_curvature(cosine, settings) / -settings.temperature


def negative_angle_bounds(settings: Settings) -> tuple[float, float]:
    least = math.acos(1 - settings.clamp) / math.pi
    return (least - 1) / settings.temperature, -least / settings.temperature


def acute_angle_squared(cosine: Tensor, settings: Settings) -> Tensor:
    return (0.5 - angle(cosine, settings)).clamp(min=0).square()


def acute_angle_squared_slope(cosine: Tensor, settings: Settings) -> Tensor:
    return -2 * (0.5 - angle(cosine, settings)).clamp(min=0) * angle_slope(cosine, settings)


def scaled(product: Tensor, settings: Settings) -> Tensor:
    return product / settings.temperature


def scaled_slope(product: Tensor, settings: Settings) -> Tensor:
    return torch.full_like(product, 1 / settings.temperature)


def scaled_bounds(settings: Settings) -> tuple[float, float]:
    return -1 / settings.temperature, 1 / settings.temperature


def zero(argument: Tensor, settings: Settings) -> Tensor:
    return torch.zeros_like(argument)


def negative_squared_distance(squared_distance: Tensor, settings: Settings) -> Tensor:
    return squared_distance / -settings.temperature


def negative_squared_distance_slope(squared_distance: Tensor, settings: Settings) -> Tensor:
    return torch.full_like(squared_distance, -1 / settings.temperature)


def twice_negative_squared_distance(squared_distance: Tensor, settings: Settings) -> Tensor:
    return squared_distance * (-2 / settings.temperature)


def twice_negative_squared_distance_slope(squared_distance: Tensor, settings: Settings) -> Tensor:
    return torch.full_like(squared_distance, -2 / settings.temperature)


def twice_negative_squared_distance_bounds(settings: Settings) -> tuple[float, float]:
    return -8 / settings.temperature, 0.0


def square(product: Tensor, settings: Settings) -> Tensor:
    return product.square()


def square_slope(product: Tensor, settings: Settings) -> Tensor:
    return 2 * product


def square_curvature(product: Tensor, settings: Settings) -> Tensor:
    return torch.full_like(product, 2.0)


def hinge_squared(cosine: Tensor, settings: Settings) -> Tensor:
    return (settings.margin + cosine).clamp(min=0).square()


def hinge_squared_slope(cosine: Tensor, settings: Settings) -> Tensor:
    return 2 * (settings.margin + cosine).clamp(min=0)


def tenth_of_mean_square(tokens: Float[Tensor, "group size features"]) -> Float[Tensor, "group size"]:
    return 0.1 * tokens.square().mean(dim=-1)


# --- functions of a whole group -----------------------------------------------------------------------------------------------------


def pair_distances(
    vectors: Float[Tensor, "group size width"], valid: Bool[Tensor, "group size"]
) -> Float[Tensor, "group size size"]:
    """Squared distances, infinite to a token itself and to what is no token."""
    products = vectors @ vectors.mT
    squares = vectors.square().sum(dim=-1)
    squared = (squares[:, :, None] + squares[:, None, :] - 2 * products).clamp(min=0)
    itself = torch.eye(vectors.shape[1], dtype=torch.bool, device=vectors.device)
    return squared.masked_fill(itself | ~valid[:, None, :], math.inf)


def negative_neighbour_entropy(
    vectors: Float[Tensor, "group size features"], valid: Bool[Tensor, "group size"], settings: Settings
) -> Float[Tensor, " group"]:
    logits = -pair_distances(vectors, valid) / settings.temperature
    # A token that stands alone has no neighbour: any finite row keeps its softmax defined, and the mean leaves it out.
    paired = valid & (valid.sum(dim=1, keepdim=True) > 1)
    probability = torch.softmax(torch.where(paired[:, :, None], logits, 0.0), dim=-1)
    entropy = -(probability * torch.log2(probability + settings.epsilon)).sum(dim=-1)
    return -(entropy * valid).sum(dim=1) / valid.sum(dim=1).clamp(min=1)


def negative_coding_rate(
    vectors: Float[Tensor, "group size features"], valid: Bool[Tensor, "group size"], settings: Settings
) -> Float[Tensor, " group"]:
    _, size, features = vectors.shape
    # det(I + a U^T U) = det(I + a U U^T): the smaller of the two matrices will do.
    moment = vectors.mT @ vectors if features <= size else vectors @ vectors.mT
    tokens = valid.sum(dim=1).clamp(min=1).to(vectors.dtype)
    scale = features / (tokens * 0.5)
    identity = torch.eye(moment.shape[-1], dtype=vectors.dtype, device=vectors.device)
    factor, _ = torch.linalg.cholesky_ex(identity + scale[:, None, None] * moment)
    return -factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1) / features


def negative_log_nearest_distance(
    vectors: Float[Tensor, "group size features"], valid: Bool[Tensor, "group size"], settings: Settings
) -> Float[Tensor, " group"]:
    # The neighbour is looked up in the Gram matrix, its distance computed directly: near tokens would cancel there.
    nearest = pair_distances(vectors.detach(), valid).argmin(dim=-1)
    neighbour = torch.gather(vectors, 1, nearest[..., None].expand_as(vectors))
    distance = torch.linalg.vector_norm(vectors - neighbour, dim=-1).clamp(min=1e-8)
    return -(distance.log() * valid).sum(dim=1) / valid.sum(dim=1).clamp(min=1)


# --- the table ----------------------------------------------------------------------------------------------------------------------

PAPER = "Dispersion loss counteracts embedding condensation in small language models, ICML 2026, arXiv 2602.00217, Table 1"
WANG_HE = "Wang & He 2025, Diffuse and Disperse, arXiv 2506.09027"

_ROWS = [
    Formulation(
        name="dispersion",
        formula="log mean_{i != j} exp(-theta_ij / t), theta_ij = arccos(clamp(c_ij)) / pi, u = z / (||z|| + epsilon)",
        source=PAPER,
        transform=unit_tokens,
        pair=negative_angle,
        slope=negative_angle_slope,
        logit_bounds=negative_angle_bounds,
        curvature=negative_angle_curvature,
        aggregate="log_mean_exp",
    ),
    Formulation(
        name="l2_repel",
        formula="log mean_{i, j} exp(-||z_i - z_j||^2 / t) + 0.1 mean(z^2)",
        source=PAPER,
        transform=centred_tokens,
        pair=negative_squared_distance,
        slope=negative_squared_distance_slope,
        aggregate="log_mean_exp",
        diagonal=True,
        distances=True,
        penalty=tenth_of_mean_square,
    ),
    Formulation(
        name="orthogonalization",
        formula="mean_{i != j} max(0, 1/2 - theta_ij)^2",
        source=PAPER,
        transform=unit_tokens,
        pair=acute_angle_squared,
        slope=acute_angle_squared_slope,
    ),
    Formulation(
        name="decorrelation",
        formula="mean_{m != n} corr_mn^2 over features, standardised over tokens",
        source=PAPER,
        transform=standardised_features,
        pair=square,
        slope=square_slope,
        curvature=square_curvature,
        features=True,
    ),
    Formulation(
        name="decorrelation_tokens",
        formula="mean_{i != j} corr_ij^2 over tokens, standardised over features",
        source="the code of the paper's authors, where it stands for decorrelation",
        transform=standardised_tokens,
        pair=square,
        slope=square_slope,
        curvature=square_curvature,
    ),
    Formulation(
        name="infonce_cosine",
        formula="log mean_{i, j} exp(c_ij / t)",
        source=WANG_HE,
        transform=unit_tokens,
        pair=scaled,
        slope=scaled_slope,
        logit_bounds=scaled_bounds,
        curvature=zero,
        aggregate="log_mean_exp",
        diagonal=True,
    ),
    Formulation(
        name="infonce_l2",
        formula="log mean_{i, j} exp(-||z_i - z_j||^2 / t)",
        source=WANG_HE,
        transform=centred_tokens,
        pair=negative_squared_distance,
        slope=negative_squared_distance_slope,
        aggregate="log_mean_exp",
        diagonal=True,
        distances=True,
    ),
    Formulation(
        name="hinge_cosine",
        formula="mean_{i, j} max(0, margin + c_ij)^2",
        source=WANG_HE,
        transform=unit_tokens,
        pair=hinge_squared,
        slope=hinge_squared_slope,
        diagonal=True,
    ),
    Formulation(
        name="perplexity_entropy",
        formula="-mean_i H_i, H_i = -sum_j p_j|i log2(p_j|i + epsilon), p_j|i = softmax_{j != i}(-||z_i - z_j||^2 / t)",
        source="the code of the paper's authors",
        transform=centred_tokens,
        function=negative_neighbour_entropy,
    ),
    Formulation(
        name="covariance",
        formula="sum_{m, n} corr_mn^2 over features, standardised over tokens",
        source=WANG_HE,
        transform=standardised_features,
        pair=square,
        slope=square_slope,
        curvature=square_curvature,
        aggregate="sum",
        diagonal=True,
        features=True,
    ),
    Formulation(
        name="uniformity",
        formula="log mean_{i != j} exp(-2 ||u_i - u_j||^2 / t)",
        source="Wang & Isola 2020, arXiv 2005.10242",
        transform=unit_tokens,
        pair=twice_negative_squared_distance,
        slope=twice_negative_squared_distance_slope,
        logit_bounds=twice_negative_squared_distance_bounds,
        curvature=zero,
        aggregate="log_mean_exp",
        distances=True,
    ),
    Formulation(
        name="frame_potential",
        formula="mean_{i != j} c_ij^2",
        source="Benedetto & Fickus 2003, Finite normalized tight frames",
        transform=unit_tokens,
        pair=square,
        slope=square_slope,
        curvature=square_curvature,
    ),
    Formulation(
        name="effective_rank",
        formula="log (1/L^2) sum_{i, j} c_ij^2 = -log of the participation ratio of U^T U / L",
        source="decondense; the Renyi-2 effective rank of the second moment, negative and in logarithm",
        transform=unit_tokens,
        pair=square,
        slope=square_slope,
        curvature=square_curvature,
        aggregate="log_mean",
        diagonal=True,
    ),
    Formulation(
        name="coding_rate",
        formula="-1/2 log det(I + F / (L e^2) U^T U) / F, e^2 = 1/2",
        source="Yu et al. 2020, maximal coding rate reduction, arXiv 2006.08558",
        transform=unit_tokens,
        function=negative_coding_rate,
    ),
    Formulation(
        name="koleo",
        formula="-mean_i log max(min_j ||u_i - u_j||, 1e-8)",
        source="Sablayrolles et al. 2019, arXiv 1806.03198; DINOv2",
        transform=unit_tokens,
        function=negative_log_nearest_distance,
    ),
]

FORMULATIONS: dict[str, Formulation] = {row.name: row for row in _ROWS}
