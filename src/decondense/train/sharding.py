"""A model in, the same model with its weights, gradients and Adam state spread over all ranks out (FSDP2). Knows no loop and no disk.

Each block is a unit, and the rest (embeddings, final norm, head) is one: its weights are gathered when it runs. Weights stay in float32 and
autocast computes in bfloat16, as on one process, so that the update is that of one process.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from decondense.errors import UserError
from decondense.ranks import rank, world
from decondense.stacks import find_blocks

DEVICES = ("cpu", "cuda")
"""Between which weights can be exchanged."""


def shard(model: nn.Module, device: str) -> nn.Module:
    """The model on `device`, in place: each rank holds its share of every weight. One process holds all of it.

    Args:
        model: with the same weights on every rank, on the CPU: no device need hold the whole of it.
        device: of this rank, one of `DEVICES`.

    Raises:
        UserError: this torch has no FSDP2.
    """
    if world() == 1:
        return model.to(device)
    try:
        from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
        from torch.distributed.fsdp import fully_shard
    except ImportError as error:
        raise UserError(f"--fsdp needs torch 2.6 or later, and this is {torch.__version__}") from error
    kind = torch.device(device).type
    if kind == "cuda":
        # The launcher's own group is gloo's, which exchanges results.
        mesh = DeviceMesh.from_group(dist.new_group(backend="nccl"), kind)
    else:
        mesh = init_device_mesh(kind, (world(),))
    for block in find_blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` has spread the model over several ranks."""
    return hasattr(model, "set_requires_gradient_sync")


def check_spread(model: nn.Module) -> None:
    """Raise `UserError` where something that was added to a model after `shard` would be trained by each rank for itself."""
    alone = [name for name, one in model.named_parameters() if one.requires_grad and not hasattr(one, "full_tensor")]
    if is_sharded(model) and alone:
        raise UserError(
            f"--fsdp: {alone[0]} is trained beside the model's own weights and cannot be spread over processes: leave --fsdp out"
        )


def reshard(model: nn.Module) -> None:
    """Free weights that a forward pass without a backward pass left gathered; else the next one would read them, whatever changed since."""
    for module in model.modules():
        if is_sharded(module):
            module.reshard()  # type: ignore[operator]


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, gathered from all ranks where it is spread over them."""
    gather: Any = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def fill(parameter: Tensor, values: Tensor) -> None:
    """Write `values`, the same on every rank, into a parameter that may be spread over them."""
    spread: Any = parameter
    if hasattr(spread, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        mesh = spread.device_mesh
        # No rank is the source: each takes its share of what it has.
        values = distribute_tensor(values.to(mesh.device_type), mesh, spread.placements, src_data_rank=None)
    parameter.copy_(values)


def gather_state(model: nn.Module) -> dict[str, Tensor]:
    """The whole `state_dict` on the CPU of the first rank, and an empty one on the others; all must call it."""
    state: dict[str, Tensor] = {}
    reshard(model)
    for name, tensor in model.state_dict().items():
        gathered = whole(tensor)
        if rank() == 0:
            state[name] = gathered.detach().cpu()
    return state
