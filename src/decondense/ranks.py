"""Which process of a launcher this is, and of how many; alone where none was started. Knows no group but the default one."""

from __future__ import annotations

import torch.distributed as dist


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
