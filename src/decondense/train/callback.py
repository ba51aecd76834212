"""Callbacks for transformers' Trainer and those built on it: numbers into its logs, a heatmap to its trackers, the weight by a schedule.

Adds no forward pass. How condensed a batch is is measured in `monitor`; what follows from it for the loss in `steering`.
"""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from decondense.attach import Attachment
from decondense.errors import UserError, require
from decondense.train.monitor import Monitor, add_over_ranks
from decondense.train.schedules import GradientShare, WeightSchedule
from decondense.train.steering import Steering

TrainerCallback: Any = require("transformers", extra="hf").TrainerCallback

PICTURE = "mean_cosine.png"


class MonitorCallback(TrainerCallback):
    """Log the mean cosine of each layer on the training batch, draw it over the training, and warn where the run collapses.

    `MonitorCallback().add_to(trainer)` puts `mean_cosine/layer_00`, ... into the Trainer's logs and with them into every tracker, and the heatmap
    into `output_dir` at each save and at the end, and into TensorBoard and Weights & Biases. A loss need not be attached.

    Args:
        every: steps from one observation to the next; the first step is observed. None = the Trainer's logging steps.
        options: further arguments of `Monitor` (`threshold`, `rise`, `patience`, `across_ranks`).
    """

    def __init__(self, every: int | None = 50, **options: Any) -> None:
        if every is not None and every < 1:
            raise UserError(f"every={every}: must be at least 1")
        self._every, self._options = every, options
        self._steering: Steering | None = None
        self._trainer: Any = None
        self._logged = 0

    @property
    def monitor(self) -> Monitor:
        """The monitor of the training; its `history` holds all observations. Raises RuntimeError before the training has begun."""
        if self._steering is None:
            raise RuntimeError("there is no monitor before the training has begun")
        return self._steering.monitor

    def add_to(self, trainer: Any) -> Any:
        """Add this callback to a Trainer, before those of its trackers, so that they see its numbers. Returns the callback."""
        self._trainer = trainer
        trainer.callback_handler.callbacks.insert(0, self)
        return self

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: nn.Module | None = None, **others: Any
    ) -> None:
        """Hook the model, and continue where a checkpoint was saved."""
        assert model is not None
        if self._steering is not None:
            self._steering.remove()  # of a training before, which an error ended
        self._steering = self._make_steering(model, self._every or max(int(state.logging_steps), 1))
        self._logged = 0
        if self._trainer is None and args.report_to:
            warnings.warn(
                f"{type(self).__name__} comes after the callbacks of {', '.join(args.report_to)}, which will not see its numbers: "
                f"use {type(self).__name__}(...).add_to(trainer) in place of callbacks=[...]",
                stacklevel=2,
            )
        saved = (state.stateful_callbacks or {}).get(self._key)
        if state.global_step > 0 and saved is not None:
            self._load(saved)

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Steer this step, and observe it where it is due."""
        assert self._steering is not None
        self._steering.before_step(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Have what a resumed training needs where the Trainer saves its own."""
        saved = state.stateful_callbacks.setdefault(self._key, {})
        # The history grows with the training, and changes with an observation alone.
        if "monitor" not in saved or (self.monitor.history and self.monitor.history[-1].step == state.global_step):
            saved["monitor"] = self.monitor.state_dict()
        saved.update(self._small_state())

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **others: Any) -> None:
        """Add the numbers to the logs of training steps; those of evaluations stay as they are."""
        if logs is not None and "loss" in logs and self._steering is not None:
            numbers = self._numbers(args)
            logs.update(numbers)
            state.log_history[-1].update(numbers)

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Draw the heatmap."""
        self._draw(args, state)

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Draw the heatmap and take the hooks off."""
        self._draw(args, state)
        if self._steering is not None:
            self._steering.remove()

    @property
    def _key(self) -> str:
        return f"decondense.{type(self).__name__}"

    def _make_steering(self, model: nn.Module, every: int) -> Steering:
        return Steering(model, every=every, **self._options)

    def _numbers(self, args: Any) -> dict[str, float]:
        """What goes into the logs now, by name: the last observation, unless it is there already."""
        history = self.monitor.history
        if len(history) == self._logged:
            return {}
        self._logged = len(history)
        return history[-1].by_name()

    def _small_state(self) -> dict[str, Any]:
        """What a resumed training needs besides the observations; both are saved in the checkpoint's trainer_state.json."""
        assert self._steering is not None
        return self._steering.small_state()

    def _load(self, state: dict[str, Any]) -> None:
        assert self._steering is not None
        self._steering.load_state_dict(state)
        self._logged = len(self.monitor.history)

    def _draw(self, args: Any, state: Any) -> None:
        drawable = self._steering is not None and self.monitor.history and importlib.util.find_spec("matplotlib")
        if not (drawable and state.is_world_process_zero):
            return
        folder = Path(args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.monitor.figure(folder / PICTURE)
        for callback in () if self._trainer is None else self._trainer.callback_handler.callbacks:
            if getattr(callback, "tb_writer", None) is not None:
                callback.tb_writer.add_figure("mean_cosine", self.monitor.draw(), state.global_step)
            elif type(callback).__name__ == "WandbCallback":
                callback._wandb.log({"mean_cosine/heatmap": callback._wandb.Image(str(folder / PICTURE))})


class DispersionCallback(MonitorCallback):
    """Log the dispersion term, its weight and the mean cosine of each layer, and let what is observed set weight and layers.

    `DispersionCallback(handle).add_to(trainer)` adds `dispersion/term` (not weighted, averaged as the Trainer averages its loss since the last log)
    and `dispersion/weight` to what `MonitorCallback` logs.

    Args:
        handle: what `attach` returned.
        schedule: of the weight, as for `Steering`; None = it stays what it is.
        every: steps from one observation to the next. None = the Trainer's logging steps.
        condensed_above: take the loss where the model condenses, as for `Steering`.
        options: further arguments of `Monitor`.

    Raises:
        UserError: (a ValueError) a schedule that needs gradients of both terms. While training: the handle's model is not the one that is trained.
    """

    def __init__(
        self,
        handle: Attachment,
        schedule: WeightSchedule | None = None,
        every: int | None = None,
        condensed_above: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(every, **options)
        if isinstance(schedule, GradientShare):
            raise UserError(
                "GradientShare needs the gradients of both terms, which a Trainer adds up: use Adaptive(target), or a loop of your own"
            )
        self.handle, self.schedule, self.condensed_above = handle, schedule, condensed_above
        self._passes: list[Tensor] = []
        self._steps: list[Tensor] = []

    def on_substep_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Keep the term of a pass that is not the last of its step."""
        self._passes.append(self._term())

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Keep the term of this step."""
        super().on_step_end(args, state, control)
        passes = torch.stack([*self._passes, self._term()])
        self._passes.clear()
        self._steps.append(passes.sum() if self.monitor.divided_by_total else passes.mean())

    def _make_steering(self, model: nn.Module, every: int) -> Steering:
        self._passes.clear()
        self._steps.clear()
        return Steering(model, self.handle, every, self.schedule, self.condensed_above, **self._options)

    def _numbers(self, args: Any) -> dict[str, float]:
        numbers = super()._numbers(args)
        if self._steps:
            term = torch.stack(self._steps).mean()
            self._steps.clear()
            ranks = add_over_ranks(term)
            # Where each rank has its share of the whole, the Trainer multiplies by their number before it averages.
            shares = self.monitor.divided_by_total and args.average_tokens_across_devices
            numbers["dispersion/term"] = float(term) / (1 if shares else ranks)
        numbers["dispersion/weight"] = self.handle.weight
        return numbers

    def _small_state(self) -> dict[str, Any]:
        return {**super()._small_state(), "handle": self.handle.state_dict()}

    def _load(self, state: dict[str, Any]) -> None:
        super()._load(state)
        self.handle.load_state_dict(state["handle"])

    def _term(self) -> Tensor:
        try:
            return self.handle.loss().detach().float()
        except RuntimeError as error:
            raise UserError(
                "the handle saw no training pass: attach the loss to the model that is trained, trainer.model, after the Trainer is made"
            ) from error
