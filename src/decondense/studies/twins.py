"""One arm of a twin study: a tiny GPT-2 from a seed, trained on the embedded corpus with or without a loss on its hidden states.

Arms of one seed start from the same weights and see the same batches; nothing differs but the term. A finished arm is a folder that
`AutoModelForCausalLM` loads, with `arm.json` (its numbers) and `condensation.npz`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decondense.attach import attach
from decondense.condensation import Condensation
from decondense.errors import require
from decondense.evaluate.window_loss import HeldOut, evaluate_windows
from decondense.files import plain, prepare_folder, read_json, replace_file, write_json
from decondense.losses.module import DispersionLoss
from decondense.models import transformers_models
from decondense.texts import embedded, packing, tokenizer
from decondense.train.build import named_loss
from decondense.train.loop import Schedule, train


@dataclass(frozen=True)
class TwinSettings:
    """What all arms of a study share.

    Attributes:
        steps: updates.
        layers: blocks of the model.
        width: features of a hidden state.
        heads: of the attention.
        mlp_width: features inside a block's MLP.
        context: tokens of a window.
        batch_size: windows a step.
        vocabulary: tokens of the BPE.
        learning_rate: at its peak.
        device: of torch.
        checkpoints: number of log-spaced checkpoints to keep, from step 0; 0 keeps none.
    """

    steps: int
    layers: int
    width: int
    heads: int
    mlp_width: int
    context: int
    batch_size: int
    vocabulary: int
    learning_rate: float
    device: str
    checkpoints: int


@dataclass(frozen=True)
class Arm:
    """One run: the name of the arm, the loss that is added (None: cross entropy alone), its weight, the seed."""

    name: str
    formulation: str | None
    weight: float
    seed: int

    @property
    def folder(self) -> str:
        return f"{self.name}-seed{self.seed}"


class Corpus:
    """The embedded corpus, tokenised: windows to train on, and held-out windows that share no document with them."""

    def __init__(self, settings: TwinSettings) -> None:
        training, held_out = embedded.split(embedded.documents())
        self.tokenizer = tokenizer.train([document.text for document in training], settings.vocabulary)
        self.training = packing.pack([document.text for document in training], self.tokenizer, settings.context)
        self.held_out = packing.pack([document.text for document in held_out], self.tokenizer, settings.context).tokens

    @cached_property
    def bytes_per_token(self) -> float:
        """Bytes of held-out text for each predicted token; the end-of-text token stands for none."""
        specials = set(self.tokenizer.all_special_ids)
        names = self.tokenizer.convert_ids_to_tokens(list(range(len(self.tokenizer))))
        # In a byte-level BPE each character of a token's name is one byte of text.
        lengths = torch.tensor([0 if token in specials else len(name) for token, name in enumerate(names)])
        return float(lengths[self.held_out[:, 1:]].double().mean())


def observation_steps(steps: int) -> list[int]:
    """Steps at which to look: often up to 60, where condensation is worst, then ever more rarely, and at the end."""
    dense = [0, 1, 2, 3, 5, 7, 10, 15, 20, 25, 30, 40, 50, 60, 80, 100, 130, 160, 200, 250, 300]
    step = 400
    while step < steps:
        dense.append(step)
        step = round(step * 1.25 / 50) * 50
    return [step for step in dense if step < steps] + [steps]


def log_spaced(steps: int, count: int) -> list[int]:
    """`count` (or fewer, where whole steps run out) different steps from 0 to `steps`, evenly spaced in log(1 + step)."""
    if count < 2:
        return [steps][:count]
    return sorted({round((1 + steps) ** (index / (count - 1))) - 1 for index in range(count)})


def run_arm(job: tuple[Path, TwinSettings, Arm], progress: Callable[[int], None]) -> dict[str, Any]:
    """Train one arm in its folder below `job[0]`, or read it where it is finished; returns the content of its `arm.json`."""
    out, settings, arm = job
    folder = prepare_folder(out / arm.folder)
    if (folder / "arm.json").exists():
        progress(settings.steps)
        return read_arm(folder)
    corpus = Corpus(settings)
    model = _build_model(settings, corpus, arm.seed)
    held_out = corpus.held_out.to(settings.device)
    checkpoints = set(log_spaced(settings.steps, settings.checkpoints))
    history = _History(folder / "history.json")

    def observe(step: int) -> None:
        if step in checkpoints:
            _save_model(model, corpus, folder / "checkpoints" / f"step-{step:06d}")
        if step in looks and step < settings.steps:
            seen = evaluate_windows(model, held_out, "mean_cosine", arm.name)
            history.add(step, seen)

    looks = set(observation_steps(settings.steps))

    def batch_at(step: int) -> Tensor:
        return packing.batch(corpus.training, settings.batch_size, step, arm.seed).tokens.to(settings.device)

    with contextlib.ExitStack() as stack:
        handle = None
        if arm.formulation is not None:
            handle = stack.enter_context(attach(model, DispersionLoss(arm.formulation), weight=arm.weight))
        seconds = train(
            model,
            batch_at,
            Schedule(settings.steps, settings.learning_rate),
            folder / "state.pt",
            observe,
            looks | checkpoints,
            extra_state=handle,
            progress=progress,
        )
    final = evaluate_windows(model, held_out, ["paper", "effective_rank"], arm.name)
    history.add(settings.steps, final)
    final.condensation.save(folder / "condensation.npz")
    _save_model(model, corpus, folder)
    content = _describe(arm, settings, final, corpus, history, seconds)
    # Written last: its presence says that the arm is finished.
    write_json(folder / "arm.json", content)
    for leftover in ("state.pt", "history.json"):
        (folder / leftover).unlink(missing_ok=True)
    return content


def read_arm(folder: Path) -> dict[str, Any]:
    """The numbers of a finished arm."""
    content: dict[str, Any] = read_json(folder / "arm.json", "remove it to train that arm again")
    return content


def read_condensation(folder: Path) -> Condensation:
    """The measurement of a finished arm."""
    return Condensation.load(folder / "condensation.npz")


class _History:
    """What was seen along the way, kept in a file so that a continued run has all of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seen: dict[int, dict[str, Any]] = {}
        if path.exists():
            self.seen = {entry["step"]: entry for entry in json.loads(path.read_text(encoding="utf-8"))}

    def add(self, step: int, held_out: HeldOut) -> None:
        self.seen[step] = {
            "step": step,
            "perplexity": held_out.perplexity,
            "mean_cosine": held_out.condensation.mean_cosine.tolist(),
        }
        write_json(self._path, self.entries())

    def entries(self) -> list[dict[str, Any]]:
        return [self.seen[step] for step in sorted(self.seen)]


