"""Rows of the table that are sums over pairs: the function of a pair, its derivatives, and the row. A new one is added here and nowhere else."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from decondense.losses.row import AUTHORS, PAPER, WANG_HE, Formulation, Settings
from decondense.losses.transforms import centred_tokens, standardised_features, standardised_tokens, unit_tokens
from decondense.shapes import Float


def angle(cosine: Tensor, settings: Settings) -> Tensor:
    """Angle as a share of pi: arccos(c) / pi inside the clamp; outside its value stays, and its slope stays that of the boundary."""
    bound = 1 - settings.clamp
    inside = cosine.clamp(-bound, bound)
    if not cosine.requires_grad:  # of engines that have the slope from `angle_slope`
        return inside.acos_().div_(math.pi)
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


PAIR_ROWS = [
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
        source=f"{AUTHORS}, where it stands for decorrelation",
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
]
