"""A function and a folder in, what its processes found together out. Knows no test."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def found_by_ranks(work: Callable[[int, int], Any], folder: Path, ranks: int = 2) -> Any:
    """What `work(rank, ranks)` gives in the last of processes that form a group (gloo); they meet in a file in `folder`."""
    results = torch.multiprocessing.get_context("spawn").SimpleQueue()
    processes = torch.multiprocessing.start_processes(
        _join, (ranks, f"file://{folder / 'meeting'}", work, results), nprocs=ranks, join=False
    )
    found = results.get()
    while not processes.join():
        pass
    return found


def _join(rank: int, ranks: int, address: str, work: Callable[[int, int], Any], results: Any) -> None:
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=ranks, timeout=timedelta(seconds=60))
    try:
        torch.set_num_threads(1)
        found = work(rank, ranks)
        if rank == ranks - 1:
            results.put(found)
    finally:
        dist.destroy_process_group()
