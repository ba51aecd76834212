"""Tokens in, the vectors whose pairs are taken out; and gradients by the vectors back to gradients by the tokens. Knows no pair function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from decondense.shapes import Bool, Float
from decondense.sums import unit

if TYPE_CHECKING:
    from decondense.losses.row import Settings


@dataclass(frozen=True)
class Transform:
    """What is done to tokens before their pairs are taken, and its backward pass.

    Attributes:
        name: of the transform.
        forward: (tokens [group, size, features], valid [group, size], settings) -> vectors [group, items, width], zero where not valid.
        backward: (tokens, valid, gradient by the vectors, settings) -> gradient by the tokens. It is written out, so that engines that keep no graph
            can use it; None where a row is only run by the eager engine.
        tokenwise: each token's vector depends on that token alone, so that a group can be gone through in pieces.
    """

    name: str
    forward: Callable[[Tensor, Tensor, Settings], Tensor]
    backward: Callable[[Tensor, Tensor, Tensor, Settings], Tensor] | None = None
    tokenwise: bool = False

    def __call__(self, tokens: Tensor, valid: Tensor, settings: Settings) -> Tensor:
        return self.forward(tokens, valid, settings)


def _pull_unit(vectors: Tensor, pull: Tensor, epsilon: float, dim: int = -1) -> Tensor:
    """Backward pass of u = z s, s = 1 / (||z|| + epsilon), whose gradient is -s^2 z / ||z||: it takes away what points along z."""
    norm = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    length = norm + epsilon
    scale = 1 / length.masked_fill(length == 0, 1.0)
    along = (pull * vectors).sum(dim=dim, keepdim=True)
    inward = along * scale.square() / norm.masked_fill(norm == 0, 1.0)
    return (pull * scale).addcmul_(vectors, inward, value=-1)


def _unit(tokens: Tensor, valid: Tensor, settings: Settings) -> Tensor:
    return unit(tokens, settings.epsilon)


def _pull_back_unit(tokens: Tensor, valid: Tensor, pull: Tensor, settings: Settings) -> Tensor:
    return _pull_unit(tokens, pull, settings.epsilon)


unit_tokens = Transform("unit_tokens", _unit, _pull_back_unit, tokenwise=True)


def _centre(tokens: Tensor, valid: Tensor, settings: Settings) -> Tensor:
    # Distances do not see a common shift, so the centre is a constant; without it ||u_i||^2 + ||u_j||^2 - 2 c_ij would cancel in a narrow cone.
    return _less_mean_of_tokens(tokens, valid, tokens.detach())


def _less_mean_of_tokens(tokens: Tensor, valid: Tensor, counted: Tensor) -> Tensor:
    count = valid.sum(dim=1).clamp(min=1)[:, None, None]
    return (tokens - counted.sum(dim=1, keepdim=True) / count) * valid[..., None]


def _pull_back_centre(tokens: Tensor, valid: Tensor, pull: Tensor, settings: Settings) -> Tensor:
    return pull * valid[..., None]


centred_tokens = Transform("centred_tokens", _centre, _pull_back_centre)


def _deviate(tokens: Tensor, valid: Tensor, settings: Settings) -> Tensor:
    return _less_mean_of_tokens(tokens, valid, tokens)


# Where the value depends on the mean too (through second derivatives at least) it is no constant.
deviations = Transform("deviations", _deviate)


def _standardise_tokens(
    tokens: Float[Tensor, "group size features"], valid: Bool[Tensor, "group size"], settings: Settings
) -> Float[Tensor, "group size features"]:
    """Tokens with mean 0 over their features and length 1: their inner products are correlations; a constant token is zero."""
    return unit(tokens - tokens.mean(dim=-1, keepdim=True))


def _pull_back_standardised_tokens(tokens: Tensor, valid: Tensor, pull: Tensor, settings: Settings) -> Tensor:
    pull = _pull_unit(tokens - tokens.mean(dim=-1, keepdim=True), pull, 0.0)
    return pull - pull.mean(dim=-1, keepdim=True)


standardised_tokens = Transform(
    "standardised_tokens", _standardise_tokens, _pull_back_standardised_tokens, tokenwise=True
)


def _standardise_features(
    tokens: Float[Tensor, "group size features"], valid: Bool[Tensor, "group size"], settings: Settings
) -> Float[Tensor, "group features size"]:
    """Features with mean 0 over the valid tokens and length 1: their inner products are correlations; a constant feature is zero."""
    return unit(_less_mean_of_tokens(tokens, valid, tokens).mT)


def _pull_back_standardised_features(tokens: Tensor, valid: Tensor, pull: Tensor, settings: Settings) -> Tensor:
    pull = _pull_unit(_less_mean_of_tokens(tokens, valid, tokens), pull.mT, 0.0, dim=1) * valid[..., None]
    return _less_mean_of_tokens(pull, valid, pull)


standardised_features = Transform("standardised_features", _standardise_features, _pull_back_standardised_features)
