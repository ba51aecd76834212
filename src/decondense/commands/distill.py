"""`decondense distill`: a teacher, a student and text in; trained students, their results beside the teacher's, and a table out.

The training is that of `decondense train`; only what is minimised is another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from decondense import models
from decondense.commands import processes
from decondense.commands.train import open_text, train_arms
from decondense.errors import UserError
from decondense.evaluate.window_loss import evaluate_windows
from decondense.train import build
from decondense.train.data import Text
from decondense.train.distill_config import DistillConfig
from decondense.train.run import FINAL_METRICS, final_numbers
from decondense.train.teacher import Distillation, check_same_tokens, count_tokens, load_teacher

__all__ = ["DistillConfig", "run"]


def run(config: DistillConfig) -> None:
    """Do what `DistillConfig` says.

    Raises:
        UserError: an option is wrong, a model or text cannot be had, the tokenizers differ, --out is not writable or holds another run, training
            diverged, the disk is full. What was saved before is kept.
    """
    with processes.joined() as first:
        config.check()
        teacher, tokenizer = load_teacher(config.teacher, config.device)
        limits = [build.positions(teacher.config)]
        if config.weights:
            _check_weights(config.student)
            student, own = build.from_weights(config.student, context=2, what=config.weights_option)
            check_same_tokens(config.teacher, tokenizer, config.student, own)
            limits.append(build.positions(student.config))
            tokenizer = own
            del student
        config = config.filled(min((limit for limit in limits if limit is not None), default=None))
        build.check_context(f"TEACHER {config.teacher}", teacher.config, config.context)
        text = open_text(config, tokenizer, 0, first)
        aim = Distillation(teacher, count_tokens(tokenizer), config.temperature, config.alpha, config.hidden_weight)
        train_arms(config, text, first, aim, lambda: {"teacher": _measure(teacher, config, text)} if first else {})


def _check_weights(name: str) -> None:
    try:
        models.check(name)
    except UserError as error:
        raise UserError(f"STUDENT {error}; or --from-scratch, for a student with new weights") from error


def _measure(teacher: Any, config: DistillConfig, text: Text) -> Mapping[str, Any]:
    """The teacher on the text that its students are measured on."""
    windows = text.held_out.to(config.device)
    seen = evaluate_windows(teacher, windows, FINAL_METRICS, config.teacher, config.micro_batch or config.batch_size)
    return {
        "model": config.teacher,
        "parameters": sum(parameter.numel() for parameter in teacher.parameters()),
        **final_numbers(seen, text),
    }
