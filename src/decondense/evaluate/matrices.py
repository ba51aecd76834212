"""A model in; its matrices as rows of output channels, what they take on disk, and the model with them rounded for a while out. Knows no text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from decondense.errors import UserError, require
from decondense.evaluate.quantization import Rounding, dequantise, quantise, round_tokens
from decondense.shapes import Float


@dataclass(frozen=True, eq=False)
class Matrix:
    """A weight matrix of a model.

    Attributes:
        name: of its module.
        module: whose `weight` it is.
        transposed: the module keeps it as [inputs, outputs] (`Conv1D` of GPT-2).
        kind: its name without numbers of blocks, as "attn.c_proj".
        stored_bytes: what it takes in a checkpoint as it is.
    """

    name: str
    module: nn.Module
    transposed: bool
    kind: str
    stored_bytes: int

    @property
    def rows(self) -> Float[Tensor, "outputs inputs"]:
        """The weights as rows, one an output channel (of an embedding: a token). Shares memory with the module's."""
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return weight.detach().T if self.transposed else weight.detach()

    @property
    def is_embedding(self) -> bool:
        """Whether it is looked up in, not multiplied with."""
        return isinstance(self.module, nn.Embedding)


@dataclass(frozen=True, eq=False)
class Chosen:
    """The matrices of a model that are quantised, and what the whole takes on disk.

    Attributes:
        matrices: each weight once, also where several modules share it.
        total_bytes: of all tensors of a checkpoint of the model, in the precision that they have now; shared ones count once.
        parameters: of the model; shared ones count once.
        notes: what a reader should know of the choice.
    """

    matrices: list[Matrix]
    total_bytes: int
    parameters: int
    notes: list[str]

    @property
    def share(self) -> float:
        """Share of the model's parameters that is quantised."""
        return sum(matrix.rows.numel() for matrix in self.matrices) / self.parameters

    def bytes_on_disk(self, rounding: Rounding | None) -> int:
        """Packed codes, scales, zero points, and all that is not quantised as it is stored; headers of files are not counted."""
        if rounding is None:
            return self.total_bytes
        kept = self.total_bytes - sum(matrix.stored_bytes for matrix in self.matrices)
        return kept + sum(rounding.packed_bytes(*matrix.rows.shape) for matrix in self.matrices)


def choose_matrices(model: Any, embeddings: bool = False, head: bool = False) -> Chosen:
    """The weights of `nn.Linear` and of transformers' `Conv1D`; the output embeddings with `head` and the input ones with `embeddings` alone.

    These two are usually left as they are: they are the most sensitive. Where they are one matrix (tied weights) either names both.

    Raises:
        UserError: the model has no such matrix.
    """
    conv1d = require("transformers.pytorch_utils", extra="hf").Conv1D
    output = model.get_output_embeddings()
    tied = output is not None and output.weight is model.get_input_embeddings().weight
    found: list[Matrix] = []
    seen: set[int] = set()
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        table = isinstance(module, nn.Embedding)
        if module is output or (tied and module is model.get_input_embeddings()):
            wanted = head or (tied and embeddings)
        elif table:
            wanted = embeddings
        else:
            wanted = isinstance(module, nn.Linear | conv1d)
        if wanted and isinstance(weight, Tensor) and weight.ndim == 2 and id(weight) not in seen:
            seen.add(id(weight))
            transposed = isinstance(module, conv1d)
            found.append(Matrix(name, module, transposed, kind_of(name), weight.numel() * weight.element_size()))
    if not found:
        raise UserError(
            f"{type(model).__name__} has no matrices to quantise: its weights are in no Linear and no Conv1D; "
            "give a transformer, or --embeddings"
        )
    notes = []
    if tied:
        what = "both are quantised" if embeddings or head else "it is left as it is"
        notes.append(f"input and output embeddings are one matrix (tied weights): {what}")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Chosen(found, _stored_bytes(model), parameters, notes)


def kind_of(name: str) -> str:
    """The last two parts of a module's name that are no numbers.

    >>> kind_of("transformer.h.3.attn.c_proj"), kind_of("lm_head")
    ('attn.c_proj', 'lm_head')
    """
    parts = [part for part in name.split(".") if not re.fullmatch(r"\d+", part)]
    return ".".join(parts[-2:])


@contextmanager
def rounded(matrices: Sequence[Matrix], rounding: Rounding | None, activation_bits: int = 0) -> Iterator[None]:
    """While the block runs, the model computes with what its rounded weights stand for, and afterwards with its own to the last bit.

    Args:
        matrices: to round.
        rounding: of weights; None = none.
        activation_bits: what each matrix is multiplied with is rounded too, token by token; 0 = not.
    """
    with ExitStack() as stack:
        if rounding is not None:
            for matrix in matrices:
                own = matrix.rows.clone()
                stack.callback(matrix.rows.copy_, own)
                try:
                    matrix.rows.copy_(dequantise(quantise(own, rounding)))
                except UserError as error:
                    raise UserError(f"{matrix.name}: {error}") from error
        if activation_bits:
            _hook(matrices, lambda matrix, values: round_tokens(values, activation_bits), stack)
        yield


@contextmanager
def shown(matrices: Iterable[Matrix], visit: Callable[[Matrix, Tensor], None]) -> Iterator[None]:
    """While the block runs, `visit` is shown what each matrix is multiplied with, [..., inputs]."""
    with ExitStack() as stack:

        def look(matrix: Matrix, values: Tensor) -> None:
            visit(matrix, values.detach())

        _hook(matrices, look, stack)
        yield


def _hook(matrices: Iterable[Matrix], function: Callable[[Matrix, Tensor], Tensor | None], stack: ExitStack) -> None:
    """Call `function` before each product with a matrix, whose input becomes what it returns, if anything."""

    def before(matrix: Matrix) -> Callable[..., Any]:
        def hook(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
            changed = function(matrix, given[0])
            return None if changed is None else (changed, *given[1:])

        return hook

    for matrix in matrices:
        if not matrix.is_embedding:
            stack.callback(matrix.module.register_forward_pre_hook(before(matrix)).remove)


def _stored_bytes(model: nn.Module) -> int:
    """Of what a checkpoint holds: parameters and persistent buffers, those that share memory once, as safetensors keeps them."""
    tensors: dict[tuple[int, torch.Size], Tensor] = {}
    for tensor in model.state_dict().values():
        tensors[tensor.data_ptr(), tensor.shape] = tensor
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
