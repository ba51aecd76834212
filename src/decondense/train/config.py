"""The options of `decondense train` in, what its runs are made of out: checked, defaults filled in, arms told apart. Trains nothing."""

from __future__ import annotations

import dataclasses
import math
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import torch
import tyro

from decondense.errors import UserError, check_least, choose, option
from decondense.losses.formulations import FORMULATIONS
from decondense.models import choose_device
from decondense.ranks import world
from decondense.texts.tokenizer import SMALLEST_VOCABULARY
from decondense.train.arms import (
    BASELINE,
    CONSTANT,
    FORGETTING,
    NOISE,
    Arm,
    parse_arm,
    parse_layers,
    parse_pairs,
    parse_schedule,
)
from decondense.train.build import TINY, parse_overrides
from decondense.train.documents import JOIN
from decondense.train.sharding import DEVICES
from decondense.train.trackers import TRACKERS

PRECISIONS = ("auto", "float32", "bfloat16")
# What the numbers of a run do not depend on.
_NOT_RECORDED = ("out", "cache", "report_to", "save_every")
_OF_AN_ARM = ("arms", "seeds", "seed", "formulation", "weight", "weight_schedule", NOISE, FORGETTING)
Config = TypeVar("Config", bound="RunConfig")


@dataclass(frozen=True)
class RunConfig(ABC):
    """What every command that trains can be told: text, length and speed, what is added to its objective, arms and seeds, and where it is kept."""

    plain_arms: ClassVar[tuple[str, ...]] = (BASELINE,)
    """Names of arms to which nothing is added; the first is the arm of `--formulation` for none."""

    weights_option: ClassVar[str] = "--init"
    architecture_option: ClassVar[str] = "--model"
    """What gave `weights` and the name in `architecture`, for messages."""

    texts: Annotated[str, tyro.conf.arg(metavar="SOURCE")] = "embedded"
    """embedded (no download), wikitext, pubmed, imdb, squad, NAME or NAME:CONFIGURATION on the hub, or PATH of a file or folder."""

    field: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Field that holds the text. By default the first there is of text, long_answer, context, story, content."""

    join: str = "auto"
    """Whether records that follow one another are one document: yes, no, file (all of a file are), auto (those of wikitext and of text files)."""

    streaming: bool = False
    """Read no more of SOURCE than the run needs, record by record, for what does not fit on the disk or into memory."""

    held_out: Annotated[float, tyro.conf.arg(metavar="SHARE")] = 0.1
    """Share of the text, in whole documents, that is evaluated on and never trained on."""

    steps: int = 300
    """Updates of the weights."""

    tokens: int = 0
    """Token budget, in place of --steps; 0 = as many as --steps need."""

    batch_size: int = 8
    """Windows in an update, over all processes."""

    micro_batch: int = 0
    """Windows in one forward pass, where memory is short: the update is that of the whole batch; 0 = all."""

    context: int = 0
    """Tokens of a window; 0 = 128 from scratch, 1024 from weights, or what the models can take."""

    learning_rate: float = 0.0
    """Of AdamW (0.9, 0.95) at its peak; 0 = 2e-3 from scratch, 5e-5 from weights."""

    warmup: float = 0.2
    """Share of the steps in which the learning rate rises; it falls as a cosine afterwards."""

    weight_decay: float = 0.1
    """Of matrices."""

    clip: float = 1.0
    """Largest norm of the gradient."""

    precision: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto"
    """float32, or bfloat16 (autocast; weights stay float32); auto = bfloat16 on a CUDA device that has it."""

    formulation: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Loss on hidden states, of docs/losses.md; cross_entropy (distill: distillation) for none. By default dispersion, none beside baselines."""

    weight: float = 0.1
    """Of that loss. Below 0 it condenses."""

    weight_schedule: Annotated[str, tyro.conf.arg(metavar="NAME[:NUMBER]")] = CONSTANT
    """constant, warmup:SHARE or decay:SHARE of the steps, adaptive:COSINE (holds that mean cosine), gradient_share:SHARE (of cross entropy's)."""

    layers: str = "all"
    """Where the loss is taken: all, last, early_half, late_half, numbers of hidden_states, or condensed[:COSINE], those that were above it last."""

    pairs: str = "all"
    """Of tokens: all, moments:ORDER, partition:SIZE, partition:SIZE:CONTROL, subset:SIZE (the paper's is subset:256)."""

    noisy_embedding: Annotated[float, tyro.conf.arg(metavar="ALPHA")] = 0.0
    """Baseline: uniform noise of at most ALPHA / sqrt(L F) on the input embeddings (NEFTune); 0 = none."""

    active_forgetting: Annotated[int, tyro.conf.arg(metavar="K")] = 0
    """Baseline: re-initialise the token embeddings every K steps, with their own learning rate (0 = never). GPT-2's head is the same matrix."""

    embedding_learning_rate: float = 0.0
    """Peak of the embeddings' learning rate in active forgetting; 0 = twice --learning-rate, as the paper has it."""

    lora: bool = False
    """Train low-rank adapters alone (rank 16, alpha 32, dropout 0.05); the saved model has them merged in."""

    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""

    fsdp: bool = False
    """Spread weights, gradients and Adam's state over the processes (FSDP2), which write the state together and may be others when it goes on."""

    arms: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME[=VALUE] ...")] = ()
    """Several runs: cross_entropy, formulations (weight, or schedule), noisy_embedding (ALPHA, 5), active_forgetting (K, 1000); a folder each."""

    seeds: int = 1
    """Number of seeds; each trains every arm, in a folder each."""

    seed: int = 0
    """Of the first weights, the order of the windows, and the draws; the first of --seeds."""

    evaluate_every: int = 50
    """Steps from one evaluation on held-out text to the next; 0 = at the end alone."""

    evaluation_windows: int = 400
    """Held-out windows that are evaluated on, at most."""

    monitor_every: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Measure the training batch every N steps, live and with a warning where it condenses; 0 = never, or as a schedule or --layers needs it."""

    save_every: int = 100
    """Steps from one saved state, from which the same command goes on, to the next."""

    report_to: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Follow the training in tensorboard, wandb, trackio."""

    cache: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder for tokenised text. By default ~/.cache/decondense."""

    device: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto"
    """auto, cpu, cuda, cuda:1, mps."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/train")
    """Folder for the results."""

    def check(self) -> None:
        """Raise `UserError` at a value that cannot be run, before anything is read or written; warn of one that is hardly meant."""
        least = {"steps": 1, "tokens": 0, "batch_size": 1, "micro_batch": 0, "context": 0, "seeds": 1, "seed": 0}
        least |= {"evaluate_every": 0, "evaluation_windows": 1, "save_every": 1, "monitor_every": 0, FORGETTING: 0}
        check_least(self, least)
        for name in ("learning_rate", "weight_decay", NOISE, "embedding_learning_rate"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{option(name)} {getattr(self, name)}: expected a finite number of at least 0")
        if not 0 < self.clip < math.inf:
            raise UserError(f"--clip {self.clip}: expected a number above 0")
        if not 0 <= self.warmup <= 1:
            raise UserError(f"--warmup {self.warmup}: expected a share of the steps, from 0 to 1")
        if self.context == 1:
            raise UserError("--context 1: a window needs at least 2 tokens, one to predict from the other")
        choose("--join", self.join, JOIN)
        choose("--precision", self.precision, PRECISIONS)
        for name in self.report_to:
            choose("--report-to", name, TRACKERS)
        parse_layers(self.layers)
        parse_pairs(self.pairs, seed=0)
        device = choose_device(self.device)
        if self.fsdp and device.type not in DEVICES:
            raise UserError(
                f"--fsdp on {device}: weights can be spread over processes on {' and '.join(DEVICES)} alone"
            )
        if self.batch_size < world():
            raise UserError(
                f"--batch-size {self.batch_size}: cannot be shared by {world()} processes, each needs at least one window"
            )
        found = self.all_arms()
        for arm in found:
            if not math.isfinite(arm.weight):
                raise UserError(f"--weight {arm.weight}: expected a finite number, such as 0.1")
            if arm.weight < 0:
                warnings.warn(
                    f"the weight {arm.weight:g} of {arm.formulation} is below 0: the run condenses", stacklevel=2
                )
            parse_schedule(arm.schedule, arm.weight, self.steps)
            if self.fsdp and arm.schedule.startswith("gradient_share"):
                raise UserError("--fsdp: no process has the whole gradient that gradient_share asks for; take adaptive")
        names = [arm.name for arm in found]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise UserError(f"--arms {twice[0]} was given twice: once is enough")

    @property
    @abstractmethod
    def weights(self) -> str:
        """Name of the model that is gone on from; empty where one is made from scratch."""

    @property
    @abstractmethod
    def architecture(self) -> tuple[str, dict[str, Any]]:
        """Name of the model that is made from scratch, and the entries of its configuration that are changed."""

    @property
    def several(self) -> bool:
        """Whether there is a folder for each run."""
        return bool(self.arms) or self.seeds > 1

    def all_arms(self) -> list[Arm]:
        """What `--arms` names; without it the one arm that the other options make."""
        if self.arms:
            values = (self.weight, self.noisy_embedding, self.active_forgetting)
            return [parse_arm(text, *values, self.plain_arms, self.weight_schedule) for text in self.arms]
        nothing = self.plain_arms[0]
        baseline = bool(self.noisy_embedding or self.active_forgetting)
        formulation = self.formulation or (nothing if baseline else "dispersion")
        parts = [NOISE] * bool(self.noisy_embedding) + [FORGETTING] * bool(self.active_forgetting)
        if formulation == nothing:
            return [Arm("+".join(parts) or nothing, None, 0.0, self.noisy_embedding, self.active_forgetting)]
        choose("--formulation", formulation, [nothing, *FORMULATIONS])
        name = "+".join([formulation, *parts])
        added = (self.noisy_embedding, self.active_forgetting)
        return [Arm(name, formulation, self.weight, *added, self.weight_schedule)]

    def filled(self: Config, positions: int | None) -> Config:
        """The same with every default that depends on something filled in; `positions`: tokens that the models can take."""
        device = choose_device(self.device)
        context = self.context or min(1024 if self.weights else 128, positions or 1024)
        steps = math.ceil(self.tokens / (self.batch_size * context)) if self.tokens else self.steps
        learning_rate = self.learning_rate or (5e-5 if self.weights else 2e-3)
        half = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return dataclasses.replace(
            self,
            device=str(device),
            context=context,
            steps=steps,
            tokens=steps * self.batch_size * context,
            learning_rate=learning_rate,
            embedding_learning_rate=self.embedding_learning_rate or 2 * learning_rate,
            precision=("bfloat16" if half else "float32") if self.precision == "auto" else self.precision,
        )

    def recorded(self, arm: Arm | None = None, seed: int | None = None) -> dict[str, Any]:
        """What the numbers depend on: of one run, or without it what all runs share. JSON can hold it."""
        left_out = {*_NOT_RECORDED, *_OF_AN_ARM}
        shared = {name: value for name, value in dataclasses.asdict(self).items() if name not in left_out}
        if arm is None:
            return shared
        told = {name: value for name, value in dataclasses.asdict(arm).items() if name != "name"}
        return {**shared, "arm": arm.name, **told, "seed": seed}


@dataclass(frozen=True)
class ModelOptions:
    """Which model is trained, and on which tokens."""

    model: Annotated[str, tyro.conf.arg(metavar="NAME")] = TINY
    """Train from scratch: tiny, a model type of transformers (gpt2, llama, qwen3) in its default size, a folder with config.json, or a hub name."""

    override: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...")] = ()
    """Entries of the configuration of --model to change, as n_layer=4 n_embd=256."""

    n_inner: Annotated[int, tyro.conf.arg(metavar="WIDTH")] = 0
    """Features inside a GPT-2 block's MLP (the paper's figure 3), short for --override n_inner=WIDTH; 0 = as configured."""

    init: Annotated[str, tyro.conf.arg(metavar="MODEL")] = ""
    """Go on from this model instead (mid-training): a hub name, NAME@REVISION, or a folder."""

    tokenizer: Annotated[str, tyro.conf.arg(metavar="NAME")] = ""
    """Folder or hub name. By default that of --init, or from scratch a byte-level BPE trained on the training text."""

    vocabulary: int = 1024
    """Tokens of that BPE."""


@dataclass(frozen=True)
class TrainConfig(RunConfig, ModelOptions):
    """Train a causal language model with a loss against condensation, or with a baseline, and see what it did.

    Without options it trains a tiny GPT-2 on the embedded corpus, in a minute or two. --model trains from scratch, --init goes on from a model.
    The folder --out gets the model, as transformers loads it, results.json and condensation.npz (as measured on held-out text). The same command
    goes on where it was stopped, and ends with the same weights. Started by torchrun, its processes share each batch.
    """

    def check(self) -> None:
        check_least(self, {"n_inner": 0, "vocabulary": SMALLEST_VOCABULARY})
        if self.init and (self.model != TINY or self.override or self.n_inner):
            raise UserError(
                "--init goes on from a model as it is: leave --model, --override and --n-inner out, or --init"
            )
        parse_overrides(self.override)
        super().check()

    @property
    def weights(self) -> str:
        return self.init

    @property
    def architecture(self) -> tuple[str, dict[str, Any]]:
        overrides = parse_overrides(self.override)
        return self.model, {**overrides, "n_inner": self.n_inner} if self.n_inner else overrides
