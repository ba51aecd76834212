"""`decondense quantize`: models and held-out text in; what rounding their weights costs, a table, `results.json` and a figure out.

Each model is loaded once and let go before the next. A run that was stopped goes on after its last finished model.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from decondense import models
from decondense.commands import folder as folders
from decondense.commands import quantize_report as report
from decondense.commands.measure_report import split
from decondense.errors import UserError, check_least, choose, require
from decondense.evaluate import curve, degradation, held_out_windows
from decondense.evaluate.matrices import choose_matrices
from decondense.evaluate.quantization import LEAST_BITS, MOST_BITS, Rounding
from decondense.evaluate.runs import Run, find_models
from decondense.files import RESULTS
from decondense.measure import count_positions
from decondense.progress import progress_bar
from decondense.report.canvas import FORMATS
from decondense.studies.command_line import command_of
from decondense.studies.provenance import provenance
from decondense.texts import sources

KIND = "quantization"
USUAL_TOKENS, USUAL_LENGTH = 50_000, 512
PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class QuantizeConfig:
    """Round the weights of causal language models to few bits, and see what that costs on held-out text.

    Weights are rounded to the nearest of 2^bits values, a scale an output channel or a group of it, and the model computes with what the codes stand
    for: the loss is that of a real kernel, without needing one. Folders of `decondense train` are evaluated on the documents that they held out,
    and are compared by arm, with intervals over seeds; a folder with several runs stands for all of them.
    """

    models: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="MODEL [MODEL ...]", help_behavior_hint="")
    ]
    """Name on the Hugging Face hub, local folder (of a model, a run or runs of decondense train), or NAME@REVISION."""

    texts: Annotated[str, tyro.conf.arg(metavar="SOURCE")] = ""
    """Held-out text: embedded (no download), wikitext, pubmed, imdb, squad (hub), or PATH. By default that of the run, else embedded."""

    field: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Field that holds the text. By default the first there is of text, long_answer, context, story, content."""

    tokens: int = 0
    """Tokens to evaluate on, from the beginning of the source; 0 = as many as the run did, else 50000."""

    max_length: int = 0
    """Tokens of a window; 0 = as in the run, else 512 or what the model can take."""

    bits: tuple[int, ...] = (8, 4, 3, 2)
    """Of a weight, 2 to 8."""

    schemes: Annotated[str, tyro.conf.arg(metavar="NAMES")] = ",".join(curve.SCHEMES)
    """With commas between them: channel, group (symmetric), each also -asymmetric; activations (int8 a token); torchao (int8 and int4 kernels)."""

    group_size: int = 64
    """Weights of a row that share a scale in the group schemes, such as 32, 64, 128; the last group of a row may be shorter."""

    embeddings: bool = False
    """Quantise the input embeddings too."""

    head: bool = False
    """Quantise the output embeddings (lm_head) too."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/quantize")
    """Folder for the results. The same command again goes on where it stopped."""

    formats: Annotated[str, tyro.conf.arg(metavar="NAMES")] = "png,svg"
    """Of the figure: any of png, svg, pdf."""

    seed: int = 0
    """Nothing is drawn: recorded only."""

    batch_size: int = 16
    """Windows in one forward pass."""

    device: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto"
    """auto, cpu, cuda, cuda:1, mps."""

    dtype: Annotated[str, tyro.conf.arg(metavar="NAME")] = "float32"
    """Precision to compute in: float32, bfloat16, float16. Sizes are those of the weights as stored."""

    trust_remote_code: bool = False
    """Run Python code that comes with a model. Read it first."""

    allow_pickle: bool = False
    """Load weights from pytorch_model.bin where a model has no safetensors."""


@dataclass(frozen=True)
class Plan:
    """What a run computes: the models by name, each with its training where it is a run, and the settings of every curve."""

    models: dict[str, Run | None]
    settings: list[curve.Setting]


def run(config: QuantizeConfig) -> None:
    """Do what `QuantizeConfig` says.

    Raises:
        UserError: an option is wrong, a model or text cannot be had or is too short, --out is not writable or holds other results.
    """
    plan = _plan(config)
    recorded = _recorded(config, plan)
    with folders.claimed(config.out, KIND, recorded):
        finished = folders.read_finished(config.out)
        done = {entry["model"] for entry in finished}
        waiting = [name for name in plan.models if name not in done]
        for name in waiting:
            models.check(name, trust_remote_code=config.trust_remote_code, allow_pickle=config.allow_pickle)
        for name in waiting:
            entry = _quantize(config, plan, name)
            finished = sorted([*finished, entry], key=lambda one: list(plan.models).index(one["model"]))
            folders.write_results(config.out, KIND, recorded, finished)
        _finish(config, recorded, finished)


def _plan(config: QuantizeConfig) -> Plan:
    """What is to be computed. Raises for options that no run can have."""
    if not config.models:
        raise UserError("no MODEL was given: name at least one, a local folder or a name on the hub such as gpt2")
    check_least(config, {"tokens": 0, "max_length": 0, "batch_size": 1, "seed": 0})
    if config.max_length == 1 or 0 < config.tokens < max(config.max_length, 2):
        raise UserError(
            f"--tokens {config.tokens} --max-length {config.max_length}: a window needs at least 2 tokens, and there must be one window"
        )
    for number in config.bits:
        if not LEAST_BITS <= number <= MOST_BITS:
            raise UserError(f"--bits {number}: weights are rounded to {LEAST_BITS} to {MOST_BITS} bits")
    try:
        Rounding(MOST_BITS, config.group_size)
    except UserError as error:
        raise UserError(f"--group-size {config.group_size}: {str(error).partition(': ')[2]}") from None
    schemes = split(config.schemes)
    for name in schemes:
        choose("--schemes", name, curve.SCHEMES)
    if config.group_size == 0 and any(name.startswith("group") for name in schemes):
        raise UserError("--group-size 0: groups need a size, such as 64; --schemes channel has a scale a row")
    for what, given in (("--bits", list(config.bits)), ("--schemes", schemes)):
        if not given or len(set(map(str, given))) < len(given):
            raise UserError(f"{what} {','.join(map(str, given))}: give at least one, and each once")
    choose("--dtype", config.dtype, PRECISIONS)
    for name in split(config.formats):
        choose("--formats", name, FORMATS)
    models.choose_device(config.device)
    require("matplotlib", extra="report")
    if config.texts:
        held_out_windows.check_source(config.texts, config.field)
    return Plan(_find_models(config), curve.settings(schemes, config.bits, config.group_size))


def _find_models(config: QuantizeConfig) -> dict[str, Run | None]:
    """The models by name, a folder of several runs being all of them, and the trainings of those that have one."""
    found: dict[str, Run | None] = {}
    of: dict[tuple[str | None, int], str] = {}
    for candidate in find_models(config.models):
        name, run = candidate.name, candidate.run
        models.find(name, allow_pickle=config.allow_pickle)
        found[name] = training = run if run is not None and run.is_training else None
        if training is not None:
            other = of.setdefault((training.arm, training.seed), name)
            if other != name:
                raise UserError(
                    f"MODEL {other} and {name} are both arm {training.arm}, seed {training.seed}: an arm has one run of each seed"
                )
    return found


def _recorded(config: QuantizeConfig, plan: Plan) -> dict[str, Any]:
    """What results.json says of the run: all that its numbers depend on."""
    options = ("texts", "field", "tokens", "max_length", "group_size", "embeddings", "head", "seed")
    return {
        "models": list(plan.models),
        **{name: getattr(config, name) for name in options},
        "bits": list(config.bits),
        "schemes": split(config.schemes),
        "batch_size": config.batch_size,
        "dtype": config.dtype,
        "device": str(models.choose_device(config.device)),
    }


def _quantize(config: QuantizeConfig, plan: Plan, name: str) -> dict[str, Any]:
    """The entry of one model in "models"."""
    training = plan.models[name]
    model, tokenizer = models.load(
        name,
        trust_remote_code=config.trust_remote_code,
        allow_pickle=config.allow_pickle,
        device=config.device,
    )
    try:
        if model.config.is_encoder_decoder or model.get_output_embeddings() is None:
            raise UserError(f"it is a {type(model).__name__}, and perplexity is that of a causal language model")
        text = _read_text(config, training, model, tokenizer)
        # Sizes are those of the checkpoint, so they are counted before the precision is changed.
        chosen = choose_matrices(model, config.embeddings, config.head)
        model = model.to(getattr(torch, config.dtype))
        with progress_bar(name, "setting", len(plan.settings) + 1, leave=False) as bar:
            spread = curve.find_spread(model, chosen, text, config.batch_size)
            bar.add()
            rows, unavailable = curve.compute_curve(model, chosen, text, plan.settings, config.batch_size, bar.add)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    finally:
        del model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    about = {} if training is None else {"arm": training.arm, "seed": training.seed}
    return {
        "model": name,
        **about,
        "texts": text.name,
        "texts_sha256": text.digest,
        "windows": list(text.windows.shape),
        "bytes_per_token": text.bytes_per_token,
        "parameters": chosen.parameters,
        "quantised_share": chosen.share,
        "quantised": sorted({matrix.kind for matrix in chosen.matrices}),
        "shorter_groups": sum(1 for one in chosen.matrices if one.rows.shape[1] % (config.group_size or 1)),
        "notes": [*chosen.notes, *_doubts(training, rows[0], config)],
        "curve": rows,
        "unavailable": unavailable,
        "spread": spread,
    }


def _read_text(
    config: QuantizeConfig, training: Run | None, model: Any, tokenizer: Any
) -> held_out_windows.HeldOutWindows:
    if training is not None and not config.texts:
        return held_out_windows.windows_of_run(training.config, tokenizer, config.tokens, config.max_length)
    positions = count_positions(model)
    length = config.max_length or min(USUAL_LENGTH, positions or USUAL_LENGTH)
    if positions is not None and length > positions:
        raise UserError(f"--max-length {length}: the model has {positions} positions: give at most that")
    tokens = config.tokens or USUAL_TOKENS
    return held_out_windows.windows_of_source(config.texts or sources.EMBEDDED, config.field, tokenizer, tokens, length)


def _doubts(training: Run | None, stored: dict[str, Any], config: QuantizeConfig) -> list[str]:
    """A note where a run's own evaluation, on what should be the same text, gave another number."""
    if training is None or config.texts or config.tokens or config.max_length or config.dtype != "float32":
        return []
    expected, found = training.results["perplexity"], stored["perplexity"]
    if found is not None and abs(found / expected - 1) < 1e-3:
        return []
    return [f"perplexity was {expected:.2f} when it was trained: its text, or its weights, are not what they were"]


def _finish(config: QuantizeConfig, recorded: dict[str, Any], entries: Sequence[dict[str, Any]]) -> None:
    """Compare arms, draw and print."""
    arms = degradation.compare_arms(entries)
    more = {"arms": arms, "arms_spread": degradation.compare_spreads(entries)} if arms else {}
    told = {"command": command_of(config, "quantize"), "provenance": provenance()}
    folders.write_results(config.out, KIND, recorded, entries, **more, **told)
    written = report.draw(entries, arms, config.out / "costs", tuple(split(config.formats)))
    for line in report.lines(entries, arms, more.get("arms_spread", [])):
        print(line)
    print(f"wrote into {config.out}: {', '.join([RESULTS, *(path.name for path in written)])}")
