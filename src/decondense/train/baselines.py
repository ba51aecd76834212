"""What the paper compares its loss with: noise on the embeddings, and embeddings that are forgotten. Knows no loop, data or loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from decondense.errors import UserError
from decondense.train.sharding import fill


class NoisyEmbedding:
    """NEFTune (Jain et al. 2023): uniform noise in +-alpha / sqrt(L F) on the input embeddings [batch, L, F] of each training forward pass.

    In evaluation mode and without gradients nothing is added. `with NoisyEmbedding(model, 5.0):`, or `.remove()`, takes the noise off again.

    Args:
        model: of transformers, alone or in peft.
        alpha: of the noise; above 0, 5 in the paper that proposed it.
    """

    def __init__(self, model: Any, alpha: float) -> None:
        if not 0 < alpha < math.inf:
            raise UserError(f"noisy embedding {alpha}: a number above 0 is expected, such as 5")
        self._alpha = alpha
        self._handle = model.get_input_embeddings().register_forward_hook(self._add)

    def _add(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        if not (module.training and torch.is_grad_enabled()):
            return None
        height = self._alpha / math.sqrt(output.shape[-2] * output.shape[-1])
        return output + torch.empty_like(output).uniform_(-height, height)

    def remove(self) -> None:
        """Take the noise off."""
        self._handle.remove()

    def __enter__(self) -> NoisyEmbedding:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


class ActiveForgetting:
    """Active forgetting (Chen et al. 2023): every so many updates the token embeddings begin anew.

    Their weights are drawn from N(0, 0.02), their Adam state is cleared and their own learning rate begins again: it rises linearly in the first
    8 % of each period and falls linearly to 0 in the rest of it. The last period ends with the training. All of it follows from the step, so a
    run that goes on after a stop needs no state of it. Where input and output embeddings are one matrix (`tied`, as in GPT-2) the head is
    forgotten with them.

    Args:
        model: of transformers; its input embeddings must be trained.
        every: updates from one reset to the next.
        steps: updates of the whole training.
        learning_rate: of the embeddings at its peak.
        seed: of the new weights.

    Attributes:
        parameters: the matrix of input embeddings, alone.
        tied: whether it is that of the output too.

    Raises:
        UserError: the embeddings are not trained (LoRA), or `every` is below 1.
    """

    WARMUP = 0.08
    DEVIATION = 0.02

    def __init__(self, model: Any, every: int, steps: int, learning_rate: float, seed: int) -> None:
        if every < 1:
            raise UserError(f"active forgetting every {every} steps: at least 1 is expected")
        embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
        weight = embeddings.weight
        if not weight.requires_grad:
            raise UserError("active forgetting re-initialises token embeddings, and these are not trained (LoRA)")
        self.parameters: Sequence[nn.Parameter] = [weight]
        self.tied = head is not None and head.weight is weight
        self._padding = embeddings.padding_idx
        self._every, self._steps, self._learning_rate, self._seed = every, steps, learning_rate, seed

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of the embeddings in the update that is number `step`, from 0."""
        place = step % self._every
        period = min(self._every, self._steps - (step - place))
        rise = max(round(self.WARMUP * period), 1)
        if place < rise:
            return self._learning_rate * (place + 1) / rise
        return self._learning_rate * (period - place) / (period - rise + 1)

    @torch.no_grad()
    def before_update(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Forget, where `step` begins a period other than the first, and set the learning rate of the embeddings."""
        [weight] = self.parameters
        if step > 0 and step % self._every == 0:
            # Drawn on the CPU from the step: the same on every rank, and on every device.
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
            drawn = torch.randn(weight.shape, generator=generator) * self.DEVIATION
            if self._padding is not None:
                drawn[self._padding] = 0.0
            fill(weight, drawn)
            optimizer.state.pop(weight, None)
        group = next(group for group in optimizer.param_groups if any(one is weight for one in group["params"]))
        group["lr"] = self.learning_rate_at(step)
