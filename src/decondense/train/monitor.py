"""A model that is training in, how condensed its layers are on what it trains on out: mean cosines, a warning, a picture. Knows no trainer.

What is measured is the training's own forward pass: no pass is added, no hidden state is kept, and a layer costs one reading of its tokens.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from decondense.batches import Batch, read_batch
from decondense.errors import UserError, choose, require
from decondense.files import replace_file
from decondense.layers import body, count_layers, unwrap, watch
from decondense.losses.module import DispersionLoss
from decondense.losses.pair_rows import scaled, scaled_slope, zero
from decondense.losses.pairs import Moments
from decondense.losses.row import Formulation
from decondense.losses.transforms import unit_tokens
from decondense.ranks import rank, world
from decondense.shapes import Float
from decondense.sums import Sequences

# Its expansion of order 1 is exact, so that the mean cosine of a sequence of L tokens costs O(L features).
MEAN_COSINE = Formulation(
    name="mean_cosine",
    formula="mean_{i != j} c_ij = (||sum u_i||^2 - sum ||u_i||^2) / (L (L - 1))",
    source="Ethayarajh 2019, arXiv 1909.00512",
    transform=unit_tokens,
    pair=scaled,
    slope=scaled_slope,
    curvature=zero,
)


class CollapseWarning(UserWarning):
    """The hidden states of a training model have condensed; training goes on."""


@dataclass(frozen=True)
class Observation:
    """Mean cosine of different tokens (i != j) of each entry of `hidden_states`, averaged over the sequences of one training batch.

    NaN where a layer was not run, held NaN or infinity, or no sequence had two tokens.
    """

    step: int
    mean_cosine: tuple[float, ...]

    def average(self, layers: Sequence[int] | None = None) -> float:
        """Mean over some layers, by their indices of `hidden_states`; over all but the embeddings by default."""
        chosen = range(1, len(self.mean_cosine)) if layers is None else layers
        return math.fsum(self.mean_cosine[layer] for layer in chosen) / len(chosen)

    def by_name(self) -> dict[str, float]:
        """The mean cosine of each layer under the name that trackers show it by."""
        return {f"mean_cosine/layer_{layer:02d}": value for layer, value in enumerate(self.mean_cosine)}


class Monitor:
    """Watch how condensed a model's layers are on its training batches, every so many steps, with a loss attached or without.

    In evaluation mode and without gradients nothing happens. Padding and documents are read from what the model is given, as `attach` does, and in a
    process group the ranks' sequences are averaged together, so all ranks must run the same number of training passes.

    Args:
        model: as for `attach`: a transformers model, alone or wrapped, or any model with a list of blocks.
        every: steps from one observation to the next; the first step is observed. A training forward pass is a step, numbered from 0, unless the
            loop says where a step begins (`begin_step`); then the first pass of a step is observed.
        threshold: a layer whose mean cosine lies above it has collapsed, unless it began there (the last layers of a trained GPT-2 do).
        rise: so has a layer whose mean cosine is this much above its lowest so far.
        patience: observations in a row that must say so before there is a warning, once a run. Models that train from scratch often pass through a
            cone in their first tens of steps, and leave it.
        across_ranks: False = each rank observes its own sequences. With pipeline parallelism the ranks have different layers.

    Attributes:
        history: the observations so far.
        documents: [batch, length] integer ids of the next batches, in place of what the model is given; None = read the model's input.
        due: whether the next training pass will be observed.
        divided_by_total: whether the batch that was observed last came with `num_items_in_batch`, by which losses are divided then.

    Raises:
        UserError: (a ValueError) a number outside its range; no list of blocks. While training: an attention mask that does not say where
            padding and documents are.

    Examples:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=32, n_embd=16, n_layer=2, n_head=2))
        >>> with Monitor(model.train(), every=10) as monitor:
        ...     for step in range(30):
        ...         output = model(input_ids=torch.arange(32)[None], labels=torch.arange(32)[None])
        >>> [observation.step for observation in monitor.history], len(monitor.history[0].mean_cosine)
        ([0, 10, 20], 3)
    """

    def __init__(
        self,
        model: nn.Module,
        every: int = 50,
        threshold: float = 0.9,
        rise: float = 0.5,
        patience: int = 3,
        across_ranks: bool = True,
    ) -> None:
        for name, value in (("every", every), ("patience", patience)):
            if value < 1:
                raise UserError(f"{name}={value}: must be at least 1")
        for name, number in (("threshold", threshold), ("rise", rise)):
            if not number > 0:
                raise UserError(f"{name}={number}: a mean cosine above 0 is expected, such as 0.5")
        self.every, self.threshold, self.rise, self.patience = every, threshold, rise, patience
        self.across_ranks = across_ranks
        self.history: list[Observation] = []
        self.documents: Tensor | None = None
        self.divided_by_total = False
        self._layers = count_layers(model)
        self._cosine = DispersionLoss(MEAN_COSINE, epsilon=0.0, pairs=Moments(1))
        self.due = False
        self._step, self._told = -1, False
        self._batch: Batch | None = None
        self._sequences: Sequences | None = None
        self._seen: dict[int, Tensor] = {}
        self._lowest = [math.inf] * self._layers
        self._in_a_row = [0] * self._layers
        self._warned = False
        outer = unwrap(model)
        self._handles: list[Any] = [
            watch(body(model), self._see),
            outer.register_forward_pre_hook(self._begin, with_kwargs=True),
            outer.register_forward_hook(self._end),
        ]

    def begin_step(self, step: int) -> None:
        """Say that the training passes from now on belong to step number `step`."""
        self._told, self._step = True, step
        self.due = step % self.every == 0 or not self.history

    def seen_at(self, step: int) -> dict[str, float]:
        """What was observed at that step, by name; nothing where it was not observed."""
        return self.history[-1].by_name() if self.history and self.history[-1].step == step else {}

    def remove(self) -> None:
        """Take the hooks off; the history stays. A second call does nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def draw(self) -> Any:
        """The mean cosine of each layer over the steps as a heatmap, from 0 (dark) to 1: a matplotlib figure.

        Raises:
            UserError: nothing was observed yet, or matplotlib is not installed.
        """
        figures = require("matplotlib.figure", extra="report")
        if not self.history:
            raise UserError("nothing to draw: the model has not run in training mode since the monitor watches it")
        steps = [observation.step for observation in self.history]
        # A column reaches from its observation to the next.
        edges = [*steps, steps[-1] + (steps[-1] - steps[-2] if len(steps) > 1 else self.every)]
        rows = list(zip(*(observation.mean_cosine for observation in self.history), strict=True))
        figure = figures.Figure(figsize=(6.6, 3.4), layout="constrained")
        axes = figure.subplots()
        image = axes.pcolormesh(
            edges, [layer - 0.5 for layer in range(self._layers + 1)], rows, cmap="magma", vmin=0, vmax=1
        )
        axes.set(xlabel="training step", ylabel="layer")
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_major_locator().set_params(integer=True)
        figure.colorbar(image, ax=axes, label="mean cosine, i ≠ j")
        return figure

    def figure(self, path: Path) -> None:
        """Write the heatmap to `path`, whose suffix (.png, .svg, .pdf) says how. Raises what `draw` raises."""
        choose("suffix", path.suffix, (".png", ".svg", ".pdf"))
        figure = self.draw()
        with replace_file(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:], dpi=150)

    def state_dict(self) -> dict[str, Any]:
        """The step, the history, and whether there was a warning, in what JSON can hold (NaN as Python writes it)."""
        history = [[one.step, *one.mean_cosine] for one in self.history]
        return {"step": self._step, "history": history, "warned": self._warned, "divided": self.divided_by_total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken, of a model with as many layers."""
        self.history = []
        self._lowest, self._in_a_row = [math.inf] * self._layers, [0] * self._layers
        for step, *means in state["history"]:
            if len(means) != self._layers:
                raise UserError(f"the history is of a model with {len(means)} layers, and this one has {self._layers}")
            self._keep(Observation(step, tuple(means)))
        self._step, self._warned, self.divided_by_total = state["step"], state["warned"], state["divided"]

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._batch = None
        if not (module.training and torch.is_grad_enabled()):
            return
        if not self._told:
            self._step += 1
            self.due = self._step % self.every == 0
        if self.due:
            self.due, self._sequences = False, None
            self._seen.clear()
            named = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments if args else {}
            self._batch = read_batch(module, {**kwargs, **named}, self.documents)

    @torch.no_grad()
    def _see(self, index: int, hidden: Tensor) -> None:
        if self._batch is None:
            return
        if self._sequences is None:
            self._sequences = self._batch.sequences(hidden, self._cosine.find_sequences)
        sequences = self._sequences.to(hidden.device)
        values = self._cosine.of_sequences(hidden.detach(), sequences, step=0, layer=index)
        self._seen[index] = torch.stack([values.sum(), (sequences.tokens >= 2).sum().to(values)])

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        batch, self._batch = self._batch, None
        if batch is None or not self._seen:
            return
        self.divided_by_total = batch.total is not None
        device = next(iter(self._seen.values())).device
        sums = torch.zeros((self._layers, 2), device=device)
        for index, seen in self._seen.items():
            sums[index] = seen.to(device)
        if self.across_ranks:
            add_over_ranks(sums)
        self._keep(Observation(self._step, tuple((sums[:, 0] / sums[:, 1]).clamp(max=1.0).tolist())))
        self._warn()

    def _keep(self, observation: Observation) -> None:
        self.history.append(observation)
        first = self.history[0].mean_cosine
        for layer, value in enumerate(observation.mean_cosine):
            self._lowest[layer] = min(self._lowest[layer], value)
            above = value > self.threshold >= first[layer]
            high = above or value - self._lowest[layer] > self.rise
            self._in_a_row[layer] = self._in_a_row[layer] + 1 if high else 0

    def _warn(self) -> None:
        collapsed = [layer for layer, times in enumerate(self._in_a_row) if times >= self.patience]
        if not collapsed or self._warned:
            return
        self._warned = True
        if self.across_ranks and rank() > 0:
            return  # the first rank says the same
        last = self.history[-1]
        worst = max(collapsed, key=last.mean_cosine.__getitem__)
        layers = f"layer{'s' if len(collapsed) > 1 else ''} {', '.join(map(str, collapsed))}"
        warnings.warn(
            f"step {last.step}: the hidden states of {layers} condense: the mean cosine of layer {worst} is "
            f"{last.mean_cosine[worst]:.2f}, and was {self._lowest[worst]:.2f}; attach a DispersionLoss, or raise its weight",
            CollapseWarning,
            stacklevel=2,
        )


def add_over_ranks(sums: Float[Tensor, "*any"]) -> int:
    """Add up `sums`, in place, over the ranks of the default process group; return how many there are."""
    ranks = world()
    if ranks > 1:
        dist.all_reduce(sums)
    return ranks
