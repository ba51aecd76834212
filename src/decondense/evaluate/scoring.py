"""A model and lm-eval's requests in, log likelihoods out: lm-eval's own model class, with a batch size that is found, and what was cut counted.

Knows no task. The numbers are lm-eval's at the same batch size, to the last bit; at another they differ as sums in another order do.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from torch import nn

from decondense.errors import UserError
from decondense.evaluate.perplexity import NO_NUMBER
from decondense.evaluate.tasks import quiet

# A request as lm-eval's: (its two strings, tokens of the context, tokens to be scored).
Request = tuple[Any, list[int], list[int]]
Answer = tuple[float, bool]

USUAL = 16
LARGEST_ON_CPU = 64
LARGEST_ON_GPU = 1024
# Sizes are tried where that is a small part of the work: twice 4, 16 and 64 sequences are 5 % of so many.
WORTH_TRYING = 3000
# The logits of a batch and their log softmax stand in memory together; on a CPU more than this is slow before it is full.
LOGIT_BYTES_ON_CPU = 2**29
# Another size must be faster by this share to be taken.
WORTHWHILE = 0.05


class Scorer(HFLM):
    """lm-eval's Hugging Face model over a model that is loaded.

    Attributes:
        requests: scored so far.
        truncated: of these, those whose context lost tokens because both did not fit into the model.
        rolled: of these, those whose continuation alone does not fit: it is scored in pieces, each after the tokens before it.
        show_progress: draw lm-eval's bar.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, batch_size: int | None, show_progress: bool = False) -> None:
        _check_causal(model)
        with quiet():
            super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size or 1)
        self._fixed = batch_size
        self._found: dict[int, int] = {}
        self.show_progress = show_progress
        self.reset()

    def reset(self) -> None:
        """Count from zero."""
        self.requests = self.truncated = self.rolled = 0

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[Answer]:
        """As lm-eval's."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """As lm-eval's: windows that do not overlap, which are full but for the last."""
        self._set_batch_size([self.max_length] * len(requests))
        return super().loglikelihood_rolling(requests, disable_tqdm=True)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """As lm-eval's."""
        self._set_batch_size([self.max_length])
        for request in requests:
            text, options = request.args
            room = self.max_length - options.get("max_gen_toks", self.max_gen_toks)
            self.requests += 1
            self.truncated += len(self.tok_encode(text)) > room
        return super().generate_until(requests, disable_tqdm=not self.show_progress)

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[Answer]:
        pieces, owners = self._fit(requests)
        if override_bs is None:
            self._set_batch_size([len(context) + len(scored) - 1 for _, context, scored in pieces])
        while True:
            try:
                answers = super()._loglikelihood_tokens(
                    pieces, disable_tqdm=override_bs is not None or not self.show_progress, override_bs=override_bs
                )
                break
            except torch.OutOfMemoryError:
                if self.batch_size_per_gpu == 1:
                    raise
                self.batch_size_per_gpu //= 2
                self._found = {length: min(size, self.batch_size_per_gpu) for length, size in self._found.items()}
                gc.collect()
                torch.cuda.empty_cache()
        if any(math.isnan(likelihood) for likelihood, _ in answers):
            raise UserError(NO_NUMBER)
        joined: list[Answer] = [(0.0, True)] * len(requests)
        for (likelihood, greedy), owner in zip(answers, owners, strict=True):
            before, all_greedy = joined[owner]
            joined[owner] = (before + likelihood if len(pieces) > len(requests) else likelihood, all_greedy and greedy)
        return joined

    def find_batch_size(self, length: int, count: int) -> int:
        """Windows of `length` tokens in one forward pass, of `count` in all: what was asked for, or what is fastest."""
        return self._fixed or self._fastest(length, count, longest=length)

    def _fit(self, requests: Sequence[Request]) -> tuple[list[Request], list[int]]:
        """Requests that the model can score, and to which of those given each belongs; what does not fit is counted."""
        pieces: list[Request] = []
        owners: list[int] = []
        for number, (strings, context, scored) in enumerate(requests):
            self.requests += 1
            if len(context) + len(scored) > self.max_length + 1:
                self.truncated += 1
            if len(scored) <= self.max_length:
                pieces.append((strings, context, scored))
                owners.append(number)
                continue
            self.rolled += 1
            half = max(self.max_length // 2, 1)
            for start in range(0, len(scored), half):
                # lm-eval keeps the last tokens of a context that is too long: half of the window, at least.
                pieces.append((None, [*context, *scored[:start]], scored[start : start + half]))
                owners.append(number)
        return pieces, owners

    def _set_batch_size(self, lengths: Sequence[int]) -> None:
        if self._fixed is not None or not lengths:
            self.batch_size_per_gpu = self._fixed or 1
            return
        lengths = sorted(min(length, self.max_length) for length in lengths)
        typical = lengths[len(lengths) // 2]
        size = self._fastest(1 << max(typical - 1, 15).bit_length(), len(lengths), longest=lengths[-1])
        self.batch_size_per_gpu = max(1, min(size, len(lengths)))

    def _fastest(self, length: int, count: int, longest: int) -> int:
        """The batch size that scores most sequences of `length` tokens a second, found once for each power of two; the usual one for a few."""
        length = min(length, self.max_length)
        if count >= WORTH_TRYING and length not in self._found:
            self._found[length] = self._climb(length)
        return min(self._found.get(length, USUAL), self._most(longest))

    def _most(self, length: int) -> int:
        """Sequences of `length` tokens whose logits fit into memory with ease."""
        vocabulary = self.model.get_output_embeddings().weight.shape[0]
        budget = LOGIT_BYTES_ON_CPU
        if self.device.type == "cuda":
            budget = torch.cuda.mem_get_info(self.device)[0] // 4
        return max(1, int(budget // (length * vocabulary * 4)))

    def _climb(self, length: int) -> int:
        """From the usual size up by fours while that is faster; down where it never was."""
        largest = min(self._most(length), LARGEST_ON_GPU if self.device.type == "cuda" else LARGEST_ON_CPU)
        best = min(USUAL, largest)
        seconds = self._time(best, length)
        for step in (4.0, 0.25):
            start = best
            while 1 <= int(best * step) <= largest:
                tried = self._time(int(best * step), length)
                if tried > seconds * (1 - WORTHWHILE):
                    break
                best, seconds = int(best * step), tried
            if best != start:
                break
        return best

    def _time(self, size: int, length: int) -> float:
        """Seconds that a sequence takes in a batch of that size; infinitely many where it does not fit into memory."""
        batch = torch.ones((size, length), dtype=torch.long, device=self.device)
        taken = []
        try:
            for _ in range(2):
                start = time.perf_counter()
                nn.functional.log_softmax(self._model_call(batch), dim=-1)
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
                taken.append(time.perf_counter() - start)
        except torch.OutOfMemoryError:
            return math.inf
        return min(taken) / size


def _check_causal(model: Any) -> None:
    if getattr(model.config, "is_encoder_decoder", False) or model.get_output_embeddings() is None:
        raise UserError(
            f"{type(model).__name__} has no head that predicts the next token: benchmarks and perplexity need a causal language model"
        )
