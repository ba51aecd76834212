"""A model in, its hidden states one at a time out, for attaching and for measuring.

Entries are numbered as transformers' `hidden_states`: 0 is what the first block reads, i what block i gave and the next one reads, and the last
what the model's body returns, after the final norm. Where layers are named, entry i is what module i of the names gave.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from decondense.errors import UserError
from decondense.stacks import Stack, body, count_layers, find_blocks, find_named, find_stack, find_stacks, unwrap

__all__ = [
    "Visit",
    "Watch",
    "body",
    "count_layers",
    "evaluating",
    "find_blocks",
    "find_stacks",
    "unwrap",
    "watch",
]

Visit = Callable[[int, Tensor], None]


class Watch:
    """Hooks that show each watched entry of `hidden_states` to `visit(index, hidden)` during every forward pass of the model's body.

    `hidden` [batch, length, features] is the very tensor that `output_hidden_states=True` would return; it is not kept. A forward pass of a
    block outside one of the body (gradient checkpointing recomputes blocks in the backward pass) is not shown.
    """

    def __init__(
        self,
        model: nn.Module,
        visit: Visit,
        layers: Collection[int] | None = None,
        stack: str | None = None,
        names: str | Sequence[str] | None = None,
    ) -> None:
        self._visit = visit
        self._begun = self._running = False
        self._shown: Counter[int] = Counter()
        self._handles: list[RemovableHandle] = []
        if names is None:
            found = find_stack(model, stack)
            self._root = found.around
            self._labels = [f"hidden_states[{index}]" for index in range(found.calls + 1)]
            self._hook_blocks(found)
        else:
            modules = find_named(model, names, stack)
            self._root = unwrap(model)
            self._labels = [f"names: module {name!r}" for name in modules]
            self._hook_named(list(modules.values()))
        self._layers = set(range(len(self._labels)) if layers is None else layers)

    def _hook_blocks(self, stack: Stack) -> None:
        shared = stack.calls > len(stack.blocks)

        def read(position: int, name: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                if self._running:
                    index = self._shown.total() if shared else position
                    if index < stack.calls:
                        self._show(index, args[0] if args else kwargs.get(name, kwargs))
                    else:
                        self._shown[index] += 1  # a pass too many, which `check` tells

            return hook

        def end(module: nn.Module, args: Any, output: Any) -> None:
            if self._running:
                self._running = False
                self._show(stack.calls, output)

        self._handles.append(stack.around.register_forward_pre_hook(self._begin))
        # What a block reads is what the block before it gave, and what some models do to that in between (RWKV halves it now and then, a large
        # DeBERTa convolves it) belongs to the entry in transformers too.
        for position, block in enumerate(stack.blocks):
            name = next(iter(inspect.signature(unwrap(block).forward).parameters), "")
            hook = block.register_forward_pre_hook(read(position, name), with_kwargs=True, prepend=True)
            self._handles.append(hook)
        self._handles.append(stack.last.register_forward_hook(end))

    def _hook_named(self, modules: list[nn.Module]) -> None:
        def read(index: int) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                if self._running:
                    self._show(index, output)

            return hook

        def end(module: nn.Module, args: Any, output: Any) -> None:
            self._running = False
            self.check()

        self._handles.append(self._root.register_forward_pre_hook(self._begin))
        self._handles += [module.register_forward_hook(read(index)) for index, module in enumerate(modules)]
        self._handles.append(self._root.register_forward_hook(end))

    def _begin(self, module: nn.Module, args: Any) -> None:
        self._begun = self._running = True
        self._shown.clear()

    def _show(self, index: int, output: Any) -> None:
        self._shown[index] += 1
        if index not in self._layers:
            return
        hidden = _find_hidden(output)
        if hidden is None or hidden.ndim != 3 or not hidden.is_floating_point():
            given = type(output).__name__ if hidden is None else f"{hidden.dtype} {list(hidden.shape)}"
            raise UserError(
                f"{self._labels[index]} is {given}: a layer must give floating-point numbers [batch, length, features]; "
                "name modules that do"
            )
        self._visit(index, hidden)

    def saw_blocks(self) -> bool:
        """Whether the last forward pass showed an entry before the last, watched or not."""
        return any(index < len(self._labels) - 1 for index in self._shown)

    def check(self) -> None:
        """Raise `UserError` unless the last forward pass ran through each layer once. With `names` every forward pass ends with this check.

        Some models skip blocks (Mllama its cross-attention where there is no image) or go through them several times.
        """
        if not self._begun:
            raise UserError(
                f"no forward pass of {type(self._root).__name__} was seen: call it while it is watched; a model that was compiled must be "
                "watched before its first call"
            )
        for index in sorted(self._shown.keys() | self._layers):
            times = self._shown[index]
            if times != 1 or index >= len(self._labels):
                label = self._labels[index] if index < len(self._labels) else f"hidden_states[{index}]"
                raise UserError(
                    f"{label} is made {times} times in a forward pass of {type(self._root).__name__}, not once: "
                    "name modules that run once"
                )

    def remove(self) -> None:
        """Take the hooks off; the model is as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


def watch(
    model: nn.Module,
    visit: Visit,
    layers: Collection[int] | None = None,
    stack: str | None = None,
    names: str | Sequence[str] | None = None,
) -> Watch:
    """Show entries of `hidden_states` (all, or those numbered in `layers`) to `visit` in every forward pass, until `.remove()`.

    Args:
        model: any model of transformers, alone or wrapped (torch.compile, DistributedDataParallel, peft, accelerate); any other with a list of
            blocks; with `names` any at all.
        visit: called with the number of an entry and its tensor [batch, length, features].
        layers: numbers of the entries to show.
        stack: "encoder" or "decoder" of a model with both: the entries are its `encoder_hidden_states` or `decoder_hidden_states`.
        names: dotted names of modules, * for any characters but a dot: entry i is the output of module i (itself, its `last_hidden_state`, or its
            first tensor), and there is no entry for the embeddings.

    Raises:
        UserError: no list of blocks, no such stack, no module of a name. In a forward pass: an entry that is no floating-point
            [batch, length, features]; a named module that runs twice, or not at all.
    """
    return Watch(model, visit, layers, stack, names)


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


def _find_hidden(output: Any) -> Tensor | None:
    """Hidden states of a module's output: the tensor itself, `last_hidden_state`, or the first tensor of a tuple, list or dictionary."""
    if isinstance(output, Tensor):
        return output
    parts = output if isinstance(output, Mapping) else {}
    last = getattr(output, "last_hidden_state", parts.get("last_hidden_state"))
    if isinstance(last, Tensor):
        return last
    items = parts.values() if parts else output if isinstance(output, tuple | list) else ()
    return next((item for item in items if isinstance(item, Tensor)), None)
