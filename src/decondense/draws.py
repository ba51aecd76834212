"""Seed, step and layer in, random numbers out: counter-based, so that no generator holds a state and a recomputed pass draws the same."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from decondense.shapes import Float, Int


def random_keys(count: int, seed: int, step: int | Tensor, layer: int, device: torch.device) -> Int[Tensor, " count"]:
    """`count` pseudo-random integers below 2^32 that depend on (seed, step, layer) and the position alone.

    No generator holds a state, so a forward pass that is recomputed draws the same again. `step` may be a tensor on the device.
    """
    state = torch.zeros((), dtype=torch.int64, device=device)
    for part in (seed, step, layer, torch.arange(count, device=device)):
        state = _mix(state + part + 0x9E3779B9)
    return state


def _mix(value: Tensor) -> Tensor:
    """Wellons' 32-bit integer mixer with the least known bias ("lowbias32"), in 64-bit integers."""
    value = value & 0xFFFFFFFF
    value = ((value ^ (value >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    value = ((value ^ (value >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return value ^ (value >> 16)


def random_directions(
    features: int, count: int, seed: int, step: int | Tensor, layer: int, device: torch.device
) -> Float[Tensor, "features count"]:
    """`count` directions that are uniform on the sphere, as unit columns: normal numbers (Box & Muller 1958) scaled to length one."""
    keys = random_keys(2 * features * count, seed, step, layer, device).double()
    # In (0, 1): the logarithm of 0 is never asked for.
    uniform = ((keys + 0.5) / 2**32).view(2, features, count)
    normal = (-2 * uniform[0].log()).sqrt() * (2 * math.pi * uniform[1]).cos()
    return normal / torch.linalg.vector_norm(normal, dim=0, keepdim=True)


def token_keys(texts: Int[Tensor, " batch"], length: int, seed: int) -> Int[Tensor, "batch length"]:
    """Pseudo-random priorities below 2^32 of the tokens of numbered texts: they follow from (seed, text, position), whatever batch a text is in."""
    position = torch.arange(length, device=texts.device)
    state = torch.zeros((), dtype=torch.int64, device=texts.device)
    for part in (seed, texts[:, None], position):
        state = _mix(state + part + 0x9E3779B9)
    return state
