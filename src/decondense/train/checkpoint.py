"""A model and its optimizer in, a state on the disk from which training goes on out: one file, or one that all ranks write. Knows no loop.

A state is whole or not there: it is written under another name and renamed, and the one before it stays until then.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from decondense.errors import UserError
from decondense.ranks import agreed, rank, world
from decondense.train.saving import save_state, saving
from decondense.train.sharding import reshard


@runtime_checkable
class Stateful(Protocol):
    """What belongs to a run and must go on with it."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


class Checkpoint(Protocol):
    """Where the state of a run is kept; all ranks call its methods."""

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer, extra: Stateful | None) -> tuple[int, float]:
        """Go on from the state, where there is one; gives the updates made so far and the seconds they took."""

    def save(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, extra: Stateful | None, step: int, seconds: float
    ) -> None:
        """Write the state; raises `UserError` on every rank where that fails on one."""

    def kept(self) -> str:
        """Which state is there, in words."""

    def remove(self) -> None:
        """Remove the state; for one rank to call."""


class SingleFile:
    """The whole state in one file, which the first rank writes and every rank reads."""

    def __init__(self, path: Path) -> None:
        self._path, self._step = path, 0

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer, extra: Stateful | None) -> tuple[int, float]:
        """As `Checkpoint` says it."""
        if not self._path.exists():
            return 0, 0.0
        state = torch.load(self._path, weights_only=True, map_location="cpu")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if extra is not None:
            extra.load_state_dict(state["extra"])
        self._step = state["step"]
        return state["step"], state["seconds"]

    def save(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, extra: Stateful | None, step: int, seconds: float
    ) -> None:
        """As `Checkpoint` says it."""
        with agreed():
            if rank() == 0:
                state = {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "extra": None if extra is None else extra.state_dict(),
                    "step": step,
                    "seconds": seconds,
                }
                save_state(self._path, state, f"; {self.kept()}")
        self._step = step

    def kept(self) -> str:
        """As `Checkpoint` says it."""
        return _told(self._step, self._path)

    def remove(self) -> None:
        """As `Checkpoint` says it."""
        self._path.unlink(missing_ok=True)


