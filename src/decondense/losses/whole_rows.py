"""Rows of the table that are no sum over pairs: a function of all vectors of a group. A new one is added here and nowhere else."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from decondense.losses.row import AUTHORS, Formulation, Settings, centred_tokens, unit_tokens
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
]
