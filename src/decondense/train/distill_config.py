"""The options of `decondense distill` in, checked, out: those of every training, and which teacher a student has and what it takes from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import tyro

from decondense.errors import UserError
from decondense.train.arms import BASELINE
from decondense.train.build import TINY, parse_overrides
from decondense.train.config import RunConfig

DISTILLATION = "distillation"


@dataclass(frozen=True)
class TeacherOptions:
    """Who learns from whom, and what."""

    teacher: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TEACHER", help_behavior_hint="")]
    """Causal language model to learn from: a hub name, NAME@REVISION, or a folder. It stays as it is."""

    student: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="STUDENT", help_behavior_hint="")]
    """Model with the teacher's tokenizer that goes on from its weights; with --from-scratch what --model of decondense train can be."""

    from_scratch: bool = False
    """New weights for STUDENT: tiny, a model type (gpt2, llama, qwen3), a folder with config.json, or a hub name. Its tokenizer is the teacher's."""

    override: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...")] = ()
    """Entries of the configuration of a STUDENT --from-scratch to change, as num_hidden_layers=2."""

    temperature: float = 2.0
    """Both distributions are softened by it before they are compared."""

    alpha: Annotated[float, tyro.conf.arg(metavar="SHARE")] = 0.5
    """Share of the teacher's distribution in the loss, T^2 KL(teacher || student); cross entropy has the rest."""

    hidden_weight: Annotated[float, tyro.conf.arg(metavar="WEIGHT")] = 0.0
    """Of 1 - cosine of the student's hidden states and the teacher's, layers matched evenly; 0 = none. Where widths differ a projection is learnt."""


@dataclass(frozen=True)
class DistillConfig(RunConfig, TeacherOptions):
    """Train a student on the distribution of a larger model, with a loss against condensation on its hidden states or without, and see what it did.

    --arms distillation dispersion trains one without and one with; the arm cross_entropy has no teacher. The folder --out gets the student, as
    transformers loads it, results.json (with the teacher's own numbers) and condensation.npz, measured on held-out text. The same command goes on
    where it was stopped, and ends with the same weights. Started by torchrun, its processes share each batch, and each has all of the teacher.
    """

    plain_arms: ClassVar[tuple[str, ...]] = (DISTILLATION, BASELINE)
    weights_option: ClassVar[str] = "STUDENT"
    architecture_option: ClassVar[str] = "STUDENT"

    def check(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise UserError(f"--temperature {self.temperature}: expected a number above 0, such as 2")
        if not 0 <= self.alpha <= 1:
            raise UserError(f"--alpha {self.alpha}: expected a share, from 0 to 1")
        if not 0 <= self.hidden_weight < math.inf:
            raise UserError(f"--hidden-weight {self.hidden_weight}: expected a finite number of at least 0")
        if self.alpha == 0 == self.hidden_weight:
            raise UserError(
                "--alpha 0 without --hidden-weight: takes nothing from the teacher; decondense train does that"
            )
        if not self.from_scratch:
            if self.override:
                raise UserError("--override: a STUDENT with weights is as it is; give --from-scratch for new weights")
            if self.student == TINY:
                raise UserError(f"STUDENT {TINY}: has no weights to go on from; give --from-scratch for new ones")
        parse_overrides(self.override)
        super().check()

    @property
    def weights(self) -> str:
        return "" if self.from_scratch else self.student

    @property
    def architecture(self) -> tuple[str, dict[str, Any]]:
        return self.student, parse_overrides(self.override)
