"""The processes that a launcher started (torchrun, accelerate launch) in, one group of them out. Without a launcher there is one process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from decondense.errors import UserError
from decondense.ranks import rank, world


@contextmanager
def joined() -> Iterator[bool]:
    """Join the processes of the launcher for the block; gives whether this is the first, which alone writes and prints.

    The group is gloo's: results are exchanged, not gradients.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield rank() == 0
        return
    if not (dist.is_available() and dist.is_gloo_available()):
        raise UserError(
            "several processes were started, and this build of torch cannot exchange results (no gloo): start one"
        )
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    # transformers would load weights on one process alone for accelerate (--use_fsdp) to hand on; here each loads its own.
    os.environ.pop("FSDP_CPU_RAM_EFFICIENT_LOADING", None)
    # The first process may tokenise for hours while the others wait.
    dist.init_process_group("gloo", timeout=timedelta(days=1))
    try:
        yield rank() == 0
    finally:
        dist.destroy_process_group()


def together() -> None:
    """Wait until all processes are here."""
    if world() > 1:
        dist.barrier()
