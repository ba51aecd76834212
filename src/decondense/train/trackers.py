"""Numbers of a training in, to be followed in TensorBoard, Weights & Biases or trackio out. Knows no model."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from decondense.errors import UserError, require

TRACKERS = ("tensorboard", "wandb", "trackio")
PROJECT = "decondense"


class Log(Protocol):
    """Takes numbers by name, and pictures: a path is one, of a png file."""

    def __call__(self, step: int, numbers: Mapping[str, float | Path]) -> None: ...


@contextmanager
def following(names: Sequence[str], folder: Path, run: str, config: Mapping[str, Any]) -> Iterator[Log]:
    """Gives what sends numbers to all trackers of `names` under the name `run`; TensorBoard's files lie in `folder`.

    Raises:
        UserError: a tracker is not installed.
    """
    with ExitStack() as stack:
        logs = [stack.enter_context(_OPEN[name](folder, run, config)) for name in names]

        def log(step: int, numbers: Mapping[str, float | Path]) -> None:
            for one in logs:
                one(step, numbers)

        yield log


@contextmanager
def _tensorboard(folder: Path, run: str, config: Mapping[str, Any]) -> Iterator[Log]:
    _package("tensorboard")
    writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter(str(folder / "tensorboard"))

    def log(step: int, numbers: Mapping[str, float | Path]) -> None:
        for name, value in numbers.items():
            if isinstance(value, Path):
                with require("PIL.Image", extra="report").open(value) as picture:
                    pixels = require("numpy", extra="hf").asarray(picture.convert("RGB"))
                writer.add_image(name, pixels, step, dataformats="HWC")
            else:
                writer.add_scalar(name, value, step)

    try:
        yield log
    finally:
        writer.close()


@contextmanager
def _wandb(folder: Path, run: str, config: Mapping[str, Any]) -> Iterator[Log]:
    wandb = _package("wandb")
    with wandb.init(project=PROJECT, name=run, dir=str(folder), config=dict(config)) as opened:
        yield lambda step, numbers: opened.log(_with_pictures(numbers, wandb.Image), step=step)


@contextmanager
def _trackio(folder: Path, run: str, config: Mapping[str, Any]) -> Iterator[Log]:
    trackio = _package("trackio")
    trackio.init(project=PROJECT, name=run, config=dict(config))
    try:
        yield lambda step, numbers: trackio.log(_with_pictures(numbers, trackio.Image), step=step)
    finally:
        trackio.finish()


_OPEN = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}


def _with_pictures(numbers: Mapping[str, float | Path], picture: Callable[[str], Any]) -> dict[str, Any]:
    return {name: picture(str(value)) if isinstance(value, Path) else value for name, value in numbers.items()}


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"--report-to {name}: it is not installed; pip install {name} brings it") from error
