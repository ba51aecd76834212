"""A model, tokenised texts and one statistics a layer in; every batch shown to every layer out. Memory that runs out, layers that break,
a run that is killed, and several processes are met here; what is measured is not known here.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from decondense.errors import UserError
from decondense.files import replace_file
from decondense.geometry.statistics import LayerStatistics, NotFinite
from decondense.layers import body, evaluating, watch
from decondense.ranks import rank, world
from decondense.tokens import Marker, TokenizedTexts, plan_batches

PADDING_SHARE = 0.1
"""At most this share of a batch's tokens is padding."""


@dataclass
class Progress:
    """How far a measurement is, on this process.

    Attributes:
        batches: the texts of each batch, by number.
        statistics: of each layer; None for a layer that held NaN or infinity and was given up.
        done: batches that all layers have seen.
    """

    batches: list[list[int]]
    statistics: list[LayerStatistics | None]
    done: int = 0

    @property
    def order(self) -> list[int]:
        """Numbers of the texts in the order in which they were seen."""
        return [text for batch in self.batches[: self.done] for text in batch]

    def save(self, path: Path) -> None:
        """Write all of it to one file."""
        states = [None if one is None else one.state_dict() for one in self.statistics]
        with replace_file(path) as temporary:
            torch.save({"batches": self.batches, "done": self.done, "statistics": states}, temporary)

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote; where the file is of other texts or metrics, from the beginning."""
        state = torch.load(path, weights_only=True)
        texts = sorted(text for batch in state["batches"] for text in batch)
        if texts != sorted(text for batch in self.batches for text in batch) or len(state["statistics"]) != len(
            self.statistics
        ):
            return
        for place, found in enumerate(state["statistics"]):
            one = self.statistics[place]
            if found is None or one is None:
                self.statistics[place] = None
            else:
                one.load_state_dict(found)
        self.batches, self.done = state["batches"], state["done"]


@dataclass
class Reader:
    """How a model is run over texts.

    Attributes:
        model: with or without a head.
        texts: what it reads.
        name: of the model, for messages.
        stack: "encoder" or "decoder" of a model that has both; None of any other.
        layers: names of modules to look at in place of the model's blocks.
        logits: whether the head's output is one more layer.
        marker: says what is known of tokens; None where no statistics asks.
        fresh: makes the statistics of all layers.
    """

    model: nn.Module
    texts: TokenizedTexts
    name: str
    stack: str | None
    layers: Sequence[str] | None
    logits: bool
    marker: Marker | None
    fresh: Callable[[], list[LayerStatistics]]

    def __post_init__(self) -> None:
        self._body = body(self.model, self.stack, self.layers)
        self._parameters = inspect.signature(self._body.forward).parameters
        get_head: Any = getattr(self.model, "get_output_embeddings", None)
        self._head = get_head() if self.logits and get_head is not None else None
        if self.logits and self._head is None:
            raise UserError(
                f"logits=True: {self.name} has no language-model head; load it with one, or leave logits out"
            )

    @property
    def takes_mask(self) -> bool:
        """Whether the model can be told which tokens are padding."""
        return "attention_mask" in self._parameters

    def run(self, batch_size: int, checkpoint: Path | None, report: Callable[[int], None]) -> Progress:
        """Show all texts of this process to all layers; `report` is told the number of texts after each batch.

        Where memory runs out the batch size is halved and the run begins anew (batches come longest first: it is the first that fails).
        With `checkpoint` the state is kept there after each batch, and where the file exists the run goes on from it.
        """
        while True:
            # Without an attention mask only texts of one length can share a batch.
            batches = plan_batches(self.texts.lengths, batch_size, PADDING_SHARE if self.takes_mask else 0.0)
            progress = Progress(batches[rank() :: world()], list(self.fresh()))
            if checkpoint is not None and checkpoint.exists():
                progress.load(checkpoint)
            try:
                self._run(progress, checkpoint, report)
                return progress
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _is_memory(error):
                    raise
                largest = max(map(len, progress.batches))
                if largest == 1:
                    raise UserError(
                        f"{self.name}: memory is full with one text of {max(self.texts.lengths)} tokens in a batch: lower max_length, load the "
                        "model in bfloat16, or take another device"
                    ) from error
            warnings.warn(
                f"{self.name}: memory is full with {largest} texts in a batch: going on with {largest // 2}",
                stacklevel=4,
            )
            if checkpoint is not None:
                checkpoint.unlink(missing_ok=True)
            _free()
            batch_size = largest // 2

    def _run(self, progress: Progress, checkpoint: Path | None, report: Callable[[int], None]) -> None:
        device = _input_device(self.model)
        broken: dict[int, int] = {}
        batch: list[int] = []
        inputs = torch.zeros(0, 0)
        mask: Tensor | None = None
        marks = None

        def show(index: int, hidden: Tensor, rows: slice = slice(None)) -> None:
            statistics = progress.statistics[index]
            if statistics is None:
                return
            try:
                of_rows = None if mask is None else mask[rows].to(hidden.device)
                statistics.update(hidden, of_rows, None if marks is None else marks[rows])
            except NotFinite as error:
                progress.statistics[index] = None
                broken.setdefault(index, batch[rows][error.row])

        def visit(index: int, hidden: Tensor) -> None:
            if hidden.shape[:2] != inputs.shape:
                raise UserError(
                    f"{self.name}: layer {index} has shape {list(hidden.shape)} where {list(inputs.shape)} tokens were read: this model lays its "
                    "hidden states out in a way of its own; name modules whose outputs are [batch, length, features] (layers=[...])"
                )
            show(index, hidden)
            if self._head is not None and index == len(progress.statistics) - 2:
                for row in range(len(hidden)):  # one text at a time: the logits of a batch may take gigabytes
                    show(index + 1, self._head(hidden[row : row + 1]), slice(row, row + 1))

        watched = watch(self.model, visit, stack=self.stack, names=self.layers)
        with torch.inference_mode(), evaluating(self.model), watched:
            report(len(progress.order))
            for batch in progress.batches[progress.done :]:
                inputs, real = self._pad(batch)
                mask = None if bool(real.all()) else real
                if self.marker is not None:
                    marks = self.marker.mark(batch, self._read(inputs), real)
                self._forward(inputs.to(device), real.to(device))
                watched.check()
                progress.done += 1
                if checkpoint is not None:
                    progress.save(checkpoint)
                report(len(batch))
        if broken:
            first, layers = min(broken), ", ".join(map(str, sorted(broken)))
            warnings.warn(
                f"{self.name}: layer {first} holds NaN or infinity at text {broken[first]}; not counted: layers {layers}; "
                "load the model in float32 or bfloat16, or check its weights",
                stacklevel=4,
            )

    def _pad(self, batch: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Ids [batch, length] of texts and which of them are real, the first of each row."""
        rows = [self.texts.ids[text].long() for text in batch]
        lengths = torch.tensor([len(row) for row in rows])
        inputs = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return inputs, torch.arange(inputs.shape[1]) < lengths[:, None]

    def _read(self, inputs: Tensor) -> Tensor:
        """What the watched stack reads: a decoder of an encoder-decoder reads at each position the token before."""
        if self.stack != "decoder":
            return inputs
        return torch.cat([torch.full_like(inputs[:, :1], _start_token(self.model)), inputs[:, :-1]], dim=1)

    def _forward(self, inputs: Tensor, real: Tensor) -> None:
        options: dict[str, Any] = {"use_cache": False} if "use_cache" in self._parameters else {}
        if self.takes_mask:
            options["attention_mask"] = real.long()
        if self.stack == "decoder":
            decoder = {"decoder_input_ids": self._read(inputs), "decoder_attention_mask": real.long()}
            self._body(input_ids=inputs, **decoder, **options)
        else:
            self._body(inputs, **options)


