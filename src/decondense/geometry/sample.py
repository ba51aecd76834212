"""Hidden states of one layer in, a fixed number of their tokens out, for what does not add up. Knows no metric.

The tokens with the smallest keys are kept. Keys follow from (seed, text, position), so that every layer keeps the same tokens, whatever
the batches, and samples of parts merge into the sample of the whole.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from decondense.shapes import Float, Int


class TokenSample:
    """The `size` tokens with the smallest keys of all that were seen, as vectors; 0 keeps none.

    Attributes:
        size: how many tokens are kept at most.
        keys: [tokens] int64, rising.
        vectors: [tokens, features], float32 or float64, on the CPU; None before the first update.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.keys = torch.zeros(0, dtype=torch.int64)
        self.vectors: Tensor | None = None
        self._seen = 0

    def update(
        self,
        hidden: Float[Tensor, "batch length features"],
        tokens: Int[Tensor, " batch"],
        keys: Int[Tensor, "batch length"] | None,
    ) -> None:
        """Look at a batch whose first `tokens` tokens of each row are real; without keys tokens are taken in the order seen."""
        batch, length, features = hidden.shape
        real = torch.arange(length) < tokens[:, None]
        if keys is None:
            keys = torch.arange(self._seen, self._seen + batch * length).view(batch, length)
            self._seen += batch * length
        keys = keys.cpu()
        below = self.keys[-1] if len(self.keys) == self.size else torch.tensor(torch.iinfo(torch.int64).max)
        chosen = (real & (keys < below)).view(-1).nonzero()[:, 0]
        if len(chosen) > self.size:  # of a first batch most would be copied in vain
            chosen = chosen[keys.view(-1)[chosen].argsort(stable=True)[: self.size]]
        if len(chosen):
            found = hidden.reshape(-1, features)[chosen.to(hidden.device)].cpu()
            self._keep(keys.view(-1)[chosen], found)

    def merge(self, other: TokenSample) -> TokenSample:
        """The sample of what both saw. Neither is changed."""
        merged = TokenSample(self.size)
        merged._seen = self._seen + other._seen
        for part in (self, other):
            if part.vectors is not None:
                merged._keep(part.keys, part.vectors)
        return merged

    def _keep(self, keys: Int[Tensor, " found"], vectors: Float[Tensor, "found features"]) -> None:
        if self.vectors is not None:
            keys, vectors = torch.cat([self.keys, keys]), torch.cat([self.vectors, vectors])
        order = keys.argsort(stable=True)[: self.size]
        self.keys, self.vectors = keys[order], vectors[order]

    def state_dict(self) -> dict[str, Any]:
        """The tokens kept so far."""
        return {"keys": self.keys, "vectors": self.vectors, "seen": self._seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.keys, self.vectors, self._seen = state["keys"], state["vectors"], state["seen"]
