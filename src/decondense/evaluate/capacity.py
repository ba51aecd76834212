"""What a scorer makes of biographies in, the bits that it knows of these people out: the lower bound of Allen-Zhu & Li 2024. Knows no training.

A scorer is anything that gives log-probabilities of tokens: a language model (`model_scorer`), or a table whose knowledge is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from decondense.errors import UserError
from decondense.evaluate.biographies import FIELDS, NAME, Biographies
from decondense.layers import evaluating
from decondense.shapes import Float

Scorer = Callable[[Tensor], Tensor]
"""Tokens int64 [batch, length] -> log-probabilities in nats [batch, length]: of each token, given those before it in its row."""


@dataclass(frozen=True)
class Knowledge:
    """Bits that are known of a number of people.

    Attributes:
        people: N.
        losses: nats a person, of each field: the mean negative log-likelihood of its tokens.
        bits_by_field: of all people together; negative where a field is known worse than by a uniform guess.
        most: bits that a perfect memory of these people scores.
    """

    people: int
    losses: Mapping[str, float]
    bits_by_field: Mapping[str, float]
    most: float

    @property
    def bits(self) -> float:
        """The lower bound on what is known, all fields together."""
        return math.fsum(self.bits_by_field.values())


def known_bits(losses: Mapping[str, float], people: int) -> Knowledge:
    """Bits of knowledge from the losses of the fields, in nats a person.

    With N people, N0 names, S_f choices of field f, and losses p_f (the paper's p1 is that of the name, its p2 the sum of the others),

        bits = log2(N0 (N0 - 1) ... (N0 - N + 1)) - N p_name / ln 2  +  sum over f of N (log2 S_f - p_f / ln 2)

    which is the paper's N log2(N0 / e^p1) + N log2(S0 / e^p2), S0 the product of the S_f, with names drawn without replacement
    (definition 4.3 and theorem 3.2 of arXiv 2404.05405; derived in docs/capacity.md). Divide by the number of parameters for the capacity ratio.

    Args:
        losses: of each counted field of `biographies.FIELDS`, by name; others are kept and count nothing.
        people: N.

    Raises:
        UserError: the loss of a field is missing or no number.

    >>> uniform = {field.name: math.log(field.choices) for field in FIELDS}
    >>> round(known_bits(uniform, 500).bits, 2)
    -0.0
    """
    found: dict[str, float] = {}
    most = 0.0
    for field in FIELDS:
        loss = losses.get(field.name)
        if loss is None or not math.isfinite(loss):
            raise UserError(f"the loss of {field.name} is {loss}: expected a number of nats a person")
        if not field.counted:
            continue
        entropy = people * math.log2(field.choices)
        least = 0.0
        if field is FIELDS[NAME]:
            entropy = math.fsum(math.log2(field.choices - earlier) for earlier in range(people))
            least = people * math.log2(people)  # one name in N is as good as the first name of a text can be known
        found[field.name] = entropy - people * loss / math.log(2)
        most += entropy - least
    return Knowledge(people, dict(losses), found, most)


def score(
    scorer: Scorer,
    biographies: Biographies,
    seed: int = 0,
    wordings: int = 4,
    batch_size: int = 256,
    device: Any = None,
) -> Knowledge:
    """What `scorer` knows of the people of `biographies`.

    Each person is read `wordings` times, in orders and words drawn from `seed`, and losses are averaged over these: whoever decodes the facts
    with the scorer's help can draw the same ones.
    """
    generator = torch.Generator().manual_seed(seed)
    totals = torch.zeros(len(FIELDS), dtype=torch.float64)
    for _ in range(wordings):
        for who in torch.arange(biographies.people).split(batch_size):
            written = biographies.write(who, generator)
            given = scorer(written.tokens if device is None else written.tokens.to(device)).cpu()
            totals += field_losses(given, written.fields).sum(dim=0)
    means = (totals / (wordings * biographies.people)).tolist()
    return known_bits({field.name: mean for field, mean in zip(FIELDS, means, strict=True)}, biographies.people)


def field_losses(log_probabilities: Float[Tensor, "batch length"], fields: Tensor) -> Float[Tensor, "batch fields"]:
    """Negative log-likelihood in nats (float64) of each field's tokens in each row; `fields` as in `biographies.Written`."""
    rows = log_probabilities.double()
    # Where a token is part of no field, whatever stands there (also NaN) must not count.
    return torch.stack([-torch.where(fields == number, rows, 0.0).sum(dim=1) for number in range(len(FIELDS))], dim=1)


def model_scorer(model: Any) -> Scorer:
    """The scorer that a causal language model over `biographies.VOCABULARY` is. Probability that it gives to impossible tokens is lost."""

    @torch.no_grad()
    def scorer(tokens: Tensor) -> Tensor:
        with evaluating(model):
            logits = model(input_ids=tokens).logits[:, :-1].float()
        chosen = logits.log_softmax(dim=-1).gather(2, tokens[:, 1:, None]).squeeze(2)
        return torch.nn.functional.pad(chosen, (1, 0))

    return scorer
