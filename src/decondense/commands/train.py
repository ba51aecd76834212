"""`decondense train`: a configuration, text, and a loss or a baseline in; trained models, their results and a table out.

Runs of several arms and seeds are made one after the other, each in its folder. Finished ones are read, a stopped one goes on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from decondense import __version__
from decondense.commands import folder as folders
from decondense.commands import processes
from decondense.evaluate.runs import TRAININGS
from decondense.files import RESULTS, claim_folder, read_json, write_json
from decondense.progress import progress_bar
from decondense.ranks import agreed
from decondense.report.tables import Column, Table
from decondense.studies.provenance import provenance
from decondense.train import build, data
from decondense.train.arms import Arm
from decondense.train.config import RunConfig, TrainConfig
from decondense.train.documents import open_documents
from decondense.train.run import KIND, Aim, plain_aim, run_arm

__all__ = ["TrainConfig", "run"]


def run(config: TrainConfig) -> None:
    """Do what `TrainConfig` says.

    Raises:
        UserError: an option is wrong, a model or text cannot be had, --out is not writable or holds another run, training diverged, the disk is
            full. What was saved before is kept.
    """
    with processes.joined() as first:
        config.check()
        tokenizer = positions = None
        if config.init:
            model, tokenizer = build.from_weights(config.init, context=2)
            positions = build.positions(model.config)
            del model
        if config.tokenizer:
            tokenizer = build.load_tokenizer(config.tokenizer)
        config = config.filled(positions)
        train_arms(config, open_text(config, tokenizer, config.vocabulary, first), first)


def train_arms(
    config: RunConfig,
    text: data.Text,
    first: bool,
    aim: Aim = plain_aim,
    about: Callable[[], Mapping[str, Any]] = dict,
) -> None:
    """Train each arm with each seed in its folder, but for those that are finished, and print what came out of all.

    Args:
        config: with all defaults filled in.
        text: what to train and evaluate on.
        first: whether this is the first process, which alone writes and prints.
        aim: what is minimised.
        about: gives what goes into the results as it is; asked where something is left to train.
    """
    jobs = [(arm, seed) for seed in range(config.seed, config.seed + config.seeds) for arm in config.all_arms()]
    places = [config.out / f"{arm.name}-seed{seed}" if config.several else config.out for arm, seed in jobs]
    origin = provenance()
    told = {"version": __version__, "commit": origin["commit"], "provenance": origin, "texts_digest": text.digest}
    own = {"texts_digest": text.digest, **config.recorded(None if config.several else jobs[0][0], config.seed)}
    with contextlib.ExitStack() as stack:
        with agreed():
            if first:
                stack.enter_context(folders.claimed(config.out, KIND, own))
        if not all((folder / RESULTS).is_file() for folder in places):
            told |= about()
        for (arm, seed), folder in zip(jobs, places, strict=True):
            with agreed():
                if first and config.several:
                    recorded = {"texts_digest": text.digest, **config.recorded(arm, seed)}
                    claim_folder(folder, {"kind": KIND, "version": __version__, **recorded})
            if not (folder / RESULTS).is_file():
                _tell(arm, config, first)
                with progress_bar(f"{arm.name}-seed{seed}", "step", config.steps, shown=first) as bar:
                    say = bar.say if first else lambda line: None
                    run_arm(folder, config, arm, seed, text, told, say, bar.reach, aim)
            processes.together()
        if first:
            _finish(config, [_numbers(folder) for folder in places])


def open_text(config: RunConfig, tokenizer: Any, vocabulary: int, first: bool) -> data.Text:
    """The text of a run, tokenised by the first process; without a tokenizer one of `vocabulary` tokens is trained on it."""
    documents = open_documents(config.texts, config.field, config.join, config.streaming, config.held_out)
    cache = config.cache or data.default_cache()
    enough = (config.tokens, config.evaluation_windows * config.context)
    with agreed():
        if first:
            data.prepare(documents, tokenizer, vocabulary, cache, *enough)
    entry = data.prepare(documents, tokenizer, vocabulary, cache, *enough)
    return data.open_text(entry, tokenizer, config.context, config.evaluation_windows)


def _tell(arm: Arm, config: RunConfig, first: bool) -> None:
    """Say before the training what its reader might not expect."""
    if first and arm.forget_every >= config.steps:
        print(
            f"note: {arm.name}: {config.steps} steps end before the first {arm.forget_every} are over: nothing is forgotten"
        )


def _numbers(folder: Path) -> dict[str, Any]:
    return {**read_json(folder / RESULTS, "remove it to train that run again"), "folder": str(folder)}


def _finish(config: RunConfig, found: list[dict[str, Any]]) -> None:
    """Print the numbers of the runs, and of the teacher where they had one, and write those of several into one file."""
    columns: list[Column | str] = [
        "arm",
        Column("seed", "d"),
        Column("perplexity", ".2f"),
        Column("bits a byte", ".3f"),
        Column("mean cosine, last layer", ".3f"),
        Column("all layers", ".3f"),
        Column("seconds", ".0f"),
    ]
    rows = []
    teacher = [{"arm": "teacher", **found[0]["teacher"]}] if "teacher" in found[0] else []
    for one in [*teacher, *found]:
        layers = one["mean_cosine"][1:]
        numbers = [one["perplexity"], one["bits_per_byte"], layers[-1], sum(layers) / len(layers)]
        rows.append([one["arm"], one.get("seed"), *numbers, one.get("seconds")])
    print(f"on held-out text, after {config.steps} steps of {config.batch_size * config.context} tokens:")
    print(Table(columns, rows).plain())
    if config.several:
        content = {"kind": TRAININGS, "version": __version__, "config": config.recorded(), "runs": found}
        write_json(config.out / RESULTS, content)
        print(f"wrote {config.out / RESULTS} and a folder for each run beside it")
    else:
        print(f"wrote the model, {RESULTS} and condensation.npz into {config.out}")
