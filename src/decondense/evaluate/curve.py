"""A model and held-out windows in; its prediction and size at each number of bits, and the spread of what was rounded, out. Knows no file.

Every setting is computed on the same windows; between two the model has its own weights again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from decondense.errors import UserError
from decondense.evaluate.held_out_windows import HeldOutWindows
from decondense.evaluate.kernels import Unavailable, quantise_by_torchao
from decondense.evaluate.matrices import Chosen, Matrix, rounded, shown
from decondense.evaluate.quantization import Rounding
from decondense.evaluate.spread import Spread, over_kinds, spread_of
from decondense.evaluate.window_loss import window_loss
from decondense.layers import evaluating, watch

STORED = "stored"
SCHEMES = ("channel", "channel-asymmetric", "group", "group-asymmetric", "activations", "torchao")
ACTIVATION_BITS = 8
KERNEL_BITS = (8, 4)


@dataclass(frozen=True)
class Setting:
    """One point of a curve.

    Attributes:
        scheme: "stored"; "channel" or "group64", with "-asymmetric" where it is; "activations" alone or after "channel+"; "torchao-int8" or "-int4".
        bits: of a quantised weight; 0 = as stored.
        rounding: of weights; None = none, or torchao's.
        activation_bits: 0 = as they are.
        group_size: weights that share a scale; 0 = a row.
    """

    scheme: str
    bits: int = 0
    rounding: Rounding | None = None
    activation_bits: int = 0
    group_size: int = 0

    @property
    def by_torchao(self) -> bool:
        """Whether torchao's kernels compute it."""
        return self.scheme.startswith("torchao")


def settings(schemes: Sequence[str], bits: Sequence[int], group_size: int) -> list[Setting]:
    """All that is computed: the model as it is stored, then each scheme at each number of bits.

    Activations are rounded to 8 bits, once with weights as stored and once with 8-bit weights; torchao has kernels of 8 and 4 bits.
    """
    found = [Setting(STORED)]
    for scheme in schemes:
        if scheme == "activations":
            found.append(Setting(scheme, activation_bits=ACTIVATION_BITS))
            found.append(Setting(f"channel+{scheme}", 8, Rounding(8), ACTIVATION_BITS))
        elif scheme == "torchao":
            found += [
                Setting(f"torchao-int{number}", number, group_size=group_size if number == 4 else 0)
                for number in KERNEL_BITS
            ]
        else:
            size = group_size if scheme.startswith("group") else 0
            for number in bits:
                rounding = Rounding(number, size, symmetric=not scheme.endswith("asymmetric"))
                name = scheme.replace("group", f"group{group_size}")
                found.append(Setting(name, number, rounding, group_size=size))
    return found


def compute_curve(
    model: Any,
    chosen: Chosen,
    text: HeldOutWindows,
    wanted: Sequence[Setting],
    batch_size: int = 16,
    progress: Callable[[], None] = lambda: None,
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Perplexity, bits a byte and bytes on disk at each setting.

    Returns:
        a row for each setting that was computed, and for each that was not its "scheme" and the "reason".

    Raises:
        UserError: the device's memory is too small, or a matrix cannot be rounded.
    """
    rows: list[dict[str, Any]] = []
    unavailable: list[dict[str, str]] = []
    windows = text.windows.to(next(model.parameters()).device)
    # Of the checkpoint, whatever precision it is computed with.
    stored_bits = 8 * max(matrix.stored_bytes // matrix.rows.numel() for matrix in chosen.matrices)
    for setting in wanted:
        try:
            loss, size, more = _compute(model, chosen, windows, setting, batch_size)
        except Unavailable as error:
            unavailable.append({"scheme": setting.scheme, "reason": str(error)})
        except torch.OutOfMemoryError as error:
            raise UserError(f"{setting.scheme}: memory ran out: give a smaller --batch-size or --max-length") from error
        else:
            row = {"bits": setting.bits or stored_bits, "scheme": setting.scheme, **_prediction(loss, text)}
            rows.append({**row, "bytes": size, "activation_bits": setting.activation_bits, **more})
        progress()
    return rows, unavailable


def _compute(
    model: Any, chosen: Chosen, windows: Tensor, setting: Setting, batch_size: int
) -> tuple[float, int, dict[str, Any]]:
    """The loss, bytes on disk, and what else there is to say."""
    if setting.by_torchao:
        kernel = quantise_by_torchao(model, chosen, setting.bits, setting.group_size)
        try:
            loss = window_loss(kernel.model, windows, batch_size)
        except (RuntimeError, NotImplementedError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            # A kernel may be found missing only when it is called.
            raise Unavailable(str(error).strip().splitlines()[0]) from error
        return loss, kernel.bytes_on_disk, {"group_size": kernel.group_size, "left": kernel.left}
    with rounded(chosen.matrices, setting.rounding, setting.activation_bits):
        loss = window_loss(model, windows, batch_size)
    size = setting.group_size
    symmetric = None if setting.rounding is None else setting.rounding.symmetric
    return loss, chosen.bytes_on_disk(setting.rounding), {"group_size": size, "symmetric": symmetric}


def _prediction(loss: float, text: HeldOutWindows) -> dict[str, float | None]:
    """Perplexity and bits a byte; None where the model gives no number, or one that no float holds."""
    if not math.isfinite(loss):
        return {"perplexity": None, "bits_per_byte": None}
    perplexity = math.exp(loss) if loss < math.log(1e300) else None
    return {"perplexity": perplexity, "bits_per_byte": loss / math.log(2) / text.bytes_per_token}


@torch.no_grad()
def find_spread(model: Any, chosen: Chosen, text: HeldOutWindows, batch_size: int = 16) -> dict[str, Any]:
    """The spread of weights, of what they are multiplied with, and of hidden states.

    Returns:
        "weights" and "inputs", each by kind of matrix and over "all" (the mean over tensors of `Spread.summary`), and "hidden_states", of each
        entry of `hidden_states`.
    """
    weights: dict[str, list[Mapping[str, float]]] = {}
    for matrix in chosen.matrices:
        weights.setdefault(matrix.kind, []).append(spread_of(matrix.rows))
    windows = text.windows.to(next(model.parameters()).device)
    inputs = {matrix: Spread() for matrix in chosen.matrices if not matrix.is_embedding}
    hidden: dict[int, Spread] = {}
    for look in (Spread.look, Spread.look_again):

        def see(matrix: Matrix, values: Tensor, look: Callable[[Spread, Tensor], None] = look) -> None:
            look(inputs[matrix], values)

        def pass_by(index: int, values: Tensor, look: Callable[[Spread, Tensor], None] = look) -> None:
            look(hidden.setdefault(index, Spread()), values)

        with ExitStack() as stack:
            for context in (evaluating(model), shown(chosen.matrices, see), watch(model, pass_by)):
                stack.enter_context(context)
            for batch in windows.split(batch_size):
                model(input_ids=batch)
    by_kind: dict[str, list[Mapping[str, float]]] = {}
    for matrix, spread in _used(inputs):
        by_kind.setdefault(matrix.kind, []).append(spread.summary())
    return {
        "weights": over_kinds(weights),
        "inputs": over_kinds(by_kind) if by_kind else {},
        "hidden_states": [hidden[index].summary() for index in sorted(hidden)],
    }


def _used(inputs: Mapping[Matrix, Spread]) -> Iterator[tuple[Matrix, Spread]]:
    """A module that no text went through (an expert that was never chosen) has no inputs."""
    return ((matrix, spread) for matrix, spread in inputs.items() if spread.count)
