"""A model and numbered batches in, a trained model out: AdamW, warm-up, cosine, clipping; continues a killed run to the same weights.

Batches are asked for by their step, so a resumed run needs no replay. What is added to the model's loss is not this room's business.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from decondense.files import replace_file


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


def train(
    model: nn.Module,
    batch_at: Callable[[int], Tensor],
    schedule: Schedule,
    state_path: Path,
    observe: Callable[[int], None],
    observe_at: Collection[int] = (),
    extra_state: Any = None,
    save_every: int = 100,
    progress: Callable[[int], None] = lambda step: None,
) -> float:
    """Train `model` in place and return the seconds that took, observations not counted, interrupted parts added up.

    Args:
        model: returns an output with a `loss` when given `input_ids` and `labels`.
        batch_at: gives token ids [batch, length] of a step.
        schedule: length, learning rate and the rest.
        state_path: where the state is saved every `save_every` steps; where it exists the run continues from it. It is removed at the end.
        observe: is called with the number of updates made so far, where that is in `observe_at`; the model is in evaluation mode then. After
            a kill an observation may be made a second time, of the same model.
        extra_state: anything with `state_dict` and `load_state_dict` that belongs to the run (the handle of `attach`).
        progress: is called with the number of updates made so far after each of them.
    """
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": schedule.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=schedule.betas)
    first, seconds = 0, 0.0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if extra_state is not None:
            extra_state.load_state_dict(state["extra"])
        first, seconds = state["step"], state["seconds"]
    for step in range(first, schedule.steps + 1):
        if step in observe_at:
            model.eval()
            observe(step)
        if step == schedule.steps:
            break
        began = time.perf_counter()
        _update(model, batch_at(step), optimizer, schedule, step)
        seconds += time.perf_counter() - began
        progress(step + 1)
        if (step + 1) % save_every == 0 and step + 1 < schedule.steps:
            _save(state_path, model, optimizer, extra_state, step + 1, seconds)
    return seconds


def _update(model: nn.Module, tokens: Tensor, optimizer: torch.optim.Optimizer, schedule: Schedule, step: int) -> None:
    model.train()
    for group in optimizer.param_groups:
        group["lr"] = schedule.learning_rate_at(step)
    loss = model(input_ids=tokens, labels=tokens).loss
    if not loss.isfinite():
        raise FloatingPointError(
            f"the loss is {loss.item()} at step {step}: lower the learning rate or the weight of the term"
        )
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _save(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, extra_state: Any, step: int, seconds: float
) -> None:
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "extra": None if extra_state is None else extra_state.state_dict(),
        "step": step,
        "seconds": seconds,
    }
    with replace_file(path) as temporary:
        torch.save(state, temporary)
