"""One arm and one seed in, a trained model and its numbers in a folder out; goes on where it was stopped. Knows no command line and no other run.

A finished run is a folder that `AutoModelForCausalLM` loads, with `results.json` (its numbers, written last) and `condensation.npz`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decondense.attach import Attachment, attach
from decondense.errors import UserError
from decondense.evaluate.runs import TRAINING
from decondense.evaluate.window_loss import HeldOut, evaluate_windows
from decondense.files import RESULTS, plain, write_json
from decondense.losses.module import DispersionLoss
from decondense.ranks import agreed, rank
from decondense.train import build, sharding, trackers
from decondense.train.arms import CONSTANT, Arm, parse_condensed, parse_layers, parse_pairs, parse_schedule
from decondense.train.baselines import ActiveForgetting, NoisyEmbedding
from decondense.train.checkpoint import Checkpoint, Sharded, SingleFile
from decondense.train.config import RunConfig
from decondense.train.data import Text
from decondense.train.history import History
from decondense.train.loop import Schedule, Together, train
from decondense.train.saving import save_model, saving
from decondense.train.steering import Steering
from decondense.train.update import Objective, Update, model_loss, over_ranks

STATE = "state.pt"
SHARDED_STATE = "state"
KIND = TRAINING
FINAL_METRICS = ["paper", "effective_rank"]
PICTURE = "mean_cosine.png"
# So many times is a training observed where what steers it needs that, and nobody says how often.
OBSERVATIONS = 100

Aim = Callable[[Any, Arm, int], AbstractContextManager[Objective]]
"""(model, arm, seed) -> what is minimised, but for the loss on hidden states; what this puts on the model is taken off at the end."""


def cross_entropy(model: Any, part: dict[str, Tensor], total: Tensor | None) -> dict[str, Tensor]:
    """The model's own loss, by its name."""
    return {"cross entropy": model_loss(model, part, total)["the loss"]}


def plain_aim(model: Any, arm: Arm, seed: int) -> AbstractContextManager[Objective]:
    """The aim of `decondense train`: cross entropy."""
    return nullcontext(cross_entropy)


