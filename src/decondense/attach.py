"""A model and a loss in, a model out whose returned loss has the dispersion term added while it trains. Knows no trainer.

The term is mean over layers of sum_b n_b r_b / sum_b n_b: r_b the loss of sequence b, n_b the targets that cross entropy counts in it. So whatever
a trainer does to scale cross entropy over accumulation steps and ranks is right for the term too.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from decondense.batches import Batch, read_batch
from decondense.errors import UserError, choose
from decondense.layers import body, count_layers, unwrap, watch
from decondense.losses.module import DispersionLoss
from decondense.losses.pairs import Partition, Subset
from decondense.shapes import Float

LAYER_NAMES = ("all", "last", "early_half", "late_half")

# Weak, so that a model that is let go while a loss is attached is let go.
_attached: WeakSet[nn.Module] = WeakSet()


def attach(
    model: nn.Module,
    loss: DispersionLoss,
    weight: float = 0.1,
    layers: str | Sequence[int] = "all",
    add_to_loss: bool = True,
) -> Attachment:
    """Add `weight` times a dispersion loss on hidden states to the loss that `model` returns while it trains.

    In `eval()` and without gradients nothing happens, so evaluation stays plain cross entropy.

    Args:
        model: a transformers model, alone or in peft, DistributedDataParallel, FSDP2; or any model with a list of blocks.
        loss: what to minimise on the hidden states [batch, length, features] of each layer.
        weight: of the term in the loss; may be changed while training (`handle.weight`).
        layers: "all" (every entry of `hidden_states` but the embeddings), "last", "early_half", "late_half", or indices of `hidden_states`.
        add_to_loss: False leaves the model's output alone; `handle.loss()` gives the term to a loop that computes its own loss.

    Returns:
        The handle. `handle.detach()`, or leaving `with attach(...) as handle:`, takes everything off again.

    Raises:
        UserError: (a ValueError) unknown layers, or a model that a loss is attached to already. While training: a forward pass without a loss to
            add to (no labels given), or with one that its trainer does not use (TRL's), a four-dimensional attention mask without document ids,
            a layer run without gradients (reentrant gradient checkpointing around hooks), a model that was compiled and called before.
    """
    return Attachment(model, loss, weight, layers, add_to_loss)


class Attachment:
    """Handle of an attached loss: its weight, its last term, and the way to take it off. Made by `attach`.

    Attributes:
        weight: of the term in the model's loss.
        layers: the watched indices of `hidden_states`.
        chosen: those of them that the term is the mean over from the next forward pass on; None = all. May be changed while training.
        documents: [batch, length] integer ids of the next batches, in place of what the model is given; None = read the model's input.
    """

    def __init__(
        self, model: nn.Module, loss: DispersionLoss, weight: float, layers: str | Sequence[int], add_to_loss: bool
    ) -> None:
        self._model, self._body = unwrap(model), body(model)
        if self._body in _attached:
            raise UserError(
                f"{type(self._model).__name__}: a dispersion loss is attached already; call .detach() on its handle first"
            )
        if not isinstance(loss, DispersionLoss):
            raise TypeError(f"loss: expected a DispersionLoss, got {type(loss).__name__}")
        if (
            isinstance(loss.pairs, Partition | Subset)
            and not loss.pairs.same_on_ranks
            and _is_tensor_parallel(self._model)
        ):
            raise UserError(
                f"pairs={loss.pairs}: the ranks of a tensor-parallel model hold the same tokens and must draw the same pairs; "
                f"give {type(loss.pairs).__name__}(..., same_on_ranks=True)"
            )
        self.layers = select_layers(layers, count_layers(model))
        self.weight = weight
        self.chosen: Collection[int] | None = None
        self.documents: Tensor | None = None
        self._loss = loss
        self._add_to_loss = add_to_loss
        self._term: Tensor | None = None
        self._batch: Batch | None = None
        self._hidden: dict[int, Tensor] = {}
        self._parameters = inspect.signature(self._model.forward)
        self._watch = watch(self._body, self._keep, self.layers)
        self._handles = [
            self._model.register_forward_pre_hook(self._begin, with_kwargs=True),
            self._model.register_forward_hook(self._finish),
        ]
        _attached.add(self._body)

    def loss(self) -> Float[Tensor, ""]:
        """The term of the last training forward pass, not weighted, with its graph.

        Raises:
            RuntimeError: there was no training forward pass yet.
        """
        if self._term is None:
            raise RuntimeError("no term yet: run the model once in training mode and with gradients")
        return self._term

    def detach(self) -> None:
        """Take the loss off: the model is as it was before `attach`. A second call does nothing."""
        if not self._handles:
            return
        self._watch.remove()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._hidden.clear()
        self._term = self._batch = None
        _attached.discard(self._body)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs: the step that random pairs are drawn from, the weight, and the chosen layers."""
        chosen = None if self.chosen is None else sorted(self.chosen)
        return {"step": int(self._loss.step), "weight": self.weight, "chosen": chosen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self._loss.step.fill_(state["step"])
        self.weight, self.chosen = state["weight"], state["chosen"]

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *exception: object) -> None:
        self.detach()

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._hidden.clear()
        self._batch = None
        if module.training and torch.is_grad_enabled():
            self._term = None
            given = self._parameters.bind_partial(*args, **kwargs).arguments if args else kwargs
            self._batch = read_batch(module, {**kwargs, **given}, self.documents)
            self._loss.step.add_(1)

    def _keep(self, index: int, hidden: Tensor) -> None:
        # A layer's output is alive until the backward pass anyway (the next layer's input): holding it until the forward pass ends costs nothing,
        # and the term is computed outside whatever a checkpoint runs again.
        if self._batch is None or not (self.chosen is None or index in self.chosen):
            return
        if not torch.is_grad_enabled():
            raise UserError(
                f"layer {index} is run without gradients (reentrant gradient checkpointing), so a loss on it cannot train it: "
                "use gradient_checkpointing_kwargs={'use_reentrant': False}"
            )
        self._hidden[index] = hidden

    def _finish(self, module: nn.Module, args: Any, output: Any) -> Any:
        batch, self._batch = self._batch, None
        if batch is None:
            return None
        self._term = self._mean_over_layers(batch)
        self._hidden.clear()
        return self._add(output, self.weight * self._term) if self._add_to_loss else None

    def _add(self, output: Any, term: Tensor) -> Any:
        """The model's output with `term` in what the trainer takes for the loss."""
        if getattr(output, "log_probs", None) is not None:
            raise UserError(
                "the model returned log_probs, from which its trainer (TRL's SFTTrainer) computes the loss in place of the model's own, so a term "
                "added to that would be lost: use decondense.train.sft.attach_to_sft(trainer, ...), or attach with add_to_loss=False and add "
                "handle.weight * handle.loss() yourself"
            )
        return _add_to_output(output, term)

    def _mean_over_layers(self, batch: Batch) -> Float[Tensor, ""]:
        # A model may skip some of its blocks, and the loss is taken on those that ran. That none was seen is no choice of the model's.
        seen = self._watch.saw_blocks()
        if self.chosen is not None and seen and not self._hidden:
            raise UserError(
                f"chosen={sorted(self.chosen)}: none of these is one of the layers {self.layers} and was run, so there is none to take the loss on"
            )
        if not self._hidden or (len(self._hidden) < len(self.layers) and not seen):
            raise UserError(
                f"{type(self._model).__name__}: none of its blocks was seen to run, so there is no layer to take the loss on; "
                "what torch.compile made before attach does not show them: attach before the first call of a compiled model, "
                "or call torch.compiler.reset() and then attach"
            )
        first = next(iter(self._hidden.values()))
        sequences = batch.sequences(first, self._loss.find_sequences)
        shares = batch.shares(sequences)
        terms = []
        for index, hidden in self._hidden.items():
            # With a model spread over devices the sequences follow each layer.
            values = self._loss.of_sequences(hidden, sequences.to(hidden.device), layer=index, recompute=True)
            terms.append((values * shares.to(values)).sum().to(first.device))
        # Without a total cross entropy is a mean over this rank's tokens, and trainers average it over ranks.
        return sequences.as_part(torch.stack(terms).mean(), averaged=batch.total is None)


def _is_tensor_parallel(model: nn.Module) -> bool:
    """Whether weights lie on a dimension of a device mesh that is called after tensor parallelism, as torch's and transformers' are."""
    meshes = (getattr(parameter, "device_mesh", None) for parameter in model.parameters())
    return any("tp" in (mesh.mesh_dim_names or ()) for mesh in meshes if mesh is not None)


def select_layers(layers: str | Sequence[int], count: int) -> list[int]:
    """Indices of `hidden_states` (`count` entries) that a name, or a list of indices (negative ones count from the end), stands for."""
    last = count - 1
    if isinstance(layers, str):
        choose("layers", layers, LAYER_NAMES)
        middle = last // 2
        ranges = {
            "all": (1, last),
            "last": (last, last),
            "early_half": (1, max(middle, 1)),
            "late_half": (middle + 1, last),
        }
        first, final = ranges[layers]
        return list(range(first, final + 1))
    indices = [index + count if index < 0 else index for index in layers]
    if not indices or len(set(indices)) < len(indices) or not all(0 <= index < count for index in indices):
        raise UserError(
            f"layers={list(layers)}: expected different indices from 0 to {last} (0 = embeddings), or one of {', '.join(LAYER_NAMES)}"
        )
    return sorted(indices)


def _add_to_output(output: Any, term: Tensor) -> Any:
    """The model's output with `term` added to its loss."""
    if isinstance(output, tuple) and output and isinstance(output[0], Tensor) and output[0].ndim == 0:
        return (output[0] + term.to(output[0].device), *output[1:])
    loss = output.get("loss") if isinstance(output, dict) else getattr(output, "loss", None)
    if not isinstance(loss, Tensor):
        raise UserError(
            "the model returned no loss to add the term to (a forward pass without labels): pass labels, "
            "or attach with add_to_loss=False and add handle.weight * handle.loss() yourself"
        )
    if isinstance(output, dict):
        output["loss"] = loss + term.to(loss.device)
    else:
        output.loss = loss + term.to(loss.device)
    return output
