"""Independent jobs in, their results out: side by side in processes, with a bar for each, and an interrupt that leaves nothing running."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any, TypeVar

from decondense.progress import Progress

Job = TypeVar("Job")
Result = TypeVar("Result")

_progress: Any = None


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_jobs(
    work: Callable[[Job, Callable[[int], None]], Result],
    jobs: Sequence[Job],
    names: Sequence[str],
    total: int,
    workers: int,
) -> list[Result]:
    """Run `work(job, progress)` for every job, `workers` at a time, each in a process with one thread; results in the order of the jobs.

    One thread a process, whatever the number of workers, so that results do not depend on how many run side by side. `progress(count)` moves
    the job's bar to `count` of `total`; bars show when standard error is a terminal. The first error ends the others and is raised.
    """
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    with _bars(messages, names, total):
        # Leaving the pool by an error must not wait for jobs that run on for minutes.
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(messages,))
        try:
            futures: list[Future[Result]] = [pool.submit(_run_job, work, job, index) for index, job in enumerate(jobs)]
            for future in as_completed(futures):
                future.result()
            return [future.result() for future in futures]
        except BaseException:
            for process in list((pool._processes or {}).values()):
                process.terminate()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(messages: Any) -> None:
    global _progress
    _progress = messages
    # A key press reaches every process of the terminal: only the first one answers, and it ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    torch.set_num_threads(1)


def _run_job(work: Callable[[Job, Callable[[int], None]], Result], job: Job, index: int) -> Result:
    return work(job, lambda count: _progress.put((index, count)))


@contextmanager
def _bars(messages: Any, names: Sequence[str], total: int) -> Iterator[None]:
    """Show one bar a job that has begun, while standard error is a terminal."""
    stop = threading.Event()

    def listen() -> None:
        bars: dict[int, Progress] = {}
        while not stop.is_set():
            try:
                index, count = messages.get(timeout=0.2)
            except queue.Empty:
                continue
            if index not in bars:
                bars[index] = Progress(names[index], "step", total)
            bars[index].reach(count)
        for bar in bars.values():
            bar.close()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield
    finally:
        stop.set()
        listener.join()
