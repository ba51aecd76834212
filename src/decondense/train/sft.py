"""A TRL trainer and a loss in, an attached loss that reaches what the trainer trains on out. Knows TRL's outputs, and imports none of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from decondense.attach import Attachment
from decondense.errors import UserError
from decondense.losses.module import DispersionLoss


def attach_to_sft(
    trainer: Any, loss: DispersionLoss, weight: float = 0.1, layers: str | Sequence[int] = "all"
) -> Attachment:
    """`attach` for a TRL trainer that computes its loss from the log-probabilities of the labels, not from the model's loss: `SFTTrainer` since 1.16.

    There a term added to the model's loss would be lost. It is taken off the log-probabilities of the counted tokens instead, each its share, so
    that whatever TRL divides their sum by is right for the term too. Where the model returns no log-probabilities this is `attach`.

    Args:
        trainer: the `SFTTrainer`, made with `loss_type="nll"`; with peft too, since its model is the wrapped one.
        loss, weight, layers: as for `attach`.

    Raises:
        UserError: (a ValueError) another `loss_type`, label smoothing, a `compute_loss_func`, sequence parallelism; what `attach` raises.
    """
    args = trainer.args
    parallel = getattr(getattr(trainer, "accelerator", None), "parallelism_config", None)
    refused = {
        f"loss_type={getattr(args, 'loss_type', 'nll')!r}": getattr(args, "loss_type", "nll") != "nll",
        f"label_smoothing_factor={args.label_smoothing_factor}": bool(args.label_smoothing_factor),
        "a compute_loss_func": trainer.compute_loss_func is not None,
        "sequence or context parallelism": parallel is not None
        and (getattr(parallel, "sp_enabled", False) or getattr(parallel, "cp_enabled", False)),
    }
    if any(refused.values()):
        given = ", ".join(what for what, there in refused.items() if there)
        raise UserError(
            f"{given}: the term reaches loss_type='nll' alone, without label smoothing, compute_loss_func and split sequences; else attach with "
            "add_to_loss=False and add handle.weight * handle.loss() in compute_loss"
        )
    return _ToLogProbabilities(trainer.model, loss, weight, layers, True)


class _ToLogProbabilities(Attachment):
    def _add(self, output: Any, term: Tensor) -> Any:
        found = getattr(output, "log_probs", None)
        if found is None:
            return super()._add(output, term)
        # Summed over the counted tokens this is their number times the weighted term, as it is for cross entropy.
        output.log_probs = found - term.to(found) * output.label_mask
        return output
