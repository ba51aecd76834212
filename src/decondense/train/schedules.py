"""Step and what was observed in, the weight of the dispersion term out: planned, or held at a target. Knows no trainer.

schedule = Adaptive(target=0.1)
handle.weight = schedule.weight(step, mean_cosine)    # before the forward pass; mean_cosine is None where there is no new observation
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from decondense.errors import UserError, choose

SHAPES = ("cosine", "linear")


class WeightSchedule(ABC):
    """Says which weight the dispersion term has at a step."""

    @abstractmethod
    def weight(self, step: int, observed: float | None = None) -> float:
        """Weight of the update that is number `step`, from 0.

        Args:
            step: of the training.
            observed: what a controller holds (`Adaptive`, `GradientShare` say what that is); None = nothing new was observed. Each call with a
                number counts as one observation.
        """

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs: nothing where the weight is a function of the step."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        return None


@dataclass(frozen=True)
class Planned(WeightSchedule):
    """A weight that is constant, but for a linear rise at the beginning and a fall at the end where they are asked for.

    Attributes:
        height: the weight between rise and fall.
        warmup: steps in which it rises from 0.
        decay_start: step at which it begins to fall; None = it stays.
        decay_steps: steps in which it falls.
        final: the weight after that.
        shape: of the fall, "cosine" or "linear".

    Raises:
        UserError: (a ValueError) a number outside its range, a fall that begins during the rise, an unknown shape.

    Examples:
        >>> constant, warmed = Planned(0.1), Planned(0.1, warmup=100)
        >>> constant.weight(0), round(warmed.weight(49), 3), warmed.weight(5000)
        (0.1, 0.05, 0.1)
        >>> decayed = Planned(0.1, warmup=100, decay_start=800, decay_steps=200)
        >>> [round(decayed.weight(step), 3) for step in (800, 900, 1000)]
        [0.1, 0.05, 0.0]
    """

    height: float
    warmup: int = 0
    decay_start: int | None = None
    decay_steps: int = 1
    final: float = 0.0
    shape: str = "cosine"

    def __post_init__(self) -> None:
        choose("shape", self.shape, SHAPES)
        for name in ("height", "final"):
            if not math.isfinite(getattr(self, name)):
                raise UserError(f"{name}={getattr(self, name)}: a weight is a finite number")
        if self.warmup < 0 or self.decay_steps < 1:
            raise UserError(
                f"warmup={self.warmup}, decay_steps={self.decay_steps}: at least 0 and 1 steps are expected"
            )
        if self.decay_start is not None and self.decay_start < self.warmup:
            raise UserError(f"decay_start={self.decay_start}: the weight still rises then (warmup={self.warmup})")

    def weight(self, step: int, observed: float | None = None) -> float:
        """Weight of the update that is number `step`, from 0; what was observed changes nothing."""
        if step < self.warmup:
            return self.height * (step + 1) / self.warmup
        if self.decay_start is None or step < self.decay_start:
            return self.height
        share = min((step - self.decay_start) / self.decay_steps, 1.0)
        left = 1 - share if self.shape == "linear" else 0.5 * (1 + math.cos(math.pi * share))
        return self.final + (self.height - self.final) * left


class Adaptive(WeightSchedule):
    """Hold a target mean cosine, so that no weight need be found: a proportional-integral controller of the logarithm of the weight.

    With c the observed mean cosine, e = (c - target) / max(c, target), at least -1, log weight = I + damping e, and I grows by gain e with each
    observation. Where the model does not condense of itself the weight falls to `lowest`, which is as good as none.

    Args:
        target: mean cosine (i != j, averaged over layers) to hold, in (0, 1).
        start: the weight before anything was observed.
        lowest, highest: the weight's range; the integral stays in it too, so it does not wind up.
        gain: of the integral, for each observation.
        damping: of the proportional part. With the defaults it does not swing, whether a model answers at once or within some 50 observations.

    Raises:
        UserError: (a ValueError) a number outside its range.

    Examples:
        >>> schedule = Adaptive(target=0.1, start=0.1)
        >>> start, more = schedule.weight(0), schedule.weight(1, observed=0.6)
        >>> start, more > start, schedule.weight(2, observed=0.01) < more
        (0.1, True, True)
    """

    def __init__(
        self,
        target: float,
        start: float = 0.1,
        lowest: float = 1e-4,
        highest: float = 10.0,
        gain: float = 0.1,
        damping: float = 0.5,
    ) -> None:
        if not 0 < target < 1:
            raise UserError(f"target={target}: a mean cosine between 0 and 1 is expected, such as 0.1")
        if not 0 < gain < math.inf or not 0 <= damping < math.inf:
            raise UserError(f"gain={gain}, damping={damping}: a number above 0 and one of at least 0 are expected")
        self.target, self.gain, self.damping = target, gain, damping
        self._range = _logarithms(lowest, start, highest)
        self._integral = math.log(start)
        self._weight = start

    def weight(self, step: int, observed: float | None = None) -> float:
        """Weight of the update that is number `step`; `observed` is a mean cosine. NaN and None leave it as it is."""
        if observed is not None and not math.isnan(observed):
            error = max((observed - self.target) / max(observed, self.target), -1.0)
            self._integral = _clip(self._integral + self.gain * error, self._range)
            self._weight = math.exp(_clip(self._integral + self.damping * error, self._range))
        return self._weight

    def state_dict(self) -> dict[str, Any]:
        """The integral and the weight."""
        return {"integral": self._integral, "weight": self._weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self._integral, self._weight = state["integral"], state["weight"]


class GradientShare(WeightSchedule):
    """Hold the norm of the term's gradient at a share of that of cross entropy: weight = share / observed, smoothed in logarithm.

    What is observed is `gradient_ratio(loss, term, parameters)`, which costs a backward pass of each: for loops of one's own, every so many steps,
    with `attach(..., add_to_loss=False)`.

    Args:
        share: weight times the norm of the term's gradient, over the norm of cross entropy's.
        start: the weight before anything was observed.
        lowest, highest: the weight's range.
        smoothing: how much of the old logarithm an observation leaves, in [0, 1); the first one replaces `start`.

    Raises:
        UserError: (a ValueError) a number outside its range.

    Examples:
        >>> schedule = GradientShare(share=0.1)
        >>> round(schedule.weight(0, observed=0.02), 6)
        5.0
    """

    def __init__(
        self, share: float, start: float = 0.1, lowest: float = 1e-4, highest: float = 10.0, smoothing: float = 0.9
    ) -> None:
        if not 0 < share < math.inf or not 0 <= smoothing < 1:
            raise UserError(f"share={share}, smoothing={smoothing}: a number above 0 and one in [0, 1) are expected")
        self.share, self.smoothing = share, smoothing
        self._range = _logarithms(lowest, start, highest)
        self._weight = start
        self._observed = False

    def weight(self, step: int, observed: float | None = None) -> float:
        """Weight of the update that is number `step`; `observed` is a ratio of gradient norms. What is not positive and finite changes nothing."""
        if observed is not None and 0 < observed < math.inf:
            kept = self.smoothing if self._observed else 0.0
            logarithm = kept * math.log(self._weight) + (1 - kept) * math.log(self.share / observed)
            self._weight = math.exp(_clip(logarithm, self._range))
            self._observed = True
        return self._weight

    def state_dict(self) -> dict[str, Any]:
        """The weight, and whether it rests on an observation."""
        return {"weight": self._weight, "observed": self._observed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self._weight, self._observed = state["weight"], state["observed"]


def gradient_ratio(loss: Tensor, term: Tensor, parameters: Iterable[nn.Parameter]) -> float:
    """Norm of the gradient of `term` (not weighted) over that of `loss`; both keep their graphs, and no `.grad` is touched.

    Args:
        loss: scalar, cross entropy without the term.
        term: scalar, `handle.loss()` of the same forward pass.
        parameters: those that are trained.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]

    def norm(value: Tensor) -> Tensor:
        gradients = torch.autograd.grad(value, trained, retain_graph=True, allow_unused=True)
        norms = [torch.linalg.vector_norm(gradient) for gradient in gradients if gradient is not None]
        return torch.linalg.vector_norm(torch.stack(norms))

    return float(norm(term) / norm(loss))


def _logarithms(lowest: float, start: float, highest: float) -> tuple[float, float]:
    if not 0 < lowest <= start <= highest < math.inf:
        raise UserError(f"lowest={lowest}, start={start}, highest={highest}: must rise, and be above 0")
    return math.log(lowest), math.log(highest)


def _clip(value: float, bounds: tuple[float, float]) -> float:
    return min(max(value, bounds[0]), bounds[1])
