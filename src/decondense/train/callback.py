"""Callbacks for transformers' Trainer and those built on it: numbers into its logs, a heatmap to its trackers, the weight by a schedule.

Adds no forward pass. How condensed a batch is is measured in `monitor`, which weight comes next in `schedules`.
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

TrainerCallback: Any = require("transformers", extra="hf").TrainerCallback

PICTURE = "mean_cosine.png"


class MonitorCallback(TrainerCallback):
    """Log the mean cosine of each layer on the training batch, draw it over the training, and warn where the run collapses.

    `MonitorCallback().add_to(trainer)` puts `mean_cosine/layer_00`, ... into the Trainer's logs and with them into every tracker, and the heatmap
    into `output_dir` at each save and at the end, and into TensorBoard and Weights & Biases. A loss need not be attached.

    Args:
        every: steps from one observation to the next; the first step is observed. None = the Trainer's logging steps.
        options: further arguments of `Monitor` (`threshold`, `rise`, `patience`, `across_ranks`).

    Attributes:
        monitor: the `Monitor`, once training has begun; its `history` holds all observations.
    """

    def __init__(self, every: int | None = 50, **options: Any) -> None:
        if every is not None and every < 1:
            raise UserError(f"every={every}: must be at least 1")
        self.monitor: Monitor | None = None
        self._every, self._options = every, options
        self._trainer: Any = None
        self._logged = 0

    def add_to(self, trainer: Any) -> Any:
        """Add this callback to a Trainer, before those of its trackers, so that they see its numbers. Returns the callback."""
        self._trainer = trainer
        trainer.callback_handler.callbacks.insert(0, self)
        return self

    def numbers(self, args: Any) -> dict[str, float]:
        """What goes into the logs now, by name: the last observation, unless it is there already."""
        assert self.monitor is not None
        history = self.monitor.history
        if len(history) == self._logged:
            return {}
        self._logged = len(history)
        return {f"mean_cosine/layer_{layer:02d}": value for layer, value in enumerate(history[-1].mean_cosine)}

    def state(self) -> dict[str, Any]:
        """What a resumed training needs besides the observations; both are saved in the checkpoint's trainer_state.json."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue where `state` was saved."""
        assert self.monitor is not None
        self.monitor.load_state_dict(state["monitor"])
        self._logged = len(self.monitor.history)

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: nn.Module | None = None, **others: Any
    ) -> None:
        """Hook the model, and continue where a checkpoint was saved."""
        assert model is not None
        if self.monitor is not None:
            self.monitor.remove()  # of a training before, which an error ended
        self.monitor = Monitor(model, self._every or max(int(state.logging_steps), 1), **self._options)
        self._logged = 0
        if self._trainer is None and args.report_to:
            warnings.warn(
                f"{type(self).__name__} comes after the callbacks of {', '.join(args.report_to)}, which will not see its numbers: "
                f"use {type(self).__name__}(...).add_to(trainer) in place of callbacks=[...]",
                stacklevel=2,
            )
        saved = (state.stateful_callbacks or {}).get(self._key)
        if state.global_step > 0 and saved is not None:
            self.load_state(saved)

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Steps have the number that the Trainer's logs give them: the first is 1."""
        assert self.monitor is not None
        self.monitor.begin_step(state.global_step + 1)

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Have what a resumed training needs where the Trainer saves its own."""
        assert self.monitor is not None
        saved = state.stateful_callbacks.setdefault(self._key, {})
        # The history grows with the training, and changes with an observation alone.
        if "monitor" not in saved or (self.monitor.history and self.monitor.history[-1].step == state.global_step):
            saved["monitor"] = self.monitor.state_dict()
        saved.update(self.state())

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **others: Any) -> None:
        """Add the numbers to the logs of training steps; those of evaluations stay as they are."""
        if logs is not None and "loss" in logs and self.monitor is not None:
            numbers = self.numbers(args)
            logs.update(numbers)
            state.log_history[-1].update(numbers)

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Draw the heatmap."""
        self._draw(args, state)

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Draw the heatmap and take the hooks off."""
        self._draw(args, state)
        if self.monitor is not None:
            self.monitor.remove()

    @property
    def _key(self) -> str:
        return f"decondense.{type(self).__name__}"

    def _draw(self, args: Any, state: Any) -> None:
        drawable = self.monitor is not None and self.monitor.history and importlib.util.find_spec("matplotlib")
        if not (drawable and state.is_world_process_zero):
            return
        assert self.monitor is not None
        folder = Path(args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.monitor.figure(folder / PICTURE)
        for callback in () if self._trainer is None else self._trainer.callback_handler.callbacks:
            if getattr(callback, "tb_writer", None) is not None:
                callback.tb_writer.add_figure("mean_cosine", self.monitor.draw(), state.global_step)
            elif type(callback).__name__ == "WandbCallback":
                callback._wandb.log({"mean_cosine/heatmap": callback._wandb.Image(self.monitor.draw())})


class DispersionCallback(MonitorCallback):
    """Log the dispersion term, its weight and the mean cosine of each layer, and let a schedule set the weight.

    `DispersionCallback(handle).add_to(trainer)` adds `dispersion/term` (not weighted, averaged as the Trainer averages its loss since the last log)
    and `dispersion/weight` to what `MonitorCallback` logs. With an `Adaptive` schedule each observation of `handle.layers` drives the weight.

    Args:
        handle: what `attach` returned.
        schedule: of the weight; None = it stays what it is.
        every: steps from one observation to the next. None = the Trainer's logging steps.
        options: further arguments of `Monitor`.

    Raises:
        UserError: (a ValueError) a schedule that needs gradients of both terms. While training: the handle's model is not the one that is trained.
    """

    def __init__(
        self, handle: Attachment, schedule: WeightSchedule | None = None, every: int | None = None, **options: Any
    ) -> None:
        super().__init__(every, **options)
        if isinstance(schedule, GradientShare):
            raise UserError(
                "GradientShare needs the gradients of both terms, which a Trainer adds up: use Adaptive(target), or a loop of your own"
            )
        self.handle, self.schedule = handle, schedule
        self._driven = 0
        self._passes: list[Tensor] = []
        self._steps: list[Tensor] = []

    def numbers(self, args: Any) -> dict[str, float]:
        """What goes into the logs now, by name."""
        numbers = super().numbers(args)
        if self._steps:
            term = torch.stack(self._steps).mean()
            self._steps.clear()
            ranks = add_over_ranks(term)
            # Where each rank has its share of the whole, the Trainer multiplies by their number before it averages.
            shares = self._divided_by_total and args.average_tokens_across_devices
            numbers["dispersion/term"] = float(term) / (1 if shares else ranks)
        numbers["dispersion/weight"] = self.handle.weight
        return numbers

    def state(self) -> dict[str, Any]:
        """What a resumed training needs: that of the handle and the schedule too."""
        schedule = {} if self.schedule is None else self.schedule.state_dict()
        # An observation of the last step before a checkpoint drives the first step after it.
        return {"driven": self._driven, "handle": self.handle.state_dict(), "schedule": schedule}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue where `state` was saved."""
        super().load_state(state)
        self._driven = state["driven"]
        self.handle.load_state_dict(state["handle"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Set the weight of this step."""
        super().on_step_begin(args, state, control)
        assert self.monitor is not None
        self.monitor.documents = self.handle.documents
        if self.schedule is not None:
            observed = None
            if len(self.monitor.history) > self._driven:
                self._driven = len(self.monitor.history)
                observed = self.monitor.history[-1].average(self.handle.layers)
            self.handle.weight = self.schedule.weight(state.global_step, observed)

    def on_substep_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Keep the term of a pass that is not the last of its step."""
        self._passes.append(self._term())

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Keep the term of this step."""
        super().on_step_end(args, state, control)
        passes = torch.stack([*self._passes, self._term()])
        self._passes.clear()
        self._steps.append(passes.sum() if self._divided_by_total else passes.mean())

    @property
    def _divided_by_total(self) -> bool:
        return self.monitor is not None and self.monitor.divided_by_total

    def _term(self) -> Tensor:
        try:
            return self.handle.loss().detach().float()
        except RuntimeError as error:
            raise UserError(
                "the handle saw no training pass: attach the loss to the model that is trained, trainer.model, after the Trainer is made"
            ) from error
