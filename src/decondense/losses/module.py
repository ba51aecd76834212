"""`DispersionLoss`: hidden states of one layer in, a scalar out. Checks its input, forms groups, runs an engine; knows no model."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from decondense.errors import UserError, choose
from decondense.losses import triton
from decondense.losses.blocked import blocked, remember
from decondense.losses.engine import eager, penalty
from decondense.losses.formulations import FORMULATIONS, Formulation, Settings
from decondense.losses.moments import moments
from decondense.losses.pairs import Moments, Pairs, Partition, Subset, form_groups
from decondense.losses.parallel import over_features, over_pairs
from decondense.losses.shards import Shards, check_sharding, find_group, find_shards
from decondense.shapes import Float, Int
from decondense.sums import Sequences, find_sequences, flat, sum_by_sequence

# Beyond this slope of log phi the expansion is far from phi (`dispersion` at temperature 0.2).
STEEPEST = 1.6
ENGINES = ("auto", "eager", "blocked", "triton")


class DispersionLoss(nn.Module):
    """How condensed the token vectors of each sequence are, by one of the formulations of the paper's Table 1 and beyond.

    Pairs of tokens are taken within a sequence (a row, or a document of a packed row), the result is the mean over sequences. Minimising it
    spreads the vectors out. Equations and sources stand in `decondense.losses.formulations`; the default is the paper's
    `log mean_{i != j} exp(-theta_ij / temperature)`.

    Args:
        formulation: a name of the table, or a row of one's own (`Formulation`).
        temperature: divides the logits of the exponential formulations; > 0.
        clamp: cosines are clamped to [-1 + clamp, 1 - clamp] before the arc cosine, whose slope is infinite at +-1; in (0, 1).
        epsilon: added to the norm that a vector is divided by; >= 0.
        margin: of `hinge_cosine`.
        pairs: `"all"`, `Moments(order)`, `Partition(size, control=order)` or `Subset(size)`.
        engine: `"blocked"` goes over blocks of pairs and keeps none; `"triton"` does so in fused kernels on a GPU; `"eager"` holds all pairs, is the
            definition, and can be differentiated twice; `"auto"` is the fastest of them that serves.
        across: which tokens are one sequence. `"sequence"`: those of a row, or of a document; `"batch"`: all of the batch, whatever their row
            or document; a process group, or a one-dimensional device mesh (`mesh["dp"]`): all of the batches of all its ranks.
        sharded_over: the process group, or one-dimensional device mesh (`mesh["cp"]`), over whose ranks the tokens of each row are spread
            (context or sequence parallelism); None = each rank has whole rows. What a rank gets, and what a trainer must do with it, stands in
            `decondense.losses.parallel`.

    Raises:
        UserError: (a ValueError) an unknown name, or a number outside its range.

    A sequence of fewer than two tokens has no pairs: it contributes 0, no gradient, and is left out of the mean. A NaN or infinity at a real
    token makes the loss NaN. What masked positions hold never matters. bfloat16 and float16 are computed, and returned, in float32.

    Examples:
        >>> import torch
        >>> loss = DispersionLoss("dispersion", temperature=1.0)
        >>> cone = torch.ones(2, 16, 8) + 0.1 * torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(0))
        >>> bool(loss(cone) > loss(cone - 1))  # a narrow cone has the higher loss
        True
    """

    step: Tensor

    def __init__(
        self,
        formulation: str | Formulation = "dispersion",
        temperature: float = 1.0,
        clamp: float = 0.1,
        epsilon: float = 1e-2,
        margin: float = 0.5,
        pairs: Pairs = "all",
        engine: str = "auto",
        across: Any = "sequence",
        sharded_over: Any = None,
    ) -> None:
        super().__init__()
        if isinstance(formulation, str):
            formulation = FORMULATIONS[choose("formulation", formulation, FORMULATIONS)]
        _check_range("temperature", temperature, 0 < temperature < math.inf, "a number above 0")
        _check_range("clamp", clamp, 0 < clamp < 1, "a number between 0 and 1")
        _check_range("epsilon", epsilon, 0 <= epsilon < math.inf, "a number of at least 0")
        _check_range("margin", margin, math.isfinite(margin), "a finite number")
        if not (isinstance(pairs, (Moments, Partition, Subset)) or pairs == "all"):
            raise UserError(
                f"pairs={pairs!r} is not known: known are 'all', Moments(order), Partition(size) and Subset(size)"
            )
        if isinstance(pairs, Partition) and (formulation.features or formulation.function is not None):
            reason = "pairs features, not tokens" if formulation.features else "is no sum over pairs of tokens"
            raise UserError(
                f"pairs={pairs}: {formulation.name} {reason}, so groups of tokens cannot stand for all; use 'all' or Subset"
            )
        if _expansion_order(pairs):
            _check_expansion(formulation, pairs, Settings(temperature, clamp, epsilon, margin), engine)
        self.formulation = formulation
        remember(formulation)
        self.settings = Settings(temperature, clamp, epsilon, margin)
        self.pairs = pairs
        self.engine = choose("engine", engine, ENGINES)
        if engine == "blocked" and formulation.slope is None:
            raise UserError(
                f"engine='blocked': {formulation.name} is no sum over pairs with a known slope; use 'auto' or 'eager'"
            )
        self.across, self.sharded_over = across, sharded_over
        self._group = find_group(across, sharded_over)
        if self._group is not None:
            check_sharding(formulation, pairs, engine)
        if engine == "triton" and (lack := triton.why_not(formulation)) is not None:
            raise UserError(f"engine='triton': {lack}; use engine='auto'")
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor | None = None,
        documents: Tensor | None = None,
        step: int | Tensor | None = None,
        layer: int = 0,
    ) -> Tensor:
        """Mean of the formulation over the sequences of a batch.

        Args:
            hidden: [batch, length, features], floating point.
            mask: [batch, length] bool or integer, nonzero = real token; None = all are real.
            documents: [batch, length] integer; tokens of a row with one id are one document, a sequence of its own.
            step: of the training, so that random pairs are drawn anew; None = the buffer `step`, which the caller advances.
            layer: number of the layer, so that each layer draws its own pairs.

        Returns:
            Scalar, float32 or float64.

        Raises:
            TypeError: a dtype that is not the kind above.
            UserError: (a ValueError) a shape that is not the one above.
        """
        values, tokens = self.per_sequence(hidden, mask, documents, step, layer)
        return mean_over_sequences(values, tokens)

    def per_sequence(
        self,
        hidden: Tensor,
        mask: Tensor | None = None,
        documents: Tensor | None = None,
        step: int | Tensor | None = None,
        layer: int = 0,
    ) -> tuple[Float[Tensor, " sequences"], Int[Tensor, " sequences"]]:
        """Value and number of real tokens of each sequence: the rows, or the documents in row order. Arguments as in `forward`."""
        sequences = self.find_sequences(hidden, mask, documents)
        return self.of_sequences(hidden, sequences, step, layer), sequences.tokens

    def find_sequences(self, hidden: Tensor, mask: Tensor | None = None, documents: Tensor | None = None) -> Sequences:
        """The sequences that pairs are taken within, found once for all layers of a model. Arguments and errors as in `forward`."""
        together = self.across != "sequence"
        if self._group is not None:
            return find_shards(hidden, mask, documents, self._group, together, check_input)
        check_input(hidden, mask, documents)
        if not together:
            return find_sequences(hidden.shape[:2], hidden.device, mask, documents)
        return find_sequences((1, hidden.shape[:2].numel()), hidden.device, flat(mask), None)

    def of_sequences(
        self,
        hidden: Float[Tensor, "batch length features"],
        sequences: Sequences,
        step: int | Tensor | None = None,
        layer: int = 0,
        recompute: bool = False,
    ) -> Float[Tensor, " sequences"]:
        """Values of sequences that were found before (`find_sequences`): once for all layers of a model.

        With `recompute` the blocked engine keeps nothing between forward and backward pass, and goes over the pairs in both.
        """
        if len(sequences.tokens) == 0:  # documents, and no token of them is real
            return _at_least_float32(hidden.reshape(-1)[:0])
        # Where pairs are taken across the batch all rows are one.
        hidden = hidden.reshape(*sequences.index.shape, hidden.shape[-1])
        # Autocast would take the inner products back to half precision.
        with torch.autocast(hidden.device.type, enabled=False):
            row, pairs = self.formulation, self.pairs
            step = self.step if step is None else step
            settings = dataclasses.replace(self.settings, step=step, layer=layer)
            order = _expansion_order(pairs)
            engine = triton.choose(self.engine, row, hidden)
            squares = None
            grouping = form_groups(sequences, "all" if isinstance(pairs, Moments) else pairs, step, layer)
            if order:
                whole = form_groups(sequences, "all", step, layer) if isinstance(pairs, Partition) else grouping
                sampled = grouping if isinstance(pairs, Partition) else None
                values, squares = moments(hidden, sequences, whole, row, settings, order, sampled, recompute, engine)
            elif isinstance(sequences, Shards):
                over = over_features if row.features else over_pairs
                values = over(hidden, sequences, grouping, row, settings, recompute)
            elif self.engine == "eager" or row.slope is None:
                values = eager(_at_least_float32(hidden), grouping, row, settings)
            else:
                values = blocked(hidden, grouping, row, settings, recompute, engine)
            if row.penalty is not None:
                values = values + sequences.over_ranks(penalty(_at_least_float32(hidden), grouping, row.penalty))
        values = torch.where(sequences.tokens >= 2, values, 0.0)
        if squares is None:
            # A pass over the input that most of the above would not need; but a subset may miss the token, and a hinge may hide it.
            dtype = torch.promote_types(hidden.dtype, torch.float32)
            squares = torch.linalg.vector_norm(hidden.detach(), dim=-1, dtype=dtype)
        broken = ~squares.isfinite()
        if sequences.valid is not None:
            broken = broken & sequences.valid
        poisoned = sum_by_sequence(broken.reshape(-1).long(), sequences.index.reshape(-1), len(values))
        return values.masked_fill(sequences.over_ranks(poisoned) > 0, math.nan)

    def extra_repr(self) -> str:
        numbers = ", ".join(
            f"{name}={value}" for name, value in vars(self.settings).items() if name not in ("step", "layer")
        )
        across = "" if self.across == "sequence" else f", across={self.across!r}"
        over = "" if self.sharded_over is None else f", sharded_over={self.sharded_over!r}"
        return f"{self.formulation.name!r}, {numbers}, pairs={self.pairs!r}, engine={self.engine!r}{across}{over}"


def _expansion_order(pairs: Pairs) -> int:
    if isinstance(pairs, Moments):
        return pairs.order
    return pairs.control if isinstance(pairs, Partition) else 0


def _check_expansion(row: Formulation, pairs: Pairs, settings: Settings, engine: str) -> None:
    if row.curvature is None or row.slope is None:
        able = ", ".join(name for name, other in FORMULATIONS.items() if other.curvature is not None)
        raise UserError(f"pairs={pairs}: {row.name} has no expansion in moments; these have one: {able}")
    if engine == "eager":
        raise UserError(f"engine='eager' holds pairs, and pairs={pairs} takes an expansion: use engine='auto'")
    if row.aggregate == "log_mean_exp":
        # By the cosine, at 0; a squared distance of unit vectors falls twice as fast as their cosine rises.
        slope = float(row.slope(torch.zeros(()), settings)) * (-2 if row.distances else 1)
        if slope > STEEPEST:
            warnings.warn(
                f"pairs={pairs}: at temperature {settings.temperature:g} log phi of {row.name} has slope {slope:.2f}, over {STEEPEST}: "
                "an expansion is far from it there; use a higher temperature, or pairs='all'",
                stacklevel=4,
            )


def _at_least_float32(hidden: Tensor) -> Tensor:
    return hidden.to(torch.promote_types(hidden.dtype, torch.float32))


def mean_over_sequences(values: Float[Tensor, " sequences"], tokens: Int[Tensor, " sequences"]) -> Float[Tensor, ""]:
    """Mean over the sequences that have pairs; 0 where none has, NaN where any value is NaN."""
    paired = tokens >= 2
    return values.sum() / paired.sum().clamp(min=1)


def check_input(hidden: Tensor, mask: Tensor | None, documents: Tensor | None) -> None:
    """Raise TypeError or UserError, in one line, where the input of a loss is not what it must be."""
    if not isinstance(hidden, Tensor) or not hidden.is_floating_point():
        given = hidden.dtype if isinstance(hidden, Tensor) else type(hidden).__name__
        raise TypeError(f"hidden: expected a floating-point tensor [batch, length, features], got {given}")
    if hidden.ndim != 3 or 0 in hidden.shape:
        raise UserError(f"hidden: expected shape [batch, length, features], none of them 0, got {list(hidden.shape)}")
    for name, tensor in (("mask", mask), ("documents", documents)):
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor) or tensor.is_floating_point() or tensor.is_complex():
            given = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            kind = "bool or integer" if name == "mask" else "integer"
            raise TypeError(f"{name}: expected a {kind} tensor [batch, length], got {given}")
        if tensor.shape != hidden.shape[:2]:
            raise UserError(f"{name}: expected shape {list(hidden.shape[:2])} as hidden has, got {list(tensor.shape)}")


def _check_range(name: str, value: float, allowed: bool, expected: str) -> None:
    if not allowed:
        raise UserError(f"{name}={value}: expected {expected}")
