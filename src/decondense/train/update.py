"""A model and one batch in, its gradient out: in parts where memory is short, over ranks where there are several. Knows no optimiser.

Whatever the split, the gradient is that of the whole batch: each part is divided by the number of targets of all of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from decondense.batches import IGNORED_LABEL
from decondense.errors import UserError
from decondense.ranks import rank, world
from decondense.train.sharding import is_sharded

Batch = Tensor | Mapping[str, Tensor]
"""Token ids [batch, length]; or `input_ids`, `labels` and what else has a row for each of theirs, by name."""

Objective = Callable[[Any, dict[str, Tensor], Tensor | None], dict[str, Tensor]]
"""(model, part of a batch, number of targets of the whole batch or None where the part is the whole) -> named terms whose sum is the loss."""


def model_loss(model: Any, part: dict[str, Tensor], total: Tensor | None) -> dict[str, Tensor]:
    """The loss that the model returns; as transformers' models do, it divides by `total` where that is given."""
    return {"the loss": model(**part, **({} if total is None else {"num_items_in_batch": total})).loss}


@dataclass(frozen=True)
class Update:
    """How a batch becomes a gradient.

    Attributes:
        objective: gives the terms of the loss.
        micro_batch: rows in one forward pass; 0 = all of a rank's.
        bfloat16: forward passes compute in bfloat16 where that is safe (autocast); weights, gradients and sums stay as they are.
        seed: torch's generator is seeded by (seed, step, rank, part) before each forward pass, so that dropout is the same in a run that goes
            on after a stop; None leaves the generator alone.
        wrapped: what is called in place of the model where several ranks share the batch: `over_ranks(model)`; None where `sharding.shard` spread it.
    """

    objective: Objective = model_loss
    micro_batch: int = 0
    bfloat16: bool = False
    seed: int | None = None
    wrapped: nn.Module | None = None

    def accumulate(self, model: nn.Module, batch: Batch, step: int) -> dict[str, float]:
        """Add the gradient of `batch`, the same on every rank, to the model's parameters; returns the terms of the loss of the whole batch.

        Raises:
            UserError: fewer rows than ranks.
        """
        given = {"input_ids": batch, "labels": batch} if isinstance(batch, Tensor) else dict(batch)
        own, ranks = rank(), world()
        rows, device = len(given["input_ids"]), given["input_ids"].device
        if rows < ranks:
            raise UserError(f"a batch of {rows} windows cannot be shared by {ranks} processes: each needs at least one")
        parts = torch.arange(own, rows, ranks, device=device).split(self.micro_batch or rows)
        # Each rank runs as many forward passes as the one with most rows: where weights are spread over ranks, each pass gathers them from all.
        passes = math.ceil(math.ceil(rows / ranks) / (self.micro_batch or rows))
        whole = ranks == 1 and passes == 1
        total = None if whole else (given["labels"][:, 1:] != IGNORED_LABEL).sum()
        runner: Any = model if self.wrapped is None else self.wrapped
        sums: dict[str, Tensor] = {}
        for number in range(passes):
            counts = number < len(parts)
            part = parts[number] if counts else parts[-1][:1]
            if self.seed is not None:
                torch.manual_seed(_mix(self.seed, step, own, number))
            with _exchanging(runner, last=number + 1 == passes):
                # Copies in half precision are not kept where weights are gathered for one block at a time.
                kept = not is_sharded(runner)
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.bfloat16, cache_enabled=kept):
                    terms = self.objective(runner, {name: tensor[part] for name, tensor in given.items()}, total)
                loss = torch.stack(list(terms.values())).sum()
                # Ranks take the mean of their gradients, and theirs are shares of one sum.
                (loss if ranks == 1 else loss * ranks * counts).backward()
            if not counts:
                continue
            for name, term in terms.items():
                sums[name] = term.detach() + sums[name] if name in sums else term.detach()
        values = torch.stack(list(sums.values()))
        if ranks > 1:
            values = values if dist.get_backend() == "nccl" else values.cpu()
            dist.all_reduce(values)
        return dict(zip(sums, values.tolist(), strict=True))


@contextlib.contextmanager
def _exchanging(runner: Any, last: bool) -> Iterator[None]:
    """Have ranks exchange gradients once, in the backward pass of their last part."""
    if is_sharded(runner):
        runner.set_requires_gradient_sync(last)
    waits = hasattr(runner, "no_sync") and not last
    with runner.no_sync() if waits else contextlib.nullcontext():
        yield


def over_ranks(model: nn.Module) -> nn.Module | None:
    """The model as `Update.wrapped` has it: all ranks train it together; None where there is one, or weights are spread over them."""
    if world() == 1 or is_sharded(model):
        return None
    distributed = nn.parallel.DistributedDataParallel
    # Buffers are the same on every rank, and need no exchange in each forward pass. torch 2.13 has another name for it.
    new = "forward_sync_buffers" in inspect.signature(distributed).parameters
    options: dict[str, Any] = {"forward_sync_buffers" if new else "broadcast_buffers": False}
    if next(model.parameters()).is_cuda:
        options["process_group"] = dist.new_group(backend="nccl")
    return distributed(model, **options)


def _mix(*numbers: int) -> int:
    """A seed for torch, of 63 bits."""
    digest = hashlib.sha256(" ".join(map(str, numbers)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
