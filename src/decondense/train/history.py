"""Numbers of updates and evaluations of a run in, its history out: what results and the printed lines tell of it. Knows no model and no disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from decondense.evaluate.window_loss import HeldOut

_UNTOLD = ("learning_rate", "gradient_norm")


class History:
    """What was seen along the way. It is saved with the state of the run, so that a run that goes on has all of it."""

    def __init__(self, tokens_of_a_step: int) -> None:
        self._tokens = tokens_of_a_step
        self._sums: dict[str, float] = {}
        self._steps = 0
        self.entries: list[dict[str, Any]] = []

    def count(self, numbers: Mapping[str, float]) -> None:
        """Take in the numbers of an update."""
        self._sums = {name: self._sums.get(name, 0.0) + value for name, value in numbers.items()}
        self._steps += 1

    def add(self, step: int, seen: HeldOut) -> str:
        """Keep an evaluation, with the means of the updates since the last one; returns a line that tells of it."""
        training = {name: total / self._steps for name, total in self._sums.items()}
        self._sums, self._steps = {}, 0
        means = seen.condensation.mean_cosine
        entry = {
            "step": step,
            "tokens": step * self._tokens,
            "perplexity": seen.perplexity,
            "mean_cosine": means.tolist(),
        }
        self.entries.append({**entry, "training": training})
        told = "".join(f", {name} {value:.4g}" for name, value in training.items() if name not in _UNTOLD)
        return f"step {step}: perplexity {seen.perplexity:.2f}, mean cosine {float(means[1:].mean()):.3f}{told}"

    def state_dict(self) -> dict[str, Any]:
        """What a run that goes on needs."""
        return {"entries": self.entries, "sums": self._sums, "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.entries, self._sums, self._steps = list(state["entries"]), state["sums"], state["steps"]
