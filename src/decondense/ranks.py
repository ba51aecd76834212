"""Which process of a launcher this is, and of how many; alone where none was started. Knows no group but the default one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from decondense.errors import UserError


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@contextmanager
def agreed() -> Iterator[None]:
    """All processes leave the block together; a `UserError` of any of them is raised by all, so that none waits for one that gave up.

    They must exchange nothing inside the block.
    """
    own: UserError | None = None
    try:
        yield
    except UserError as error:
        own = error
    told: list[str | None] = [None] * world()
    if len(told) > 1:
        dist.all_gather_object(told, None if own is None else str(own))
    if own is not None:
        raise own
    for line in told:
        if line is not None:
            raise UserError(line)
