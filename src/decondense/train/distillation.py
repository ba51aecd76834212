"""Logits or hidden states of a student and of its teacher in, how far apart they are out. Knows tensors only.

Both are sums over the tokens that cross entropy counts, divided by what it divides by: over parts of a batch and over ranks they add up as it does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from decondense.batches import IGNORED_LABEL
from decondense.errors import UserError
from decondense.shapes import Float, Int

# Numbers of a block of logits that is computed on at once: 64 MiB of float32, whatever the batch and the vocabulary.
BLOCK = 1 << 24


def counted(labels: Int[Tensor, "batch length"], total: Tensor | None) -> Float[Tensor, "batch length"]:
    """How much each token weighs in the loss: 1 / `total` where its next token is a target, else 0; without `total` they add up to 1."""
    targets = torch.zeros_like(labels, dtype=torch.float32)
    targets[:, :-1] = labels[:, 1:] != IGNORED_LABEL
    return targets / (targets.sum() if total is None else total).clamp(min=1)


def divergence(
    student: Float[Tensor, "batch length student_vocabulary"],
    teacher: Float[Tensor, "batch length teacher_vocabulary"],
    weights: Float[Tensor, "batch length"],
    temperature: float = 1.0,
    vocabulary: int | None = None,
    block: int = BLOCK,
) -> Float[Tensor, ""]:
    """T^2 sum_i w_i KL(p_i || q_i), p and q the softmax of the teacher's and the student's logits over T (Hinton et al. 2015, section 2).

    T^2 makes up for gradients that shrink as 1 / T^2. Tokens that one of the two does not have (rows that only fill up an embedding matrix) are left
    out of both softmaxes. Beside the logits only the student's gradient is kept; the rest is computed in blocks of tokens.

    Args:
        student, teacher: logits, of any floating-point type; no gradient reaches the teacher's.
        weights: of tokens, as `counted` gives them; where it is 0 the logits do not matter.
        temperature: T, above 0.
        vocabulary: tokens that both know; by default as many as the smaller of the two has.
        block: numbers that are computed on at once.

    Raises:
        UserError: a temperature that is not above 0.
    """
    if not temperature > 0:
        raise UserError(f"temperature {temperature}: expected a number above 0")
    common = min(student.shape[-1], teacher.shape[-1], vocabulary or student.shape[-1])
    value: Tensor = _Divergence.apply(student, teacher.detach(), weights, temperature, common, block)
    return value


class _Divergence(torch.autograd.Function):
    """The gradient is computed with the value, block by block: a block's softmaxes are gone when the next begins."""

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, weights: Tensor, temperature: float, common: int, block: int
    ) -> Tensor:
        precise = torch.float64 if student.dtype == torch.float64 else torch.float32
        ones, others, shares = student.flatten(0, 1), teacher.flatten(0, 1), weights.flatten().to(precise)
        gradient = torch.zeros_like(ones) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), dtype=precise, device=student.device)
        for tokens in shares.nonzero()[:, 0].split(max(block // common, 1)):
            log_q = (ones[tokens, :common].to(precise) / temperature).log_softmax(dim=-1)
            log_p = (others[tokens, :common].to(precise) / temperature).log_softmax(dim=-1)
            p = log_p.exp()
            # A token that the teacher rules out (a logit of -inf) adds nothing: p log p goes to 0.
            terms = (p * (log_p - log_q)).masked_fill(p == 0, 0.0).sum(dim=-1)
            total += temperature**2 * (shares[tokens] * terms).sum()
            if gradient is not None:
                slope = (log_q.exp() - p) * (temperature * shares[tokens])[:, None]
                gradient[tokens, :common] = slope.to(gradient.dtype)
        ctx.gradient = None if gradient is None else gradient.view(student.shape)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            raise RuntimeError("the divergence was taken backward a second time: its gradient is gone after the first")
        # In place: a second tensor as large as the logits is what this function is there to avoid.
        return gradient.mul_(upstream.to(gradient.dtype)), None, None, None, None, None


def match_layers(student: int, teacher: int) -> list[tuple[int, int]]:
    """Which entry of the teacher's `hidden_states` each of the student's learns from, for models of so many blocks: evenly, the last from the last.

    >>> match_layers(2, 5), match_layers(3, 3)
    ([(1, 3), (2, 5)], [(1, 1), (2, 2), (3, 3)])
    """
    return [(layer, (2 * layer * teacher + student) // (2 * student)) for layer in range(1, student + 1)]


class Projections(nn.Module):
    """A linear map from the student's width to the teacher's for each pair of layers, as FitNets' regressor and TinyBERT's W_h are.

    Args:
        pairs: of layers.
        student, teacher: features of each.
        seed: of the first weights, uniform in +-1 / sqrt(student); torch's own generator is left alone.

    Attributes:
        weight: [pairs, teacher, student].
    """

    def __init__(self, pairs: int, student: int, teacher: int, seed: int) -> None:
        super().__init__()
        drawn = torch.rand(pairs, teacher, student, generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter((2 * drawn - 1) * student**-0.5)


def hidden_distance(
    student: Float[Tensor, "batch length student_features"],
    teacher: Float[Tensor, "batch length teacher_features"],
    weights: Float[Tensor, "batch length"],
    projection: Float[Tensor, "teacher_features student_features"] | None = None,
) -> Float[Tensor, ""]:
    """sum_i w_i (1 - cos(W s_i, t_i)): half the squared distance of the normalised states; W is the identity without a `projection`.

    Hidden states as a target are Romero et al.'s (2015, FitNets), a linear map of many layers Jiao et al.'s (2020, TinyBERT). They are normalised, as
    DistilBERT's are (Sanh et al. 2019): the next norm takes a state's length away, and the student need not learn it. The teacher gets no gradient.
    """
    precise = torch.float64 if student.dtype == torch.float64 else torch.float32
    with torch.autocast(student.device.type, enabled=False):
        given = student.to(precise)
        mapped = given if projection is None else given @ projection.to(precise).mT
        cosines = nn.functional.cosine_similarity(mapped, teacher.detach().to(precise), dim=-1)
        return (weights.to(precise) * (1 - cosines)).sum()
