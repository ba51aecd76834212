"""One run of the capacity study in, what its model knows of the people out: a tiny GPT from a seed, trained on their biographies.

Runs of one size and seed start from the same weights and read the same biographies; nothing differs but the loss on hidden states.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decondense.attach import Attachment, attach
from decondense.batches import IGNORED_LABEL
from decondense.condensation import Condensation
from decondense.errors import UserError, require
from decondense.evaluate.biographies import START, VOCABULARY, Biographies
from decondense.evaluate.capacity import model_scorer, score
from decondense.files import prepare_folder, read_json, write_json
from decondense.geometry.metrics import choose_metrics, collectors
from decondense.layers import count_layers, evaluating, watch
from decondense.losses.module import DispersionLoss
from decondense.models import transformers_models
from decondense.train.build import named_loss
from decondense.train.loop import Schedule, train
from decondense.train.saving import save_model

RESULT = "capacity.json"
LONGEST = 64
"""Positions of a model: no biography is longer."""
SAVE_EVERY = 200
"""Steps after which the state of a run is saved."""


@dataclass(frozen=True)
class Size:
    """The shape of a model: blocks, features of a hidden state, heads of the attention.

    >>> Size.parse("2x18x3")
    Size(layers=2, width=18, heads=3)
    """

    layers: int
    width: int
    heads: int

    @classmethod
    def parse(cls, text: str) -> Size:
        """LAYERSxWIDTHxHEADS; `UserError` where it is something else, or heads do not share the width evenly."""
        found = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text)
        if not found or not all(map(int, found.groups())):
            raise UserError(f"size {text!r}: expected LAYERSxWIDTHxHEADS, such as 2x18x3")
        size = cls(*map(int, found.groups()))
        if size.width % (2 * size.heads):
            raise UserError(
                f"size {text!r}: the width must be a multiple of twice the heads, as rotary positions have it"
            )
        return size

    def __str__(self) -> str:
        return f"{self.layers}x{self.width}x{self.heads}"


@dataclass(frozen=True)
class CapacityRun:
    """What one model is and reads.

    Attributes:
        size: of the model.
        people: that there are biographies of.
        exposures: biographies of each person that it reads.
        formulation: of the loss on its hidden states; None: cross entropy alone.
        weight: of that loss.
        seed: of weights, people, and biographies.
        batch_size: biographies in an update.
        learning_rate: at its peak.
    """

    size: Size
    people: int
    exposures: int
    formulation: str | None
    weight: float
    seed: int
    batch_size: int
    learning_rate: float

    @property
    def arm(self) -> str:
        """The name of the loss, as tables and figures have it."""
        return self.formulation or "cross_entropy"

    @property
    def folder(self) -> str:
        """Where it is kept."""
        return f"{self.size}-{self.people}people-{self.exposures}exposures-{self.arm}-weight{self.weight:g}-seed{self.seed}"

    @property
    def steps(self) -> int:
        """Updates until each person was read `exposures` times."""
        return math.ceil(self.people * self.exposures / self.batch_size)


def build_model(size: Size, seed: int) -> Any:
    """GPT-2's blocks with rotary positions, tied embeddings, and no dropout: transformers' GPT-NeoX without its parallel residual."""
    transformers = transformers_models()
    start = VOCABULARY.index(START)
    config = transformers.GPTNeoXConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.width,
        max_position_embeddings=LONGEST,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
        use_parallel_residual=False,
        tie_word_embeddings=True,
        # At GPT-2's 0.02 a model this narrow begins as good as silent; this is what its 768 features have, 0.55 / sqrt(width).
        initializer_range=0.55 / math.sqrt(size.width),
        hidden_dropout=0.0,
        attention_dropout=0.0,
        use_cache=False,
        bos_token_id=start,
        eos_token_id=start,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    return named_loss(transformers.GPTNeoXForCausalLM(config))


def count_parameters(model: Any) -> tuple[int, int]:
    """All parameters, the tied embedding once; and those that are not the embedding."""
    total = sum(parameter.numel() for parameter in model.parameters())
    return total, total - model.get_input_embeddings().weight.numel()


def reading(biographies: Biographies, run: CapacityRun, device: torch.device) -> Callable[[int], dict[str, Tensor]]:
    """The batch of each step: people in the order of one permutation for each exposure, in words that are a function of the seed and the step."""

    def batch_at(step: int) -> dict[str, Tensor]:
        last = min((step + 1) * run.batch_size, run.people * run.exposures)
        places = range(step * run.batch_size, last)
        who = [_order(run.people, run.seed, place // run.people)[place % run.people] for place in places]
        written = biographies.write(torch.tensor(who), _generator(run.seed, step, 1))
        labels = written.tokens.masked_fill(~written.mask, IGNORED_LABEL)
        batch = {"input_ids": written.tokens, "labels": labels, "attention_mask": written.mask.long()}
        return {name: tensor.to(device) for name, tensor in batch.items()}

    return batch_at


def _generator(*numbers: int) -> torch.Generator:
    words = require("numpy", extra="hf").random.SeedSequence(numbers).generate_state(2)
    return torch.Generator().manual_seed(int(words[0]) << 31 ^ int(words[1]))


@lru_cache(maxsize=4)
def _order(people: int, seed: int, exposure: int) -> tuple[int, ...]:
    return tuple(torch.randperm(people, generator=_generator(seed, exposure, 0)).tolist())


def seconds_per_step(run: CapacityRun, device: torch.device, steps: int = 5) -> float:
    """How long an update of this run takes here now, measured on a model that is thrown away."""
    model = build_model(run.size, run.seed).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    batch_at = reading(Biographies(run.people, run.seed), run, device)
    with _attached(model, run):
        for step in range(steps + 2):
            if step == 2:  # the first ones allocate
                _wait(device)
                began = time.perf_counter()
            model(**batch_at(step % run.steps)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        _wait(device)
    return (time.perf_counter() - began) / steps


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def _attached(model: Any, run: CapacityRun) -> Iterator[Attachment | None]:
    if run.formulation is None:
        yield None
        return
    with attach(model, DispersionLoss(run.formulation), weight=run.weight) as handle:
        yield handle


def run_capacity(
    out: Path, run: CapacityRun, device: torch.device, progress: Callable[[int], None] = lambda step: None
) -> dict[str, Any]:
    """Train one model in its folder below `out`, from where it was stopped, and score it; or read it where it is finished.

    Raises:
        UserError: training diverged, the disk is full, or the result is damaged.
    """
    folder = prepare_folder(out / run.folder)
    path, state = folder / RESULT, folder / "state.pt"
    if path.exists():
        finished: dict[str, Any] = read_json(path, "remove it to train that run again")
        return finished
    biographies = Biographies(run.people, run.seed)
    model = build_model(run.size, run.seed).to(device)
    schedule = Schedule(run.steps, run.learning_rate, warmup=0.05, weight_decay=0.01, betas=(0.9, 0.98))
    with _attached(model, run) as handle:
        seconds = train(
            model,
            reading(biographies, run, device),
            schedule,
            state,
            observe=lambda step: None,
            extra_state=handle,
            save_every=SAVE_EVERY,
            progress=progress,
        )
    knowledge = score(model_scorer(model), biographies, device=device)
    parameters, inner = count_parameters(model)
    content = {
        "parameters": parameters,
        "people": run.people,
        "exposures": run.exposures,
        "bits_per_parameter": knowledge.bits / parameters,
        "dispersion_weight": run.weight,
        "seed": run.seed,
        "arm": run.arm,
        "size": str(run.size),
        "parameters_without_embedding": inner,
        "bits_per_parameter_without_embedding": knowledge.bits / inner,
        "most_bits_per_parameter": knowledge.most / parameters,
        "bits": knowledge.bits,
        "bits_by_field": dict(knowledge.bits_by_field),
        "losses": dict(knowledge.losses),
        "mean_cosine": _mean_cosine(model, biographies, run, device),
        "learning_rate": run.learning_rate,
        "batch_size": run.batch_size,
        "steps": run.steps,
        "seconds": seconds,
    }
    save_model(model, None, folder)
    # Written last: its presence says that the run is finished.
    write_json(path, content)
    state.unlink(missing_ok=True)
    return content


@torch.no_grad()
def _mean_cosine(model: Any, biographies: Biographies, run: CapacityRun, device: torch.device) -> list[float]:
    """Mean cosine of each layer over a biography of each of the first 200 people, diagonal included."""
    names = choose_metrics("mean_cosine")
    statistics = collectors(names, count_layers(model), one_length=False)
    written = biographies.write(torch.arange(min(run.people, 200)), _generator(run.seed, 0, 2))
    mask = written.mask.to(device)
    with evaluating(model), watch(model, lambda index, hidden: statistics[index].update(hidden, mask)):
        model(input_ids=written.tokens.to(device), attention_mask=mask.long())
    found: list[float] = Condensation.from_statistics(statistics, names, run.folder, LONGEST).mean_cosine.tolist()
    return found