def gather(progress: Progress, reader: Reader) -> tuple[list[int], list[LayerStatistics | None]]:
    """Order of all texts and statistics of all layers, those of all processes put together; the same on each."""
    if world() == 1:
        return progress.order, progress.statistics
    mine = (progress.order, [None if one is None else one.state_dict() for one in progress.statistics])
    parts: list[Any] = [None] * world()
    dist.all_gather_object(parts, mine)
    merged: list[LayerStatistics | None] = list(reader.fresh())
    order: list[int] = []
    for texts, states in parts:
        order += texts
        for place, (one, state, empty) in enumerate(zip(merged, states, reader.fresh(), strict=True)):
            if one is None or state is None:
                merged[place] = None
                continue
            empty.load_state_dict(state)
            merged[place] = one.merge(empty)
    return order, merged


def _input_device(model: nn.Module) -> torch.device:
    try:
        device = model.get_input_embeddings().weight.device  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    if device.type != "meta":
        return device
    # Weights that are kept elsewhere until they are needed (accelerate): their hooks bring them to where they compute.
    hooks = (getattr(module, "_hf_hook", None) for module in model.modules())
    places = (getattr(hook, "execution_device", None) for hook in hooks if hook is not None)
    return torch.device(next((place for place in places if place is not None), "cpu"))


def _start_token(model: Any) -> int:
    """What a decoder reads at its first position: the token that its training began with."""
    configs = (getattr(model, "config", None), getattr(model, "generation_config", None))
    names = ("decoder_start_token_id", "bos_token_id", "pad_token_id")
    found = (getattr(config, name, None) for name in names for config in configs)
    return int(next((token for token in found if isinstance(token, int)), 0))


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _free() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
