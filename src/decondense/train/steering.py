"""A model in training and the handle of its loss in, the loss's weight and layers at each step out. Knows no loop, no trainer and no option.

What is observed in one step steers the next: a schedule sets the weight, and the loss may be taken where the model condenses. A loop says where a
step begins; the state of it all is saved with the run, so that a run that goes on after a stop is steered as one that was not stopped.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from decondense.attach import Attachment
from decondense.errors import UserError
from decondense.train.monitor import Monitor, Observation, add_over_ranks
from decondense.train.schedules import GradientShare, WeightSchedule, gradient_ratio

CONDENSED = 0.2
"""Mean cosine above which a layer counts as condensed where nobody says another. A GPT-2 at random has 0.02 to 0.2 in its last layers."""


class Steering:
    """A `Monitor` of the training batches, and what it observes put to use: a schedule of the weight, layers that follow condensation.

        steering = Steering(model, handle, every=10, schedule=Adaptive(target=0.1))
        for step in range(steps):
            steering.before_step(step)
            ...    # forward passes, backward pass, update

    Args:
        model: as for `Monitor`.
        handle: what `attach` returned; None = observe only.
        every: steps from one observation to the next; the first step is observed.
        schedule: of the weight; None = it stays what it is. `Adaptive` is driven by the mean cosine of `handle.layers`; `GradientShare` by the terms
            that `see_terms` is given.
        condensed_above: take the loss on those of `handle.layers` whose mean cosine was above this at the last observation, on the most condensed
            one where none was, and on all before there was any; None = on all.
        options: further arguments of `Monitor`.

    Attributes:
        monitor: the monitor, with its history. Steps are numbered by the updates made after them: the first is 1.
    """

    def __init__(
        self,
        model: nn.Module,
        handle: Attachment | None = None,
        every: int = 50,
        schedule: WeightSchedule | None = None,
        condensed_above: float | None = None,
        **options: Any,
    ) -> None:
        if handle is None and (schedule is not None or condensed_above is not None):
            raise UserError("a schedule of the weight, or of the layers, needs the handle of a loss")
        if condensed_above is not None and not -1 < condensed_above < 1:
            raise UserError(
                f"condensed_above={condensed_above}: a mean cosine between -1 and 1 is expected, such as {CONDENSED}"
            )
        self.monitor = Monitor(model, every, **options)
        self._handle, self._schedule, self._condensed_above = handle, schedule, condensed_above
        self._model = model
        self._driven = 0
        self._ratio: float | None = None
        self._due = False

    def before_step(self, step: int) -> None:
        """Set weight and layers of update number `step`, from 0, and say to the monitor that it begins."""
        self.monitor.begin_step(step + 1)
        handle = self._handle
        if handle is None:
            return
        self.monitor.documents = handle.documents
        new = self._take_new()
        if new is not None and self._condensed_above is not None:
            handle.chosen = condensed(new, handle.layers, self._condensed_above)
        if self._schedule is None:
            return
        if isinstance(self._schedule, GradientShare):
            observed, self._ratio = self._ratio, None
            self._due = self.monitor.due
        else:
            observed = None if new is None else new.average(handle.layers)
        handle.weight = self._schedule.weight(step, observed)

    def see_terms(self, loss: Tensor, term: Tensor) -> None:
        """Take the two terms of a forward pass, cross entropy and `handle.loss()`: the first pass of an observed step is used, where need be."""
        if not self._due:
            return
        self._due = False
        ratio = torch.tensor(gradient_ratio(loss, term, self._model.parameters()), device=loss.device)
        ranks = add_over_ranks(ratio)
        self._ratio = float(ratio) / ranks

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs, besides the state of the handle."""
        return {"monitor": self.monitor.state_dict(), **self.small_state()}

    def small_state(self) -> dict[str, Any]:
        """The same without the history, which grows with the training and changes with observations alone."""
        schedule = {} if self._schedule is None else self._schedule.state_dict()
        # An observation of the last step before a save drives the first step after it.
        return {"schedule": schedule, "driven": self._driven, "ratio": self._ratio}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.monitor.load_state_dict(state["monitor"])
        self._driven, self._ratio = state["driven"], state["ratio"]
        if self._schedule is not None:
            self._schedule.load_state_dict(state["schedule"])

    def remove(self) -> None:
        """Take the monitor's hooks off."""
        self.monitor.remove()

    def __enter__(self) -> Steering:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def _take_new(self) -> Observation | None:
        history = self.monitor.history
        if len(history) == self._driven:
            return None
        self._driven = len(history)
        return history[-1]


def condensed(observation: Observation, layers: list[int], threshold: float) -> list[int]:
    """Those of `layers` that were observed above the threshold; the most condensed one where none was; all where none was a number."""
    cosines = {layer: observation.mean_cosine[layer] for layer in layers}
    known = {layer: value for layer, value in cosines.items() if not math.isnan(value)}
    if not known:
        return layers
    return [layer for layer, value in known.items() if value > threshold] or [max(known, key=known.__getitem__)]