def run_arm(
    folder: Path,
    config: RunConfig,
    arm: Arm,
    seed: int,
    text: Text,
    about: Mapping[str, Any],
    say: Callable[[str], None],
    progress: Callable[[int], None] = lambda step: None,
    aim: Aim = plain_aim,
) -> dict[str, Any]:
    """Train one arm in its folder; returns the content of its `results.json`.

    Args:
        folder: exists, and holds nothing, or the state of this run.
        config: with all defaults filled in (`RunConfig.filled`).
        arm, seed: which run it is.
        text: what to train and evaluate on.
        about: goes into the results as it is.
        say: is called with a line at each evaluation.
        progress: is called with the number of updates made so far.
        aim: what is minimised.

    Raises:
        UserError: the model cannot be made or takes no such loss, training diverged, the disk is full.
    """
    first = rank() == 0
    if first:
        for leftover in folder.glob(".*.part*"):
            leftover.unlink()  # of a process that was killed while it wrote
    model = _place(_make_model(config, seed, text.tokenizer), config)
    held_out = text.held_out.to(config.device)
    schedule = Schedule(config.steps, config.learning_rate, config.warmup, config.weight_decay, clip=config.clip)
    history = History(config.batch_size * config.context)
    looks = range(0, config.steps, config.evaluate_every) if config.evaluate_every else ()
    with ExitStack() as stack:
        handle, forgetting = _add(model, config, arm, seed, stack)
        steering = _steer(model, handle, config, arm, stack)
        objective = _objective(handle, arm, stack.enter_context(aim(model, arm, seed)), steering)
        sharding.check_spread(model)
        found = {"history": history, "handle": handle, "steering": steering}
        parts = {name: part for name, part in found.items() if part is not None}
        if forgetting is not None and forgetting.tied:
            say(f"{_name(arm, seed)}: input and output embeddings are one matrix: what is forgotten is the head too")
        log = trackers.following(
            config.report_to if first else (), folder, _name(arm, seed), config.recorded(arm, seed)
        )
        follow = stack.enter_context(log)

        def tell(step: int, seen: HeldOut) -> None:
            say(f"{_name(arm, seed)}: {history.add(step, seen)}")
            picture = _picture(steering if first else None, folder)
            follow(step, {"held_out/perplexity": seen.perplexity, **_layers(seen), **picture})

        def observe(step: int) -> None:
            # Where weights are spread over processes, none runs the model alone.
            if first or config.fsdp:
                tell(step, _evaluate(model, held_out, config, "mean_cosine", arm))

        def batch_at(step: int) -> dict[str, Tensor]:
            if steering is not None:
                steering.before_step(step)
            return text.training.batch(config.batch_size, step, seed, config.device)

        def report(step: int, numbers: Mapping[str, float]) -> None:
            if handle is not None and arm.schedule != CONSTANT:
                numbers = {**numbers, "weight": handle.weight}
            history.count(numbers)
            seen = {} if steering is None else steering.monitor.seen_at(step)
            follow(step, {f"train/{name}": value for name, value in {**numbers, **seen}.items()})

        seconds = train(
            model,
            batch_at,
            schedule,
            folder / (SHARDED_STATE if config.fsdp else STATE),
            observe,
            looks,
            extra_state=Together(**parts),
            save_every=config.save_every,
            progress=progress,
            update=Update(objective, config.micro_batch, config.precision == "bfloat16", seed, over_ranks(model)),
            intervention=forgetting,
            report=report,
            sharded=config.fsdp,
        )
        if first or config.fsdp:
            final = _evaluate(model, held_out, config, FINAL_METRICS, arm)
            tell(config.steps, final)
    if sharding.is_sharded(model):
        state = sharding.gather_state(model)
        if first:
            model = _make_model(config, seed, text.tokenizer)
            model.load_state_dict(state)
    content: dict[str, Any] = {}
    with agreed():
        if first:
            content = {
                "kind": KIND,
                **about,
                "config": config.recorded(arm, seed),
                "arm": arm.name,
                "seed": seed,
                "steps": config.steps,
                "tokens": config.tokens,
                "seconds": seconds,
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                **final_numbers(final, text),
                "history": history.entries,
                **_observed(steering),
            }
            _write(folder, model, config, text, final, content)
    return content


def _write(folder: Path, model: Any, config: RunConfig, text: Text, final: HeldOut, content: Mapping[str, Any]) -> None:
    """Write what a finished run leaves, and remove its state."""
    if config.lora:
        model = model.merge_and_unload()
    model.config.use_cache = True
    save_model(model, text.tokenizer, folder)
    with saving(folder):
        final.condensation.save(folder / "condensation.npz")
        # Written last: its presence says that the run is finished.
        write_json(folder / RESULTS, content)
    checkpoint: Checkpoint = Sharded(folder / SHARDED_STATE) if config.fsdp else SingleFile(folder / STATE)
    checkpoint.remove()


def _make_model(config: RunConfig, seed: int, tokenizer: Any) -> Any:
    if config.weights:
        model, _ = build.from_weights(config.weights, config.context, config.weights_option)
    else:
        name, overrides = config.architecture
        model_config = build.configure(name, overrides, config.context, tokenizer, config.architecture_option)
        model = build.from_scratch(name, model_config, seed, config.architecture_option)
    rows = len(model.get_input_embeddings().weight)
    if len(tokenizer) > rows:
        raise UserError(f"the tokenizer has {len(tokenizer)} tokens, the model embeds {rows}: give its own --tokenizer")
    model.config.use_cache = False
    if config.gradient_checkpointing:
        build.checkpoint_activations(model)
    if config.lora:
        torch.manual_seed(seed)
        model = build.adapt(model)
    return model


def _place(model: Any, config: RunConfig) -> Any:
    try:
        return sharding.shard(model, config.device) if config.fsdp else model.to(config.device)
    except torch.OutOfMemoryError as error:
        raise UserError(f"the model does not fit into the memory of {config.device}") from error


