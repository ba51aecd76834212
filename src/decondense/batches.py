"""The arguments of a model's forward pass in, which tokens are real, which sequence each belongs to and how much each sequence weighs out."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from decondense.errors import UserError
from decondense.shapes import Float
from decondense.sums import Sequences, sum_by_sequence

IGNORED_LABEL = -100
Find = Callable[[Tensor, Tensor | None, Tensor | None], Sequences]
"""(hidden states, mask, documents) -> which sequence each token belongs to."""
UNSHIFTED_LOSSES = ("ForMaskedLM", "ForTokenClassification")


@dataclass(frozen=True)
class Batch:
    """What a forward pass was given that says how its sequences lie and weigh.

    Attributes:
        mask: [batch, length], nonzero = real token; None = all.
        documents: [batch, length] document ids; None = a row is a sequence.
        targets: [batch, length] bool, true where the token predicts a target that cross entropy counts; None = no labels of tokens.
        rows: the labels are one a row (classification): each sequence weighs the same.
        total: the denominator of cross entropy where the caller gave one (`num_items_in_batch`).
    """

    mask: Tensor | None
    documents: Tensor | None
    targets: Tensor | None
    rows: bool
    total: Tensor | float | None

    def sequences(self, hidden: Float[Tensor, "batch length features"], find: Find) -> Sequences:
        """The sequences of the hidden states as a loss finds them, the batch checked against their shape."""
        shape = hidden.shape[:2]
        for name, given in (("attention_mask", self.mask), ("documents", self.documents), ("labels", self.targets)):
            if given is not None and given.shape != shape:
                raise UserError(
                    f"{name} has shape {list(given.shape)} where the hidden states have {list(shape)}: expected the same"
                )
        return find(hidden, None if self.mask is None else self.mask != 0, self.documents)

    def shares(self, sequences: Sequences) -> Float[Tensor, " sequences"]:
        """n_b over the denominator: how much each sequence's loss weighs, as cross entropy weighs it."""
        count, device = len(sequences.tokens), sequences.tokens.device
        if self.rows:
            weights = (sequences.tokens > 0).long()
        elif self.targets is None:
            weights = sequences.tokens
        else:
            index = sequences.index
            targets = self.targets.to(device).reshape(index.shape)
            if sequences.packed and sequences.valid is not None:
                # The last padding token before a document predicts its first token; the target counts, and for that document.
                following = torch.cat([index[:, 1:], index[:, -1:]], dim=1)
                index = torch.where(sequences.valid, index, following)
            weights = sequences.over_ranks(sum_by_sequence(targets.reshape(-1).long(), index.reshape(-1), count))
        total = weights.sum() if self.total is None else torch.as_tensor(self.total, device=device)
        return weights / total.clamp(min=1)


def read_batch(model: nn.Module, given: dict[str, Any], documents: Tensor | None) -> Batch:
    """Read the arguments `given` to `model`; `documents` goes before what they say.

    Documents are taken from `seq_idx`, `cu_seq_lens_q`, or restarts of `position_ids`, in that order.

    Raises:
        UserError: a mask that is not two-dimensional hides where sequences begin, and nothing else tells.
    """
    given = {**given.pop("kwargs", {}), **given} if isinstance(given.get("kwargs"), dict) else given
    mask = given.get("attention_mask")
    if documents is None:
        documents = _read_documents(given)
    if mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2):
        if documents is None:
            shape = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
            raise UserError(
                f"attention_mask {shape}: padding and documents cannot be read from it; pass a [batch, length] mask, position_ids that restart, "
                "or set handle.documents"
            )
        mask = None
    labels, shifted = given.get("labels"), given.get("shift_labels")
    targets, rows = None, False
    if isinstance(shifted, Tensor):
        targets = shifted != IGNORED_LABEL
    elif isinstance(labels, Tensor):
        if labels.ndim < 2:
            rows = True
        elif _shifts_labels(model):
            targets = torch.zeros_like(labels, dtype=torch.bool)
            targets[:, :-1] = labels[:, 1:] != IGNORED_LABEL
        else:
            targets = labels != IGNORED_LABEL
    total = given.get("num_items_in_batch") if _divides_by_total(model) else None
    return Batch(mask, documents, targets, rows, total)


def _head(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _shifts_labels(model: nn.Module) -> bool:
    """Whether the model's cross entropy compares the output at a token with the label of the next one."""
    if getattr(getattr(_head(model), "config", None), "is_encoder_decoder", False):
        return False
    return getattr(_head(model), "loss_type", None) not in UNSHIFTED_LOSSES


def _divides_by_total(model: nn.Module) -> bool:
    """Whether the model's cross entropy divides by `num_items_in_batch`: heads of encoders (BERT's) may take it and yet compute a plain mean."""
    if _shifts_labels(model):
        return True
    return "loss_function" in inspect.unwrap(type(_head(model)).forward).__code__.co_names


def _read_documents(given: dict[str, Any]) -> Tensor | None:
    numbers, bounds, positions = (given.get(name) for name in ("seq_idx", "cu_seq_lens_q", "position_ids"))
    if isinstance(numbers, Tensor):
        return numbers
    if isinstance(bounds, Tensor):
        first: Tensor = next(given[name] for name in ("input_ids", "inputs_embeds") if given.get(name) is not None)
        places = torch.arange(first.shape[0] * first.shape[1], device=bounds.device)
        return torch.bucketize(places, bounds[1:].to(places.dtype), right=True).view(first.shape[:2])
    if isinstance(positions, Tensor) and positions.ndim == 2:
        restarts = torch.zeros_like(positions)
        restarts[:, 1:] = (positions[:, 1:] <= positions[:, :-1]).to(positions.dtype)
        rows = next(
            (given[name].shape[0] for name in ("input_ids", "inputs_embeds") if given.get(name) is not None),
            len(positions),
        )
        return restarts.cumsum(dim=1).expand(rows, -1)
    return None
