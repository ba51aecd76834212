"""A model in, its hidden states one at a time out: finds the blocks and the final norm by structure, for attaching and for measuring.

Entries are numbered as transformers' `hidden_states`: 0 is what the first block reads, i what block i gave, and the last what the model's body
returns, after the final norm.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from decondense.errors import UserError

Visit = Callable[[int, Tensor], None]


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside the wrappers that call it (torch.compile, DistributedDataParallel): the one that sees the labels."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = cast(nn.Module, model._orig_mod)
        elif type(model).__name__ in ("DistributedDataParallel", "DataParallel"):
            model = cast(nn.Module, model.module)
        else:
            return model


def body(model: nn.Module) -> nn.Module:
    """The part of a transformers model that maps tokens to the last hidden state: no head, no adapter's wrapper.

    It is the innermost transformers model around the blocks (OPT's head calls the decoder inside its body); a model that is no transformers
    model is returned as it is.
    """
    return _find_stack(model)[0]


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """The model's blocks in order: of the lists of modules that lie in no other list, the one with the most parameters.

    Raises:
        UserError: the model holds no list of blocks.
    """
    return _find_stack(model)[1]


def _find_stack(model: nn.Module) -> tuple[nn.Module, list[nn.Module]]:
    root = unwrap(model)
    stacks: list[tuple[nn.Module, list[nn.Module]]] = []

    def search(module: nn.Module, around: nn.Module) -> None:
        if _is_transformers(module):
            around = module
        for child in module.children():
            if isinstance(child, nn.ModuleList):
                stacks.append((around, list(child)))
            elif isinstance(child, nn.ModuleDict) and all(key.isdigit() for key in child):
                stacks.append((around, list(child.values())))
            else:
                search(child, around)

    search(root, root)
    stacks = [(around, blocks) for around, blocks in stacks if blocks]
    if not stacks:
        raise UserError(
            f"{type(root).__name__}: found no list of blocks in it (an nn.ModuleList); a transformer has one"
        )
    return max(
        stacks, key=lambda stack: sum(parameter.numel() for block in stack[1] for parameter in block.parameters())
    )


def _is_transformers(module: nn.Module) -> bool:
    return hasattr(module, "base_model_prefix") and hasattr(module, "config")


def count_layers(model: nn.Module) -> int:
    """Number of entries of `hidden_states`: one more than blocks are run."""
    return _count_calls(*_find_stack(model)) + 1


def _count_calls(around: nn.Module, blocks: list[nn.Module]) -> int:
    # ALBERT runs a few blocks many times; everyone else runs each block once (a config that says less cuts the list).
    configured = getattr(getattr(around, "config", None), "num_hidden_layers", None)
    return configured if isinstance(configured, int) and configured > 0 else len(blocks)


class Watch:
    """Hooks that show each watched entry of `hidden_states` to `visit(index, hidden)` during every forward pass of the model's body.

    `hidden` [batch, length, features] is the very tensor that `output_hidden_states=True` would return; it is not kept. A forward pass of a
    block outside one of the body (gradient checkpointing recomputes blocks in the backward pass) is not shown.
    """

    def __init__(self, model: nn.Module, visit: Visit, layers: Collection[int] | None = None) -> None:
        around, blocks = _find_stack(model)
        self._calls = _count_calls(around, blocks)
        self._shared = self._calls > len(blocks)
        self._layers = set(range(self._calls + 1)) if layers is None else set(layers)
        self._visit = visit
        self._running = False
        self._call = 0
        self._handles: list[RemovableHandle] = [around.register_forward_pre_hook(self._begin)]
        for position, block in enumerate(blocks):
            self._handles.append(
                block.register_forward_pre_hook(self._read_input(position, block), with_kwargs=True, prepend=True)
            )
            self._handles.append(block.register_forward_hook(self._read_output(position)))
        last = around if _is_transformers(around) else _find_last(around, blocks)
        self._handles.append(last.register_forward_hook(self._read_last))

    def _begin(self, module: nn.Module, args: Any) -> None:
        self._running, self._call = True, 0

    def _read_input(self, position: int, block: nn.Module) -> Callable[..., None]:
        names = list(inspect.signature(block.forward).parameters)

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            call = self._call if self._shared else position
            if self._running and call == 0 and 0 in self._layers:
                self._visit(0, args[0] if args else kwargs[names[0]])

        return hook

    def _read_output(self, position: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if not self._running:
                return
            index = (self._call if self._shared else position) + 1
            self._call += 1
            if index < self._calls and index in self._layers:
                self._visit(index, _first_tensor(output))

        return hook

    def _read_last(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self._running:
            return
        self._running = False
        if self._calls in self._layers:
            self._visit(self._calls, _first_tensor(output))

    def remove(self) -> None:
        """Take the hooks off; the model is as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


def watch(model: nn.Module, visit: Visit, layers: Collection[int] | None = None) -> Watch:
    """Show entries of `hidden_states` (all, or those numbered in `layers`) to `visit` in every forward pass, until `.remove()`."""
    return Watch(model, visit, layers)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode meanwhile. Each module gets its own flag back: parts of a training model may be evaluating."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _find_last(model: nn.Module, blocks: list[nn.Module]) -> nn.Module:
    """The module whose output is the last hidden state, in a model that is no transformers model: the norm after the blocks, or the last block."""
    for parent in model.modules():
        children = list(parent.children())
        for position, child in enumerate(children):
            if list(child.children())[: len(blocks)] == blocks:
                after = [module for module in children[position + 1 :] if type(module).__name__.endswith("Norm")]
                return after[0] if after else blocks[-1]
    return blocks[-1]


def _first_tensor(output: Any) -> Tensor:
    """Hidden states of a module's output: the tensor itself, `last_hidden_state`, or the first of a tuple."""
    if isinstance(output, Tensor):
        return output
    last = getattr(output, "last_hidden_state", None)
    return last if isinstance(last, Tensor) else output[0]
