"""Rows of the table that are no sum over pairs: a function of all vectors of a group. A new one is added here and nowhere else."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from decondense.draws import random_directions
from decondense.losses.row import AUTHORS, Formulation, Settings
from decondense.losses.transforms import centred_tokens, deviations, standardised_features, unit_tokens
from decondense.shapes import Bool, Float


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


def anisotropy(
    vectors: Float[Tensor, "group size features"], valid: Bool[Tensor, "group size"], settings: Settings
) -> Float[Tensor, " group"]:
    # IsoScore reads the spectrum through its trace and its norm alone, so no eigenvalue is computed: with r = tr C / ||C||_F,
    # IsoScore = (r^2 - 1) / (F - 1). Derived in the documentation of the losses.
    features = vectors.shape[2]
    moment = vectors.mT @ vectors if features <= vectors.shape[1] else vectors @ vectors.mT
    norm = moment.square().sum(dim=(1, 2))
    trace = vectors.square().sum(dim=(1, 2))
    rank = trace.square() / norm.masked_fill(norm == 0, 1.0)
    return 1 - (rank - 1) / max(features - 1, 1)


# The integral of Epps and Pulley's test by the trapezoid rule, as LeJEPA has it: the integrand is even and falls as exp(-t^2 / 2).
KNOTS, LAST_KNOT, PROJECTIONS = 17, 5.0, 64


def distance_to_normal(
    vectors: Float[Tensor, "group features size"], valid: Bool[Tensor, "group size"], settings: Settings
) -> Float[Tensor, " group"]:
    features = vectors.shape[1]
    tokens = valid.sum(dim=1).to(vectors.dtype).clamp(min=1)
    directions = random_directions(features, PROJECTIONS, 0, settings.step, settings.layer, vectors.device)
    # `standardised_features` gives rows of length one: variance one is sqrt(L - 1) of that.
    projected = vectors.mT @ directions.to(vectors.dtype) * (tokens - 1).clamp(min=0).sqrt()[:, None, None]
    knots = torch.linspace(0, LAST_KNOT, KNOTS, dtype=vectors.dtype, device=vectors.device)
    weights = torch.full_like(knots, 2 * LAST_KNOT / (KNOTS - 1))
    weights[[0, -1]] /= 2
    normal = (-0.5 * knots.square()).exp()
    value = torch.zeros_like(tokens)
    for knot, weight, expected in zip(knots, weights * normal / math.sqrt(2 * math.pi), normal, strict=True):
        phase = projected * knot
        real = (phase.cos() * valid[..., None]).sum(dim=1) / tokens[:, None]
        imaginary = (phase.sin() * valid[..., None]).sum(dim=1) / tokens[:, None]
        value = value + weight * ((real - expected).square() + imaginary.square()).mean(dim=1)
    return value


WHOLE_ROWS = [
    Formulation(
        name="perplexity_entropy",
        formula="-mean_i H_i, H_i = -sum_j p_j|i log2(p_j|i + epsilon), p_j|i = softmax_{j != i}(-||z_i - z_j||^2 / t)",
        source=AUTHORS,
        transform=centred_tokens,
        function=negative_neighbour_entropy,
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
    Formulation(
        name="isoscore",
        formula="1 - IsoScore* = 1 - (r^2 - 1) / (F - 1), r = tr C / ||C||_F, C the covariance of the tokens",
        source="Rudman & Eickhoff 2024, I-STAR, arXiv 2305.19358; without shrinkage",
        transform=deviations,
        function=anisotropy,
    ),
    Formulation(
        name="sigreg",
        formula="mean_a int |mean_i exp(i t a.x_i) - exp(-t^2/2)|^2 N(t; 0, 1) dt, x standardised, a random directions",
        source="Balestriero & LeCun 2025, LeJEPA, arXiv 2511.08544; Epps & Pulley 1983, divided by L",
        transform=standardised_features,
        function=distance_to_normal,
    ),
]
