"""A causal model and documents in, cross entropy by token and by byte out: over a sliding window, or document by document. Knows no benchmark.

Perplexity is exp of the mean over tokens and depends on the tokenizer. Bits per byte, the same sum over the bytes of the text, do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from decondense.errors import UserError
from decondense.layers import evaluating
from decondense.measure import count_positions

SEPARATOR = "\n\n"
# exp of more than this is beyond float64.
MOST_NATS = 700.0
NO_NUMBER = "the model gives NaN: its weights are damaged, or too large for --dtype; float32 may work"
# Where a model has no limit, and a window must have some length.
USUAL_CONTEXT = 1024


@dataclass(frozen=True)
class Perplexity:
    """Cross entropy of a text, by parts (documents, or windows of one stream).

    Attributes:
        nats: of each part, summed over its tokens.
        tokens: that were predicted, of each part.
        bytes: of the UTF-8 text that these tokens are, of all parts.
        context: tokens that a prediction sees at most.
        stride: tokens that the window moves; each prediction but the first ones of a text sees at least context - stride tokens.
    """

    nats: list[float]
    tokens: list[int]
    bytes: int
    context: int
    stride: int

    @property
    def loss(self) -> float:
        """Mean cross entropy of a token, in nats."""
        return math.fsum(self.nats) / sum(self.tokens)

    @property
    def value(self) -> float:
        """exp of the mean cross entropy of a token; infinite where that is beyond the numbers."""
        return math.exp(self.loss) if self.loss < MOST_NATS else math.inf

    @property
    def bits_per_byte(self) -> float:
        """Cross entropy in bits for each byte of the text."""
        return math.fsum(self.nats) / math.log(2) / self.bytes

    @property
    def loss_stderr(self) -> float | None:
        """Standard error of `loss`, parts being drawn at random (the ratio estimator's, Cochran 1977, section 2.11); None for one part."""
        count, total = len(self.nats), sum(self.tokens)
        if count < 2:
            return None
        rest = math.fsum((nats - self.loss * tokens) ** 2 for nats, tokens in zip(self.nats, self.tokens, strict=True))
        return math.sqrt(rest * count / (count - 1)) / total

    def metrics(self, suffix: str = "") -> dict[str, dict[str, float | None]]:
        """Perplexity and bits per byte with their standard errors, as `results.json` holds them; `suffix` ends their names."""
        stderr = self.loss_stderr
        values = {"perplexity": self.value, "bits_per_byte": self.bits_per_byte}
        # Both are smooth functions of the loss: exp, and a multiple (bytes per token being given).
        slopes = {"perplexity": self.value, "bits_per_byte": self.bits_per_byte / self.loss if self.loss else 0.0}
        return {
            f"{name}{suffix}": {
                "value": _finite(value),
                "stderr": None if stderr is None else _finite(slopes[name] * stderr),
            }
            for name, value in values.items()
        }


def by_document(
    model: nn.Module,
    tokenizer: Any,
    documents: Sequence[str],
    context: int | None = None,
    stride: int | None = None,
    batch_size: int | Callable[[int, int], int] = 8,
    progress: Callable[[int], None] = lambda tokens: None,
) -> Perplexity:
    """Cross entropy of every token of each document, given those before it in the document, as far as the window reaches.

    The first token is predicted from the beginning-of-text token, or the end-of-text token where there is none.

    Args:
        model: causal, of transformers.
        tokenizer: the model's, of transformers.
        documents: strings, blank ones are left out.
        context: length of the window in tokens; None for the model's.
        stride: tokens that the window moves; None for half of `context`; `context` for windows that do not overlap.
        batch_size: windows in one forward pass; or a function that gives it for a length and a number of windows.
        progress: called with the number of tokens scored since the last call.

    Raises:
        UserError: there is no text; `context` is longer than the model's; `stride` is not between 1 and `context`; the model gives NaN.
    """
    context, stride = _window(model, context, stride)
    texts = [text for text in documents if text.strip()]
    sequences, size = _encode(tokenizer, texts)
    nats = _score(model, sequences, context, stride, batch_size, progress)
    sums = [math.fsum(one) for one in nats]
    return Perplexity(sums, [len(one) for one in nats], size, context, stride)


def by_window(
    model: nn.Module,
    tokenizer: Any,
    documents: Sequence[str],
    context: int | None = None,
    stride: int | None = None,
    batch_size: int | Callable[[int, int], int] = 8,
    progress: Callable[[int], None] = lambda tokens: None,
) -> Perplexity:
    """Cross entropy of every token of the documents as one text, a blank line between them; arguments as `by_document`.

    Its parts, over which the standard error is taken, are blocks of `context` tokens.
    """
    context, stride = _window(model, context, stride)
    texts = [text for text in documents if text.strip()]
    sequences, size = _encode(tokenizer, [SEPARATOR.join(texts)] if texts else [])
    [nats] = _score(model, sequences, context, stride, batch_size, progress)
    blocks = [nats[start : start + context] for start in range(0, len(nats), context)]
    return Perplexity([math.fsum(block) for block in blocks], [len(block) for block in blocks], size, context, stride)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _window(model: nn.Module, context: int | None, stride: int | None) -> tuple[int, int]:
    limit = count_positions(model)
    if context is None:
        context = limit or USUAL_CONTEXT
    if context < 1 or (limit is not None and context > limit):
        raise UserError(
            f"context={context}: a window has from 1 to {limit or 'any number of'} tokens, those that the model takes"
        )
    if stride is None:
        stride = max(context // 2, 1)
    if not 1 <= stride <= context:
        raise UserError(
            f"stride={stride}: a window of {context} tokens moves by 1 to {context}, or tokens between two would be left out"
        )
    return context, stride


def _encode(tokenizer: Any, texts: Sequence[str]) -> tuple[list[list[int]], int]:
    """Token ids of each text after what its first token is predicted from, and the bytes of what is predicted."""
    if not texts:
        raise UserError("there is no text: give at least one document that is not blank")
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if first is None:
        # Nothing to predict the first token from: it and its bytes are not counted.
        size -= sum(len(tokenizer.decode(ids[:1]).encode()) for ids in encoded)
        sequences = [list(ids) for ids in encoded]
    else:
        sequences = [[first, *ids] for ids in encoded]
    if not any(len(ids) > 1 for ids in sequences):
        raise UserError("the documents have no token that could be predicted: give more text")
    return sequences, size


@torch.no_grad()
def _score(
    model: nn.Module,
    sequences: Sequence[Sequence[int]],
    context: int,
    stride: int,
    batch_size: int | Callable[[int, int], int],
    progress: Callable[[int], None],
) -> list[list[float]]:
    """Nats of every token of each sequence but its first."""
    found: list[list[float]] = [[0.0] * (len(ids) - 1) for ids in sequences]
    windows = [
        (number, start, stop, skip)
        for number, ids in enumerate(sequences)
        for start, stop, skip in _windows(len(ids), context, stride)
    ]
    # Longest first: memory runs out at once or never, and a batch is of windows of about one length.
    windows.sort(key=lambda window: window[1] - window[2])
    device = next(model.parameters()).device
    size = batch_size(context, len(windows)) if callable(batch_size) else batch_size
    with evaluating(model):
        for begin in range(0, len(windows), size):
            batch = windows[begin : begin + size]
            length = max(stop - start for _, start, stop, _ in batch)
            tokens = torch.zeros((len(batch), length + 1), dtype=torch.long)
            for row, (number, start, stop, _) in enumerate(batch):
                tokens[row, : stop - start + 1] = torch.tensor(sequences[number][start : stop + 1])
            losses = _losses(model, tokens.to(device)).tolist()
            if math.isnan(losses[0][0]):
                raise UserError(NO_NUMBER)
            for row, (number, start, stop, skip) in enumerate(batch):
                found[number][start + skip : stop] = losses[row][skip : stop - start]
            progress(sum(stop - start - skip for _, start, stop, skip in batch))
    return found


def _losses(model: nn.Module, tokens: Tensor) -> Tensor:
    """Nats of each token [windows, length + 1] but the first. Padding is at the end, where a causal model lets no real token see it."""
    logits = model(input_ids=tokens[:, :-1]).logits.float()
    return nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")


def _windows(length: int, context: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Windows over a sequence of `length` tokens: tokens start..stop-1 predict start+1..stop, of which the first `skip` were predicted before."""
    start, done = 0, 0
    while done < length - 1:
        stop = min(start + context, length - 1)
        yield start, stop, done - start
        done = stop
        start += stride