class Sharded:
    """A folder with a folder for the last step that was saved, in which each rank wrote its share (torch.distributed.checkpoint).

    Any number of processes reads what any number wrote. The folder must lie where all of them see it. Tensors are read as such, but torch reads
    its table of contents by pickle: a state is for whoever wrote it.
    """

    _EXTRA = "extra.pt"

    def __init__(self, folder: Path) -> None:
        self._folder, self._step = folder, 0

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer, extra: Stateful | None) -> tuple[int, float]:
        """As `Checkpoint` says it."""
        found = [max(self._steps(), default=0)]
        if world() > 1:
            dist.broadcast_object_list(found, src=0)  # the first decides: folders may reach others late
        [step] = found
        if not step:
            return 0, 0.0
        from torch.distributed.checkpoint.filesystem import FileSystemReader
        from torch.distributed.checkpoint.state_dict_loader import load

        place = self._place(step)
        with agreed(), _readable(place):
            reader = FileSystemReader(place)
            contents = reader.read_metadata().state_dict_metadata
            more = torch.load(place / self._EXTRA, weights_only=True)
        reshard(model)
        parameters = dict(model.named_parameters())
        for key, described in contents.items():
            side, rest = key.split("/", 1)
            if side == "optimizer":
                name, entry = rest.rsplit("/", 1)
                optimizer.state[parameters[name]][entry] = _like(parameters[name], described)
        with _readable(place), _quiet():
            load(_tensors(model, optimizer), storage_reader=reader, no_dist=world() == 1)
        if extra is not None:
            extra.load_state_dict(more["extra"])
        self._step = step
        return step, more["seconds"]

    def save(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, extra: Stateful | None, step: int, seconds: float
    ) -> None:
        """As `Checkpoint` says it."""
        from torch.distributed.checkpoint.state_dict_saver import save

        place = self._place(step)
        writing = self._folder / f".{place.name}.part"
        kept = f"; {self.kept()}"
        try:
            with agreed():
                if rank() == 0:
                    with saving(self._folder, kept):
                        self._remove_leftovers()
                        writing.mkdir(parents=True)
            with agreed():
                if not writing.is_dir():
                    raise UserError(
                        f"{writing}: process {rank()} does not see what the first one made: --out must lie on a disk that all share"
                    )
            reshard(model)
            with _written(place, kept), _quiet():
                save(_tensors(model, optimizer), storage_writer=_writer(writing), no_dist=world() == 1)
            with agreed():
                if rank() == 0:
                    more = {"extra": None if extra is None else extra.state_dict(), "seconds": seconds}
                    save_state(writing / self._EXTRA, more, kept)
                    with saving(place, kept):
                        os.replace(writing, place)
                        for before in self._steps():
                            if before != step:
                                shutil.rmtree(self._place(before))
        except UserError:
            if rank() == 0:
                shutil.rmtree(writing, ignore_errors=True)
                with suppress(OSError):
                    self._folder.rmdir()  # where no state lies in it yet
            raise
        self._step = step

    def kept(self) -> str:
        """As `Checkpoint` says it."""
        return _told(self._step, self._place(self._step))

    def remove(self) -> None:
        """As `Checkpoint` says it."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _place(self, step: int) -> Path:
        return self._folder / f"step-{step}"

    def _steps(self) -> list[int]:
        names = [path.name.removeprefix("step-") for path in self._folder.glob("step-*")]
        return [int(name) for name in names if name.isdigit()]

    def _remove_leftovers(self) -> None:
        """What processes that were killed while they wrote left behind."""
        for leftover in self._folder.glob(".*.part"):
            shutil.rmtree(leftover)


def _tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Every tensor of a state by a name that does not depend on how many ranks share it; tied weights once."""
    named = dict(model.named_parameters())
    every = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = {name: tensor for name, tensor in model.state_dict().items() if name not in every}
    tensors = {f"model/{name}": tensor for name, tensor in {**named, **buffers}.items() if isinstance(tensor, Tensor)}
    for name, parameter in named.items():
        entries: Mapping[str, Tensor] = optimizer.state.get(parameter, {})
        tensors |= {f"optimizer/{name}/{entry}": tensor for entry, tensor in entries.items()}
    return tensors


def _like(parameter: Tensor, described: Any) -> Tensor:
    """Room for an entry of the optimizer's state: spread as its parameter is, or a number of its own (Adam's count of steps)."""
    if described.size == parameter.shape:
        return torch.zeros_like(parameter, dtype=described.properties.dtype, requires_grad=False)
    return torch.zeros(described.size, dtype=described.properties.dtype)


def _writer(folder: Path) -> Any:
    from torch.distributed.checkpoint.filesystem import FileSystemWriter

    class Writer(FileSystemWriter):
        """Says why it failed."""

        def write_data(self, plan: Any, planner: Any) -> Any:
            try:
                return super().write_data(plan, planner)
            except RuntimeError as error:
                # torch's writer says that it failed, and why stands in what it met.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    return Writer(folder)


@contextmanager
def _written(place: Path, kept: str) -> Iterator[None]:
    """Turn what a full or broken disk of any rank raises on all into the line of `saving`."""
    from torch.distributed.checkpoint.api import CheckpointException

    with saving(place, kept):
        try:
            yield
        except CheckpointException as error:
            causes = [failure for failure, _ in error.failures.values()]
            raise next((cause for cause in causes if isinstance(cause, OSError)), causes[0]) from error


@contextmanager
def _readable(place: Path) -> Iterator[None]:
    """Turn what a damaged state raises into one line."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except (OSError, RuntimeError, ValueError, LookupError, EOFError, CheckpointException) as error:
        causes = [failure for failure, _ in getattr(error, "failures", {}).values()]
        first = (str(causes[0] if causes else error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{place}: cannot be read ({first}); remove it to begin anew") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """torch warns at each state that one process writes alone, which is what was asked for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _told(step: int, path: Path) -> str:
    return f"the state after {step} steps is kept in {path}" if path.exists() else "no state was saved yet"