def _add(
    model: Any, config: RunConfig, arm: Arm, seed: int, stack: ExitStack
) -> tuple[Attachment | None, ActiveForgetting | None]:
    """Add to the model what makes the arm, until `stack` is left."""
    handle = forgetting = None
    if arm.formulation is not None:
        loss = DispersionLoss(arm.formulation, pairs=parse_pairs(config.pairs, seed))
        # Not added to the model's loss, so that the two terms can be told apart.
        handle = stack.enter_context(attach(model, loss, arm.weight, parse_layers(config.layers), add_to_loss=False))
    if arm.noise:
        stack.enter_context(NoisyEmbedding(model, arm.noise))
    if arm.forget_every:
        forgetting = ActiveForgetting(model, arm.forget_every, config.steps, config.embedding_learning_rate, seed)
    return handle, forgetting


def _steer(model: Any, handle: Attachment | None, config: RunConfig, arm: Arm, stack: ExitStack) -> Steering | None:
    """What observes the training and steers the loss, until `stack` is left; None where nothing is to be observed or steered."""
    weights = above = None
    if handle is not None:
        weights, above = parse_schedule(arm.schedule, arm.weight, config.steps), parse_condensed(config.layers)
    if not config.monitor_every and weights is None and above is None:
        return None
    every = config.monitor_every or max(config.steps // OBSERVATIONS, 1)
    return stack.enter_context(Steering(model, handle, every, weights, above))


def _objective(
    handle: Attachment | None, arm: Arm, base: Objective = cross_entropy, steering: Steering | None = None
) -> Objective:
    def objective(model: Any, part: dict[str, Tensor], total: Tensor | None) -> dict[str, Tensor]:
        documents = part.pop("documents")
        if steering is not None:
            steering.monitor.documents = documents
        if handle is None:
            return base(model, part, total)
        handle.documents = documents
        terms = base(model, part, total)
        if steering is not None:
            steering.see_terms(torch.stack(list(terms.values())).sum(), handle.loss())
        return {**terms, f"weighted {arm.formulation}": handle.weight * handle.loss()}

    return objective


def _evaluate(model: Any, held_out: Tensor, config: RunConfig, metrics: str | Collection[str], arm: Arm) -> HeldOut:
    batch_size = config.micro_batch or config.batch_size
    seen = evaluate_windows(
        model, held_out, metrics if isinstance(metrics, str) else list(metrics), arm.name, batch_size
    )
    sharding.reshard(model)
    return seen


def final_numbers(final: HeldOut, text: Text) -> dict[str, Any]:
    """What the final evaluation, of `FINAL_METRICS`, adds to the results."""
    condensation = final.condensation
    return {
        "perplexity": final.perplexity,
        "bits_per_byte": final.bits_per_byte(text.bytes_per_token),
        "mean_cosine": condensation.mean_cosine.tolist(),
        "mean_cosine_off_diagonal": condensation.mean_cosine_off_diagonal.tolist(),
        "effective_rank": condensation.metrics["effective_rank"].tolist(),
        "spearman": plain(condensation.spearman),
        "kendall": plain(condensation.kendall),
    }


def _picture(steering: Steering | None, folder: Path) -> dict[str, Path]:
    """The heatmap of what was observed so far, written into the folder of the run, by the name that trackers show it by."""
    if steering is None or not steering.monitor.history or importlib.util.find_spec("matplotlib") is None:
        return {}
    with saving(folder):
        steering.monitor.figure(folder / PICTURE)
    return {"train/mean_cosine": folder / PICTURE}


def _observed(steering: Steering | None) -> dict[str, Any]:
    """What the monitor adds to the results."""
    if steering is None:
        return {}
    history = steering.monitor.history
    seen = {"steps": [one.step for one in history], "mean_cosine": [plain(list(one.mean_cosine)) for one in history]}
    return {"monitor": seen}


def _layers(seen: HeldOut) -> dict[str, float]:
    return {
        f"mean_cosine/layer_{layer:02d}": value for layer, value in enumerate(seen.condensation.mean_cosine.tolist())
    }


def _name(arm: Arm, seed: int) -> str:
    return f"{arm.name}-seed{seed}"