def _build_model(settings: TwinSettings, corpus: Corpus, seed: int) -> Any:
    transformers = transformers_models()
    end = corpus.tokenizer.eos_token_id
    config = transformers.GPT2Config(
        vocab_size=len(corpus.tokenizer),
        n_positions=settings.context,
        n_embd=settings.width,
        n_layer=settings.layers,
        n_head=settings.heads,
        n_inner=settings.mlp_width,
        bos_token_id=end,
        eos_token_id=end,
        # Twins must differ in the loss alone, not in the dropout that they happened to draw.
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
    )
    torch.manual_seed(seed)
    model = transformers.GPT2LMHeadModel(config).to(settings.device)
    return named_loss(model)


def _save_model(model: Any, corpus: Corpus, folder: Path) -> None:
    prepare_folder(folder)
    weights = {
        name: tensor.detach().contiguous() for name, tensor in model.state_dict().items() if name != "lm_head.weight"
    }
    with replace_file(folder / "model.safetensors") as temporary:
        require("safetensors.torch", extra="hf").save_file(weights, temporary, metadata={"format": "pt"})
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    corpus.tokenizer.save_pretrained(folder)


def _describe(
    arm: Arm, settings: TwinSettings, final: HeldOut, corpus: Corpus, history: _History, seconds: float
) -> dict[str, Any]:
    condensation = final.condensation
    return {
        "name": arm.name,
        "seed": arm.seed,
        "formulation": arm.formulation,
        "weight": arm.weight,
        "steps": settings.steps,
        "tokens": settings.steps * settings.batch_size * settings.context,
        "seconds": seconds,
        "perplexity": final.perplexity,
        "bits_per_byte": final.bits_per_byte(corpus.bytes_per_token),
        "mean_cosine": condensation.mean_cosine.tolist(),
        "mean_cosine_off_diagonal": condensation.mean_cosine_off_diagonal.tolist(),
        "effective_rank": condensation.metrics["effective_rank"].tolist(),
        "spearman": plain(condensation.spearman),
        "kendall": plain(condensation.kendall),
        "history": history.entries(),
    }


def middle_layers(mean_cosine: list[float] | Tensor) -> float:
    """Mean of the middle third of the entries of `hidden_states`: layers 2 to 4 of a model of six blocks."""
    last = len(mean_cosine) - 1
    first, final = -(-last // 3), 2 * last // 3
    chosen = mean_cosine[first : max(final, first) + 1]
    return float(sum(chosen) / len(chosen))
