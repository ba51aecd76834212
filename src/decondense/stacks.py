"""A model in, the modules that make its hidden states out, found by structure or by name. Knows no hook and no tensor."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from decondense.errors import UserError, choose

STACKS = ("encoder", "decoder")


@dataclass(frozen=True)
class Stack:
    """One stack of blocks.

    Attributes:
        caller: the module to call with token ids so that the blocks run.
        around: the module whose forward pass is one pass through the blocks.
        blocks: in order. Where there are fewer than `calls` (ALBERT), they take turns.
        last: the module whose output is the last hidden state.
        calls: how many times a block runs in one forward pass.
    """

    caller: nn.Module
    around: nn.Module
    blocks: list[nn.Module]
    last: nn.Module
    calls: int


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside the wrappers that call it (torch.compile, DistributedDataParallel): the one that sees the labels."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = cast(nn.Module, model._orig_mod)
        elif type(model).__name__ in ("DistributedDataParallel", "DataParallel"):
            model = cast(nn.Module, model.module)
        else:
            return model


def body(model: nn.Module, stack: str | None = None, names: str | Sequence[str] | None = None) -> nn.Module:
    """The part of a transformers model that maps tokens to the last hidden state: no head, no adapter's wrapper.

    It is the innermost transformers model around the blocks (OPT's head calls the decoder inside its body), and takes `input_ids` and
    `attention_mask`; a model that is no transformers model is returned as it is. With `stack="decoder"` it is the innermost one that runs both
    stacks, and takes `decoder_input_ids` and `decoder_attention_mask` too. With `names` it is the unwrapped model.

    Raises:
        UserError: the model holds no list of blocks, or not this stack, or no module of one of the names.
    """
    if names is not None:
        find_named(model, names, stack)
        return unwrap(model)
    return find_stack(model, stack).caller


def find_blocks(model: nn.Module, stack: str | None = None) -> list[nn.Module]:
    """The model's blocks in order: of the lists of modules that lie in no other list, the one with the most weights.

    In a multimodal model only the language tower is searched, and with `stack` only the encoder or the decoder.

    Raises:
        UserError: the model holds no list of blocks, or not this stack.
    """
    return find_stack(model, stack).blocks


def count_layers(model: nn.Module, stack: str | None = None, names: str | Sequence[str] | None = None) -> int:
    """Number of entries that `watch` shows: one more than blocks are run, or the number of modules that `names` stand for."""
    return find_stack(model, stack).calls + 1 if names is None else len(find_named(model, names, stack))


def find_stacks(model: nn.Module) -> tuple[str, ...]:
    """("encoder", "decoder") for a model that has both and whose encoder reads tokens, () for any other."""
    return STACKS if _find_pair(unwrap(model)) else ()


def find_stack(model: nn.Module, stack: str | None = None) -> Stack:
    """The stack of that name; without a name the one with the most weights.

    Raises:
        UserError: the model holds no list of blocks, or not this stack.
    """
    root = unwrap(model)
    pair = _find_pair(root)
    if stack is None:
        around, blocks = _find_largest(root) if pair is None else _find_largest(pair.encoder, pair.decoder)
        last = around if _is_transformers(around) else _find_last(around, blocks)
        return Stack(around, around, blocks, last, _count_calls(around, blocks))
    choose("stack", stack, STACKS)
    if pair is None:
        raise UserError(
            f"stack={stack!r}: {type(root).__name__} has no encoder and decoder that read tokens; leave stack out"
        )
    part = getattr(pair, stack)
    around, blocks = _find_largest(part)
    # A head around the decoder is left out; a decoder that is no transformers model gives its last hidden state itself.
    around = around if _is_transformers(around) else part
    return Stack(pair.runs if stack == "decoder" else around, around, blocks, around, _count_calls(around, blocks))


@dataclass(frozen=True)
class _Pair:
    runs: nn.Module  # the innermost transformers model around both
    encoder: nn.Module
    decoder: nn.Module


def _find_pair(root: nn.Module) -> _Pair | None:
    def search(module: nn.Module, around: nn.Module) -> _Pair | None:
        if _is_transformers(module):
            around = module
        parts = dict(module.named_children())
        if _are_pair(parts, getattr(around, "config", None)):
            return _Pair(around, **{name: parts[name] for name in STACKS})
        return next((pair for part in parts.values() if (pair := search(part, around))), None)

    return search(root, root)


def _are_pair(parts: dict[str, nn.Module], config: Any) -> bool:
    # Autoencoders have both, and Funnel, whose decoder only repeats what its encoder gave: their configurations say no. Where the encoder reads
    # pictures or sound, the decoder is the language part of a multimodal model.
    return (
        getattr(config, "is_encoder_decoder", False)
        and all(name in parts and next(_find_lists(parts[name]), None) for name in STACKS)
        and "input_ids" in inspect.signature(unwrap(parts["encoder"]).forward).parameters
    )


def _find_language_tower(root: nn.Module) -> nn.Module:
    """The part of a multimodal model whose configuration is the one of its text; any other model as it is."""
    outer = next((module for module in root.modules() if _is_transformers(module)), root)
    config: Any = getattr(outer, "config", None)
    try:
        text = config.get_text_config()
    except (AttributeError, ValueError):  # no transformers model, or one with several texts
        return root
    if text is config:
        return root
    towers = (module for module in outer.modules() if _is_transformers(module) and type(module.config) is type(text))
    return next(towers, root)


def _find_largest(*parts: nn.Module) -> tuple[nn.Module, list[nn.Module]]:
    lists = [found for part in parts for found in _find_lists(_find_language_tower(part))]
    if not lists:
        raise UserError(
            f"{type(parts[0]).__name__}: found no list of blocks in it (an nn.ModuleList); a transformer has one, and of any "
            "other model the layers can be given by name"
        )
    around, blocks = max(lists, key=lambda found: sum(_count_weights(block) for block in found[1]))
    # XLM keeps its attentions in one list and its feed-forward parts in another: no module of it gives a block's output.
    beside = [type(other[0]).__name__ for inside, other in lists if inside is around and len(other) == len(blocks)]
    if any("Attention" in name for name in beside) and not any(_has_attention(block) for block in blocks):
        raise UserError(
            f"{type(around).__name__}: its blocks are spread over several lists of modules; give its layers by name"
        )
    return around, blocks


def _find_lists(root: nn.Module) -> Iterator[tuple[nn.Module, list[nn.Module]]]:
    """The lists of modules that lie in no other list, each after the innermost transformers model (or `root`) around it."""

    def search(module: nn.Module, around: nn.Module) -> Iterator[tuple[nn.Module, list[nn.Module]]]:
        if _is_transformers(module):
            around = module
        for child in module.children():
            blocks: list[nn.Module] | None = None
            if isinstance(child, nn.ModuleList):
                blocks = list(child)
            elif isinstance(child, nn.ModuleDict) and all(key.isdigit() for key in child):
                blocks = list(child.values())
            if blocks is None:
                yield from search(child, around)
            elif blocks:
                yield around, blocks

    return search(root, root)


def _has_attention(module: nn.Module) -> bool:
    return any("Attention" in type(part).__name__ for part in module.modules())


def _count_weights(module: nn.Module) -> int:
    # Some quantised layers hold their packed weights as buffers.
    return sum(weight.numel() for weights in (module.parameters(), module.buffers()) for weight in weights)


def _is_transformers(module: nn.Module) -> bool:
    return hasattr(module, "base_model_prefix") and hasattr(module, "config")


def _count_calls(around: nn.Module, blocks: list[nn.Module]) -> int:
    # ALBERT runs a few blocks many times; everyone else runs each block once (a config that says less cuts the list).
    config = getattr(around, "config", None)
    if any(hasattr(config, name) for name in ("decoder_layers", "num_decoder_layers")):
        return len(blocks)  # BART's `num_hidden_layers` is its encoder's, ProphetNet's the sum of both stacks'
    configured = getattr(config, "num_hidden_layers", None)
    return configured if isinstance(configured, int) and configured > 0 else len(blocks)


def _find_last(model: nn.Module, blocks: list[nn.Module]) -> nn.Module:
    """The module whose output is the last hidden state, in a model that is no transformers model: the norm after the blocks, or the last block."""
    for parent in model.modules():
        children = list(parent.children())
        for position, child in enumerate(children):
            if list(child.children())[: len(blocks)] == blocks:
                after = [module for module in children[position + 1 :] if type(module).__name__.endswith("Norm")]
                return after[0] if after else blocks[-1]
    return blocks[-1]


def find_named(model: nn.Module, names: str | Sequence[str], stack: str | None = None) -> dict[str, nn.Module]:
    """The modules of the unwrapped model with these dotted names, in the order given, by name.

    A * stands for any characters but a dot: "blocks.*" is each direct child of `blocks`, in natural order (blocks.2 before blocks.10).

    Raises:
        UserError: a name that no module has, one given twice, no name at all, or a stack beside names.
    """
    if stack is not None:
        raise UserError(
            f"stack={stack!r} and names={names!r}: give one of the two; names can be those of a stack's blocks"
        )
    root = unwrap(model)
    modules = {name: module for name, module in root.named_modules(remove_duplicate=False) if name}
    found: dict[str, nn.Module] = {}
    for pattern in [names] if isinstance(names, str) else names:
        expression = re.compile("[^.]*".join(re.escape(part) for part in pattern.split("*")))
        matches = sorted((name for name in modules if expression.fullmatch(name)), key=_in_natural_order)
        if not matches:
            near = difflib.get_close_matches(pattern, modules, n=3, cutoff=0.0)
            raise UserError(
                f"names: {type(root).__name__} has no module {pattern!r}; the nearest are {', '.join(near)}"
            )
        for name in matches:
            if name in found:
                raise UserError(f"names: module {name!r} is given twice; name each module once")
            found[name] = modules[name]
    if not found:
        raise UserError('names is empty: give dotted names of modules, such as "blocks.0" or "blocks.*"')
    return found


def _in_natural_order(name: str) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
