"""The name of a teacher in, what a student of it minimises out: cross entropy, the teacher's distribution, its hidden states. Knows no data or loop.

The teacher is frozen, keeps the precision it is stored in, and is wrapped in nothing: each process of a launcher has all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from decondense import models
from decondense.errors import UserError
from decondense.layers import count_layers, watch
from decondense.train import build
from decondense.train.arms import BASELINE, Arm
from decondense.train.distillation import Projections, counted, divergence, hidden_distance, match_layers
from decondense.train.run import cross_entropy
from decondense.train.update import Objective

PROJECTIONS = "teacher_projections"
# Two tokenizers with the same tokens may still cut text differently: this has words, numbers, spaces, code, and letters of several bytes.
_PROBE = "Once upon a time, 1234 naïve cats\n\n\tsaid: def f(x): return x  # 日本語 don't"


def load_teacher(name: str, device: str) -> tuple[Any, Any]:
    """A causal language model as it is stored, in evaluation mode and without gradients, and its tokenizer.

    Raises:
        UserError: there is none of that name, or it is of another kind.
    """
    model, tokenizer = models.load(name, device=device)
    build.check_causal(f"TEACHER {name}", model)
    model.config.use_cache = False
    return model.requires_grad_(False), tokenizer


def check_same_tokens(teacher: str, teachers: Any, student: str, students: Any) -> None:
    """Raise `UserError` where the tokenizers of a teacher and of a student, by the models' names, are not the same."""
    one, other = ({number: token for token, number in given.get_vocab().items()} for given in (teachers, students))
    what = f"TEACHER {teacher} and STUDENT {student}"
    mend = "distillation needs one tokenizer: --from-scratch gives a student with new weights that of the teacher"
    differing = [number for number in sorted(one.keys() | other.keys()) if one.get(number) != other.get(number)]
    if differing:
        first = differing[0]
        told = [repr(given[first]) if first in given else "absent" for given in (one, other)]
        raise UserError(
            f"{what} have different vocabularies: {len(one)} tokens and {len(other)}; the first that differs is {first}, "
            f"{told[0]} and {told[1]}; {mend}"
        )
    cut = [given(_PROBE, add_special_tokens=False)["input_ids"] for given in (teachers, students)]
    if cut[0] != cut[1]:
        raise UserError(f"{what} have the same {len(one)} tokens and cut text into them differently; {mend}")


def count_tokens(tokenizer: Any) -> int:
    """Rows of an embedding matrix, or logits, that stand for a token of the tokenizer."""
    return 1 + int(max(tokenizer.get_vocab().values()))


@dataclass(frozen=True)
class Distillation:
    """What a student minimises: (1 - alpha) cross entropy + alpha T^2 KL(teacher || student) + hidden_weight times the distance of hidden states.

    It is an `Aim`: called with the student, the arm and the seed it gives the objective, one term for each part that weighs anything. All are
    weighted as cross entropy is, by the targets of the whole batch. The arm `cross_entropy` is the student without a teacher.

    Attributes:
        teacher: frozen, in evaluation mode.
        tokens: that the tokenizer of both has; logits beyond are left out of the KL.
        temperature: T.
        alpha: share of the KL, from 0 to 1.
        hidden_weight: of the mean over pairs of layers of `hidden_distance`. Where widths differ a projection of each pair is trained with the
            student, as a part of it until the end of the block.
    """

    teacher: Any
    tokens: int
    temperature: float = 2.0
    alpha: float = 0.5
    hidden_weight: float = 0.0

    @contextmanager
    def __call__(self, model: Any, arm: Arm, seed: int) -> Iterator[Objective]:
        if arm.name == BASELINE:
            yield cross_entropy
            return
        with ExitStack() as stack:
            hidden = None
            if self.hidden_weight:
                hidden = stack.enter_context(_hidden_states(model, self.teacher, seed))
            yield self._objective(hidden)

    def _objective(self, hidden: Callable[[Tensor], Tensor] | None) -> Objective:
        def objective(model: Any, part: dict[str, Tensor], total: Tensor | None) -> dict[str, Tensor]:
            ids = part["input_ids"]
            # The precision of the student's forward pass is not the teacher's business.
            with torch.no_grad(), torch.autocast(ids.device.type, enabled=False):
                taught = self.teacher(input_ids=ids).logits
            output = model(**part, **({} if total is None else {"num_items_in_batch": total}))
            weights = counted(part["labels"], total)
            terms = {}
            if self.alpha < 1:
                terms["weighted cross entropy"] = (1 - self.alpha) * output.loss
            if self.alpha > 0:
                value = divergence(output.logits, taught, weights, self.temperature, self.tokens)
                terms["weighted distillation"] = self.alpha * value
            if hidden is not None:
                terms["weighted hidden states"] = self.hidden_weight * hidden(weights)
            return terms

        return objective


@contextmanager
def _hidden_states(student: Any, teacher: Any, seed: int) -> Iterator[Callable[[Tensor], Tensor]]:
    """Gives the mean over pairs of layers of `hidden_distance` for the last forward passes of both, as a function of the tokens' weights."""
    pairs = match_layers(count_layers(student) - 1, count_layers(teacher) - 1)
    width, teachers = (model.config.get_text_config().hidden_size for model in (student, teacher))
    # Parts of the student until the end: so they are trained, clipped, saved with the state, and shared by ranks as its weights are.
    projections = None if width == teachers else Projections(len(pairs), width, teachers, seed)
    if projections is not None:
        student.add_module(PROJECTIONS, projections.to(student.device))
    seen: list[dict[int, Tensor]] = [{}, {}]

    def keep(index: int, hidden: Tensor) -> None:
        # Held until the term is computed. Evaluations run the student without gradients, and must not leave anything here.
        if student.training and torch.is_grad_enabled():
            seen[0][index] = hidden

    def keep_teachers(index: int, hidden: Tensor) -> None:
        seen[1][index] = hidden

    def distance(weights: Tensor) -> Tensor:
        terms = []
        for number, (own, other) in enumerate(pairs):
            states = seen[0][own], seen[1][other]
            if (states[0].shape[-1], states[1].shape[-1]) != (width, teachers):
                raise UserError(
                    f"--hidden-weight: hidden_states[{own}] has {states[0].shape[-1]} features, hidden_states[{other}] of the teacher "
                    f"{states[1].shape[-1]}, and their configurations say {width} and {teachers}: leave --hidden-weight out"
                )
            terms.append(hidden_distance(*states, weights, None if projections is None else projections.weight[number]))
        for kept in seen:
            kept.clear()
        return torch.stack(terms).mean()

    with (
        watch(student, keep, {own for own, _ in pairs}),
        watch(teacher, keep_teachers, {other for _, other in pairs}),
    ):
        try:
            yield distance
        finally:
            if projections is not None:
                delattr(student, PROJECTIONS)
