"""Cases in, their differences from the reference out, from processes of their own that stop in time and say what failed, and on which rank."""

from __future__ import annotations

import faulthandler
import os
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import transformers
from updates.cases import Case
from updates.reference import difference, reference
from updates.ways import change

CASE_SECONDS = 300
"""More than a case takes (a compilation on a busy machine). A rank that is longer at one says where it hangs, and ends."""


class Failed(RuntimeError):
    """A rank failed. `case` is the one it was at; `found` are the differences of the cases before it."""

    def __init__(self, message: str, case: Case, found: dict[Case, float]) -> None:
        super().__init__(message)
        self.case, self.found = case, found


def run(
    cases: Sequence[Case], processes: int, folder: Path, tell: bool = False, seconds: float = CASE_SECONDS
) -> dict[Case, float]:
    """The largest difference over ranks of each case, which takes at most some seconds; with `tell` each is printed.

    `folder` is empty and goes to the ranks.

    Raises:
        Failed: with the traceback of the rank that failed, or of the one that hung.
    """
    context = torch.multiprocessing.start_processes(
        _work, (list(cases), processes, str(folder), tell, seconds), nprocs=processes, join=False, start_method="spawn"
    )
    problem = ""
    try:
        while not context.join(timeout=5):
            pass
    except Exception as error:  # noqa: BLE001 - whatever ended a rank is told
        problem = str(error)
    finally:
        for process in context.processes:
            process.kill()
    found = [_read(folder / f"{rank}.pt") for rank in range(processes)]
    together = {case: max(one[case] for one in found) for case in cases if all(case in one for one in found)}
    if problem:
        stuck = [path.read_text() for path in sorted(folder.glob("*.stuck"))]
        case = next(case for case in cases if case not in together)
        raise Failed("\n".join([f"{case} on {processes} process(es)", problem, *stuck]), case, together)
    return together


def _read(path: Path) -> dict[Case, float]:
    return dict(torch.load(path, weights_only=False)) if path.exists() else {}


def _work(rank: int, cases: list[Case], processes: int, folder: str, tell: bool, seconds: float = CASE_SECONDS) -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    if processes > 1:
        # What launchers set and accelerate wants to see; the group below needs no address.
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", OMP_NUM_THREADS="1")
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder}/store",
            rank=rank,
            world_size=processes,
            timeout=timedelta(seconds=seconds),
        )
    found: dict[Case, float] = {}
    with open(f"{folder}/{rank}.stuck", "w") as stuck:
        for case in cases:
            faulthandler.dump_traceback_later(seconds, exit=True, file=stuck)
            began = time.perf_counter()
            found[case] = difference(change(case, Path(folder)), reference(case.model, case.first_labels))
            if tell and rank == 0:
                print(f"{found[case]:8.1e}  {time.perf_counter() - began:6.2f} s  {case}", flush=True)
            torch.save(found, f"{folder}/{rank}.pt")
        faulthandler.cancel_dump_traceback_later()
    if processes > 1:
        dist.destroy_process_group()
