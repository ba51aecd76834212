"""A model and texts in; what its hidden states are good for, item by item, out: retrieval, linear probes, blanks. Knows no data set.

Everything is one number an item, so that intervals come from resampling items and models are compared item by item.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from decondense.errors import UserError
from decondense.evaluate.probe_items import Cloze
from decondense.geometry.uncertainty import bootstrap_interval
from decondense.layers import count_layers, evaluating, watch
from decondense.shapes import Bool, Float, Int
from decondense.tokens import check_vocabulary, plan_batches, tokenize

PADDING_SHARE = 0.1
# Of the mean eigenvalue of the features' second moments: from hardly any shrinkage to little else.
RIDGES = tuple(10.0**power for power in range(-6, 3))


@dataclass(frozen=True)
class Score:
    """A mean over items.

    Attributes:
        mean: of the items.
        low: end of its 95 % bootstrap interval over items.
        high: the other end.
        items: how many.
    """

    mean: float
    low: float
    high: float
    items: int


def scores(per_item: Float[Tensor, "items columns"], seed: int = 0) -> list[Score]:
    """The mean of each column with its interval; the same resamples of items for all columns."""
    intervals = bootstrap_interval(per_item.double(), seed, resamples=1999)
    means = per_item.double().mean(dim=0).tolist()
    return [Score(mean, low, high, len(per_item)) for mean, (low, high) in zip(means, intervals.tolist(), strict=True)]


@torch.no_grad()
def pooled_states(
    model: Any, tokenizer: Any, texts: Sequence[str], max_length: int = 512, batch_size: int = 16
) -> list[Float[Tensor, "texts features"]]:
    """The mean of the hidden states of each text's tokens, of every entry of `hidden_states`, in float64.

    Of a text its first `max_length` tokens are read.

    Raises:
        UserError: a text has fewer than two tokens, the tokenizer is not the model's, or a layer holds NaN or infinity.
    """
    found = tokenize(tokenizer, texts, max_length)
    check_vocabulary(found, model.get_input_embeddings().num_embeddings)
    sums: list[list[Tensor]] = [[] for _ in range(count_layers(model))]
    device = model.get_input_embeddings().weight.device
    order: list[int] = []
    mask = torch.empty(0)

    def visit(index: int, hidden: Tensor) -> None:
        rows = torch.where(mask[..., None], hidden.double(), 0.0).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        sums[index].append(rows.cpu())

    with evaluating(model), watch(model, visit):
        for batch in plan_batches(found.lengths, batch_size, PADDING_SHARE):
            tokens, mask = _pad([found.ids[index] for index in batch], device)
            model(input_ids=tokens, attention_mask=mask.long())
            order += batch
    back = torch.tensor(order).argsort()
    states = [torch.cat(parts)[back] for parts in sums]
    broken = [index for index, one in enumerate(states) if not torch.isfinite(one).all()]
    if broken:
        raise UserError(f"layers {broken} hold NaN or infinity: such states are no features")
    return states


def _pad(rows: Sequence[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows of token ids and which tokens are real, both [rows, length]."""
    tokens = torch.nn.utils.rnn.pad_sequence([row.long() for row in rows], batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(tokens.shape[1]) < lengths[:, None]
    return tokens.to(device), mask.to(device)


def centred(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets without their common mean: what all items share says nothing about any of them."""
    mean = torch.cat([first, second]).mean(dim=0)
    return first - mean, second - mean


def retrieval_ranks(
    first: Float[Tensor, "items features"], second: Float[Tensor, "items features"]
) -> Float[Tensor, "items 2"]:
    """Where its other half stands for each half, when all others are sorted by cosine: 1 is first. [items, 2]: from the first half, from the second.

    Others that are as near as the right one stand before it, so that states which cannot be told apart come last.
    """
    left, right = (torch.nn.functional.normalize(side, dim=1) for side in (first, second))
    cosines = left @ right.T
    # Equal vectors have cosines that differ by rounding.
    own = cosines.diagonal()[:, None] - 1e-12
    return torch.stack([(cosines >= own).sum(dim=1), (own <= cosines.T).sum(dim=1)], dim=1).clamp(min=1).double()


def linear_probe(
    training: Float[Tensor, "items features"],
    labels: Int[Tensor, " items"],
    test: Float[Tensor, "test features"],
    truth: Int[Tensor, " test"],
) -> Bool[Tensor, " test"]:
    """Which test items a linear classifier of the states gets right: ridge regression onto the classes, the largest wins.

    It has an intercept, so that a mean common to all items does not matter. The ridge is the one of `RIDGES` that gets most training items right
    when each is left out of the fit in turn, which for ridge regression takes no fit of its own (Allen 1974); of equals the larger.

    Raises:
        UserError: fewer than two classes.
    """
    classes = int(max(labels.max(), truth.max())) + 1
    if len(labels.unique()) < 2:
        raise UserError("labels of one class: a probe tells at least two apart")
    mean = training.mean(dim=0)
    features, targets = training - mean, torch.nn.functional.one_hot(labels, classes).double()
    offset = targets.mean(dim=0)
    left, values, right = torch.linalg.svd(features, full_matrices=False)
    squares = values.square()
    best, chosen = -1, torch.zeros_like(squares)
    for ridge in RIDGES:
        shrink = squares / (squares + ridge * squares.sum() / features.shape[1] + 1e-300)
        fitted = left @ (shrink[:, None] * (left.T @ (targets - offset))) + offset
        leverage = (left.square() @ shrink + 1 / len(features)).clamp(max=1 - 1e-9)[:, None]
        right_ones = int((((fitted - leverage * targets) / (1 - leverage)).argmax(dim=1) == labels).sum())
        if right_ones >= best:
            best, chosen = right_ones, shrink
    inverse = torch.where(values > 1e-9 * values.max(), chosen / values.clamp(min=1e-300), 0.0)
    weights = right.T @ (inverse[:, None] * (left.T @ (targets - offset)))
    return ((test - mean) @ weights + offset).argmax(dim=1) == truth


@torch.no_grad()
def cloze_right(
    model: Any, tokenizer: Any, items: Sequence[Cloze], max_length: int = 512, batch_size: int = 16
) -> Bool[Tensor, " items"]:
    """Whether the model gives the right candidate of each blank more probability than every other: that of all its tokens, not of one on average.

    Where context and candidate exceed `max_length` tokens, the context loses its beginning.
    """
    rows, starts = [], []
    for item in items:
        before = _encode(tokenizer, item.context)
        for candidate in item.candidates:
            both = _encode(tokenizer, f"{item.context} {candidate}")
            # The space may go with the word: what both have in common is the context.
            common = next(
                (place for place, (a, b) in enumerate(zip(before, both, strict=False)) if a != b), len(before)
            )
            cut = max(len(both) - max_length, 0)
            rows.append(torch.tensor(both[cut:]))
            starts.append(max(common - cut, 1))
    totals = torch.zeros(len(rows), dtype=torch.float64)
    device = model.get_input_embeddings().weight.device
    with evaluating(model):
        for batch in plan_batches([len(row) for row in rows], batch_size, PADDING_SHARE):
            tokens, mask = _pad([rows[index] for index in batch], device)
            logits = model(input_ids=tokens, attention_mask=mask.long()).logits[:, :-1].float()
            found = logits.log_softmax(dim=-1).gather(2, tokens[:, 1:, None]).squeeze(2).double()
            places = torch.arange(1, tokens.shape[1], device=device)
            counted = (places >= torch.tensor([starts[index] for index in batch], device=device)[:, None]) & mask[:, 1:]
            totals[batch] = torch.where(counted, found, 0.0).sum(dim=1).cpu()
    right, start = [], 0
    for item in items:
        end = start + len(item.candidates)
        right.append(int(totals[start:end].argmax()) == item.answer)
        start = end
    return torch.tensor(right)


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids = tokenizer(text, verbose=False)["input_ids"]
    end = getattr(tokenizer, "eos_token_id", None)
    # Some tokenizers end each text; a text that goes on has no end.
    return list(ids[:-1] if len(ids) > 1 and ids[-1] == end else ids)
