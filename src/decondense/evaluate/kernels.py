"""A model in; a copy of it that computes with torchao's weight-only kernels, or why there is none here, out. Knows no text.

torchao quantises `nn.Linear` alone: a `Conv1D` is handed to it as the Linear that it equals.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from decondense.errors import MissingExtra, require
from decondense.evaluate.matrices import Chosen, Matrix
from decondense.models import nothing_logged

# What torchao raises where a kernel, a package, a device or a width is missing.
_FAILURES = (ImportError, RuntimeError, ValueError, NotImplementedError, AssertionError, TypeError, AttributeError)


class Unavailable(Exception):
    """A kernel is not to be had here; the message says why."""


@dataclass(frozen=True, eq=False)
class Kernel:
    """A model that torchao has quantised.

    Attributes:
        model: a copy; the original is as it was.
        bytes_on_disk: as `Chosen.bytes_on_disk` counts, of the tensors that torchao keeps.
        left: names of matrices that torchao left as they are.
        group_size: weights that share a scale; 0 = a row.
    """

    model: Any
    bytes_on_disk: int
    left: list[str]
    group_size: int


def quantise_by_torchao(model: Any, chosen: Chosen, bits: int, group_size: int) -> Kernel:
    """Quantise the chosen matrices by torchao: int8 a row, or int4 a group of `group_size`, which needs bfloat16 and a device with such a kernel.

    Raises:
        Unavailable: torchao or the kernel is not to be had here, or it takes none of the matrices.
    """
    # What torchao logs and warns of while it is imported is of kernels for other machines.
    with nothing_logged(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torchao: Any = require("torchao.quantization", extra="quantized")
        except MissingExtra as error:
            raise Unavailable(str(error)) from error
        except _FAILURES as error:
            raise Unavailable(f"torchao cannot be imported: {_first_line(error)}") from error
        wanted = [matrix for matrix in chosen.matrices if not matrix.is_embedding]
        ours = copy.deepcopy(model)
        linears = _as_linears(ours, wanted)
        before = {name: linear.weight for name, linear in linears.items()}
        try:
            if bits == 4:
                ours = ours.to(torch.bfloat16)
                before = {name: linear.weight for name, linear in linears.items()}
                config = torchao.Int4WeightOnlyConfig(group_size=group_size or 128)
            else:
                config = torchao.Int8WeightOnlyConfig()
            torchao.quantize_(ours, config, filter_fn=lambda module, name: name in linears)
            done = [name for name, linear in linears.items() if type(linear.weight) is not type(before[name])]
        except _FAILURES as error:
            raise Unavailable(_first_line(error)) from error
    if not done:
        raise Unavailable(f"torchao takes none of the {len(linears)} matrices")
    by_name = {matrix.name: matrix for matrix in wanted}
    saved = sum(by_name[name].stored_bytes - _bytes(linears[name].weight) for name in done)
    left = [matrix.name for matrix in chosen.matrices if matrix.name not in done]
    return Kernel(ours, chosen.total_bytes - saved, left, (group_size or 128) if bits == 4 else 0)


def _as_linears(model: nn.Module, wanted: Sequence[Matrix]) -> dict[str, nn.Linear]:
    """The modules of the matrices as nn.Linear, those of the model that are none replaced by one."""
    found: dict[str, nn.Linear] = {}
    for matrix in wanted:
        module: Any = model.get_submodule(matrix.name)
        if matrix.transposed:
            linear = nn.Linear(module.nx, module.nf, device="meta")
            linear.weight = nn.Parameter(module.weight.detach().T.contiguous(), requires_grad=False)
            linear.bias = module.bias
            parent, _, name = matrix.name.rpartition(".")
            setattr(model.get_submodule(parent), name, linear)
            module = linear
        found[matrix.name] = module
    return found


def _bytes(weight: Any) -> int:
    """Of the tensors that a tensor of torchao is made of."""
    if not hasattr(weight, "__tensor_flatten__"):
        return int(weight.numel() * weight.element_size())
    parts = (getattr(weight, name) for name in weight.__tensor_flatten__()[0])
    return sum(_bytes(part) for part in parts if isinstance(part, Tensor))


def _first_line(error: BaseException) -> str:
    first, *_ = str(error).strip().splitlines() or [type(error).__name__]
    return first.rstrip(".")
