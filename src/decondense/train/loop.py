"""A model and numbered batches in, a trained model out: AdamW, warm-up, cosine, clipping; continues a killed run to the same weights.

Batches are asked for by their step, so a resumed run needs no replay. How a batch becomes a gradient is told in `update`; what is added to the
model's loss is not this room's business.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from decondense.errors import UserError
from decondense.train.checkpoint import Checkpoint, Sharded, SingleFile, Stateful
from decondense.train.sharding import whole
from decondense.train.update import Batch, Update


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        steps: updates of the weights.
        learning_rate: at its peak.
        warmup: share of the steps in which the learning rate rises linearly; it falls to 0 as a cosine afterwards.
        weight_decay: of matrices; vectors (norms, biases) are left alone.
        betas: of AdamW.
        clip: largest norm of the gradient.
    """

    steps: int
    learning_rate: float = 2e-3
    warmup: float = 0.1
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of the update that is number `step`, from 0."""
        rise = max(round(self.warmup * self.steps), 1)
        if step < rise:
            return self.learning_rate * (step + 1) / rise
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(self.steps - rise, 1)))


class Diverged(UserError, FloatingPointError):
    """The loss or its gradient is no number. The weights are those before the step, and so is the state that was saved last."""


class Together:
    """Several `Stateful` things as one, by name."""

    def __init__(self, **parts: Stateful) -> None:
        self._parts = parts

    def state_dict(self) -> dict[str, Any]:
        """The state of each."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        for name, part in self._parts.items():
            part.load_state_dict(state[name])


@runtime_checkable
class Intervention(Protocol):
    """What changes weights, their state or their learning rate between updates, as active forgetting does."""

    parameters: Sequence[nn.Parameter]
    """These form a group of their own in the optimizer."""

    def before_update(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Act before update number `step`, from 0; learning rates are set already."""


def train(
    model: nn.Module,
    batch_at: Callable[[int], Batch],
    schedule: Schedule,
    state_path: Path,
    observe: Callable[[int], None],
    observe_at: Collection[int] = (),
    extra_state: Stateful | None = None,
    save_every: int = 100,
    progress: Callable[[int], None] = lambda step: None,
    update: Update | None = None,
    intervention: Intervention | None = None,
    report: Callable[[int, Mapping[str, float]], None] = lambda step, numbers: None,
    sharded: bool = False,
) -> float:
    """Train `model` in place and return the seconds that took, observations not counted, interrupted parts added up.

    Args:
        model: returns an output with a `loss` when given `input_ids` and `labels`, unless `update` says otherwise.
        batch_at: gives the batch of a step, the same on every rank: token ids [batch, length], or what the objective of `update` reads.
        schedule: length, learning rate and the rest.
        state_path: where the state is saved every `save_every` steps; where it exists the run continues from it. It is left when training ends.
            A file; with `sharded` a folder.
        observe: is called with the number of updates made so far, where that is in `observe_at`; the model is in evaluation mode then. After
            a kill an observation may be made a second time, of the same model.
        extra_state: what else belongs to the run (the handle of `attach`).
        progress: is called with the number of updates made so far after each of them.
        update: how a batch becomes a gradient.
        intervention: acts between updates.
        report: is called with the number of updates made so far, the terms of the loss, `learning_rate` and `gradient_norm`.
        sharded: each rank writes its share of the state, which any number of ranks reads.

    Raises:
        Diverged: (a UserError) a term or the gradient is NaN or infinite.
        UserError: the state cannot be written; the one that was saved last is kept.
    """
    update = update or Update()
    optimizer = make_optimizer(model, schedule, () if intervention is None else intervention.parameters)
    checkpoint: Checkpoint = Sharded(state_path) if sharded else SingleFile(state_path)
    first, seconds = checkpoint.load(model, optimizer, extra_state)
    for step in range(first, schedule.steps + 1):
        if step in observe_at:
            model.eval()
            observe(step)
        if step == schedule.steps:
            break
        began = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate_at(step)
        if intervention is not None:
            intervention.before_update(step, optimizer)
        model.train()
        numbers = update.accumulate(model, batch_at(step), step)
        norm = float(whole(nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)))
        _check(numbers, norm, step, checkpoint.kept())
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds += time.perf_counter() - began
        progress(step + 1)
        report(step + 1, {**numbers, "learning_rate": optimizer.param_groups[0]["lr"], "gradient_norm": norm})
        if (step + 1) % save_every == 0 and step + 1 < schedule.steps:
            checkpoint.save(model, optimizer, extra_state, step + 1, seconds)
    return seconds


def make_optimizer(model: nn.Module, schedule: Schedule, apart: Iterable[nn.Parameter] = ()) -> torch.optim.AdamW:
    """AdamW over what is trained: matrices decay, vectors (norms, biases) do not, and the matrices `apart` are a group of their own."""
    alone = list(apart)
    rest = [
        parameter
        for parameter in model.parameters()
        if parameter.requires_grad and not any(parameter is one for one in alone)
    ]
    groups: list[dict[str, Any]] = [
        {"params": [one for one in rest if one.ndim >= 2], "weight_decay": schedule.weight_decay},
        {"params": [one for one in rest if one.ndim < 2], "weight_decay": 0.0},
        {"params": alone, "weight_decay": schedule.weight_decay},
    ]
    chosen = [group for group in groups if group["params"]]
    return torch.optim.AdamW(chosen, lr=schedule.learning_rate, betas=schedule.betas)


def _check(numbers: Mapping[str, float], norm: float, step: int, kept: str) -> None:
    broken = {name: value for name, value in numbers.items() if not math.isfinite(value)}
    if not broken and not math.isfinite(norm):
        broken = {"the gradient of a finite loss": norm}
    if broken:
        what = " and ".join(f"{name} is {value}" for name, value in broken.items())
        raise Diverged(f"{what} at step {step}: lower the learning rate or the weight of the term; {kept}")
