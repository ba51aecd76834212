"""`decondense measure`: models and sources of text in; a table, `results.json`, arrays and figures out.

Each model is loaded once, measured on every source of texts, and let go before the next. A run that was stopped goes on where it was: after its
last finished model and source, and inside one after its last batch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from decondense import models
from decondense.commands import folder as folders
from decondense.commands import measure_report as report
from decondense.commands import processes
from decondense.condensation import Condensation
from decondense.errors import UserError, check_least, choose, require
from decondense.files import RESULTS, plain
from decondense.geometry.metrics import choose_metrics
from decondense.layers import find_stacks
from decondense.measure import measure
from decondense.ranks import rank
from decondense.report.canvas import FORMATS
from decondense.revisions import Checkpoint, find_revisions
from decondense.studies.command_line import command_of
from decondense.studies.provenance import provenance
from decondense.texts import sampling, sources

KIND = "condensation"


@dataclass(frozen=True)
class MeasureConfig:
    """Measure how condensed the token embeddings of models are, layer by layer.

    Prints a table and writes results.json, the arrays of each model (npz), tables (csv) and figures into the folder --out.
    A file of texts is txt (a text a line), jsonl, json (a list of objects, or SQuAD's layout), csv, tsv or parquet;
    all but parquet may be gzipped. Started by torchrun or accelerate launch, its processes share the texts.
    """

    models: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="MODEL [MODEL ...]", help_behavior_hint="")
    ]
    """Name on the Hugging Face hub, local folder, or NAME@REVISION."""

    texts: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SOURCE [SOURCE ...]")] = (sources.EMBEDDED,)
    """What to measure on: embedded (no download), wikitext, pubmed, imdb, squad (hub), or PATH of a file or folder. Several are compared."""

    field: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Field that holds the text. By default the first there is of text, long_answer, context, story, content."""

    samples: int = 100
    """Number of texts, each of 1024 to 1280 words from a random start."""

    tokens: int = 0
    """Measure the source from its beginning, all of it in windows of --max-length tokens, until so many tokens; 0 = draw --samples."""

    max_length: int = 512
    """Tokens of each text that are measured."""

    metrics: Annotated[str, tyro.conf.arg(metavar="NAMES")] = "paper"
    """paper, all (the diagnosis too), or names of metrics with commas between them."""

    family: bool = False
    """Draw the models as a family: heatmaps by size, and rho and tau against the number of parameters (the paper's figure 2)."""

    paired: bool = False
    """Draw the models in pairs, first and second, third and fourth: a model and the one made from it (figure 5)."""

    revisions: Annotated[str, tyro.conf.arg(metavar="PATTERNS")] = ""
    """Measure checkpoints of the one MODEL: its revisions on the hub, or folders in its folder, that match, as 'step*' (figure 4)."""

    layers: Annotated[str, tyro.conf.arg(metavar="NAMES")] = ""
    """Modules whose outputs are the layers, with commas between them, as 'h.*'; by default the model's blocks."""

    logits: bool = False
    """Measure the output of the language-model head as one more layer."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/measure")
    """Folder for the results. The same command again goes on where it stopped."""

    formats: Annotated[str, tyro.conf.arg(metavar="NAMES")] = "png,svg"
    """Of the figures: any of png, svg, pdf."""

    seed: int = 0
    """Seed of the choice of texts, of the sample of tokens, and of the intervals."""

    batch_size: int = 8
    """Texts in one forward pass; halved where memory runs out."""

    device: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto"
    """auto, cpu, cuda, cuda:1, mps; spread = over all devices, with what does not fit in memory."""

    dtype: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto"
    """Precision of the weights: auto (as stored), float32, bfloat16, float16."""

    bits: int = 0
    """Load weights rounded to 8 or 4 bits (bitsandbytes, CUDA); 0 = as they are."""

    trust_remote_code: bool = False
    """Run Python code that comes with a model. Read it first."""

    allow_pickle: bool = False
    """Load weights from pytorch_model.bin where a model has no safetensors."""


@dataclass(frozen=True)
class Plan:
    """What a run measures: the models by name, in series where they are checkpoints, the metrics, and the texts by source."""

    models: tuple[str, ...]
    checkpoints: list[Checkpoint]
    unit: str
    metrics: tuple[str, ...]
    texts: dict[str, list[str]]


def run(config: MeasureConfig) -> None:
    """Do what `MeasureConfig` says.

    Raises:
        UserError: an option is wrong, a model or source cannot be had, --out is not writable or holds other results.
            All but faults inside a model's weights are found before anything is measured or written.
    """
    with processes.joined() as first:
        plan = _plan(config)
        recorded = _recorded(config, plan)
        stems: dict[str, str] = {}
        for names in (plan.models, plan.texts):
            stems |= dict(zip(names, report.stems(list(report.titles(names).values())), strict=True))
        claim = folders.claimed(config.out, KIND, recorded) if first else contextlib.nullcontext()
        with claim:
            processes.together()
            finished = [entry for entry in folders.read_finished(config.out) if (config.out / entry["file"]).is_file()]
            done = {(entry["model"], entry["texts"]) for entry in finished}
            jobs = {name: [source for source in plan.texts if (name, source) not in done] for name in plan.models}
            waiting = [name for name, left in jobs.items() if left]
            for name in waiting:
                models.check(name, trust_remote_code=config.trust_remote_code, allow_pickle=config.allow_pickle)
            for name in waiting:
                for entry in _measure(config, plan, name, jobs[name], stems, first):
                    finished.append(entry)
                    if first:
                        folders.write_results(config.out, KIND, recorded, _in_order(finished, plan))
                processes.together()
            if first:
                _finish(config, plan, recorded, _in_order(finished, plan))
            processes.together()


def _plan(config: MeasureConfig) -> Plan:
    """What is to be measured. Raises for options that no run can have."""
    if not config.models:
        raise UserError("no MODEL was given: name at least one, a local folder or a name on the hub such as gpt2")
    check_least(config, {"samples": 1, "max_length": 2, "batch_size": 1, "seed": 0, "tokens": 0})
    if 0 < config.tokens < 2:
        raise UserError(f"--tokens {config.tokens}: must be at least 2, or 0 to draw --samples")
    choose("--dtype", config.dtype, models.DTYPES)
    for name in report.split(config.formats):
        choose("--formats", name, FORMATS)
    if config.device != models.SPREAD:
        models.choose_device(config.device)
    names, unit = config.models, ""
    checkpoints: list[Checkpoint] = []
    if config.revisions:
        if len(config.models) > 1 or config.family or config.paired:
            raise UserError("--revisions is of one MODEL alone: give one, and neither --family nor --paired")
        checkpoints, unit = find_revisions(config.models[0], config.revisions)
        names = tuple(one.name for one in checkpoints)
    for what in (names, config.texts):
        twice = [name for name in what if what.count(name) > 1]
        if twice:
            raise UserError(f"{'MODEL' if what is names else '--texts'} {twice[0]} was given twice: once is enough")
    if config.paired and len(names) % 2:
        raise UserError(f"--paired takes models in pairs: {len(names)} were given")
    for name in names:
        models.find(name, allow_pickle=config.allow_pickle)
    require("matplotlib", extra="report")
    metrics = choose_metrics(report.split(config.metrics))
    texts = {}
    for source in config.texts:
        records = sources.load(source, config.field)
        # A token is at most a word, whatever the tokenizer.
        texts[source] = (
            sampling.stream(records, config.tokens)
            if config.tokens
            else sampling.draw(records, config.samples, config.seed)
        )
    return Plan(names, checkpoints, unit, metrics, texts)


def _recorded(config: MeasureConfig, plan: Plan) -> dict[str, Any]:
    """What results.json says of the run: all that its numbers depend on, the very texts too."""
    # Sixteen digits tell texts apart, and an error that names them stays one line to read.
    digests = [hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16] for texts in plan.texts.values()]
    device = config.device if config.device == models.SPREAD else str(models.choose_device(config.device))
    options = ("field", "samples", "tokens", "max_length", "layers", "logits", "seed", "dtype", "bits", "batch_size")
    return {
        "models": list(plan.models),
        "texts": list(config.texts),
        **{name: getattr(config, name) for name in options},
        "metrics": list(plan.metrics),
        "texts_sha256": digests,
        "device": device,
    }


def _measure(
    config: MeasureConfig, plan: Plan, name: str, wanted: Sequence[str], stems: Mapping[str, str], first: bool
) -> Iterator[dict[str, Any]]:
    """Measure one model on the sources that are wanted; gives an entry of "models" for each result, whose arrays are saved then."""
    if sys.stderr.isatty() and first:
        print(f"{name} ({plan.models.index(name) + 1} of {len(plan.models)})", file=sys.stderr)
    model, tokenizer = models.load(
        name,
        trust_remote_code=config.trust_remote_code,
        allow_pickle=config.allow_pickle,
        dtype=config.dtype,
        device=config.device,
        bits=config.bits,
    )
    layers = report.split(config.layers) or None
    stacks: tuple[str | None, ...] = (None,) if layers else find_stacks(model) or (None,)
    try:
        for source in wanted:
            results = []
            for stack in stacks:
                parts = [stems[name], stems[source] if len(plan.texts) > 1 else None, stack]
                file = "-".join(part for part in parts if part)
                try:
                    result = measure(
                        model,
                        tokenizer,
                        plan.texts[source],
                        config.max_length,
                        config.batch_size,
                        plan.metrics,
                        seed=config.seed,
                        progress=first,
                        layers=layers,
                        stack=stack,
                        # Only the decoder's output goes through the head.
                        logits=config.logits and stack != "encoder",
                        windows=bool(config.tokens),
                        max_tokens=config.tokens or None,
                        checkpoint=config.out / f".{file}.rank{rank()}.part",
                    )
                except UserError as error:
                    raise UserError(f"{name} on {source}: {error}") from error
                # As it was asked for, with the revision, not as transformers calls it.
                results.append((stack, file, dataclasses.replace(result, model=name)))
            for _, file, result in results:
                if first:
                    result.save(config.out / f"{file}.npz")
            for stack, file, result in results:
                yield _entry(result, source, stack, f"{file}.npz")
    finally:
        del model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _entry(result: Condensation, source: str, stack: str | None, file: str) -> dict[str, Any]:
    """One entry of "models" in results.json: the fixed fields, what it is of, other metrics where there are, the diagnosis."""
    entry = {**result.summary(), "texts": source, "parameters": result.parameters, "file": file}
    if stack is not None:
        entry["stack"] = stack
    if result.broken:
        entry["not_finite"] = result.broken
    others = {name: plain(values) for name, values in result.metrics.items() if name not in entry}
    if others:
        entry["metrics"] = others
    if result.totals:
        entry["diagnosis"] = result.diagnose().summary()
    return entry


def _in_order(entries: Sequence[dict[str, Any]], plan: Plan) -> list[dict[str, Any]]:
    """Entries in the order of the command line."""
    sources_of = list(plan.texts)
    return sorted(entries, key=lambda entry: (plan.models.index(entry["model"]), sources_of.index(entry["texts"])))


def _finish(config: MeasureConfig, plan: Plan, recorded: dict[str, Any], entries: list[dict[str, Any]]) -> None:
    """Compare, draw and print what was measured."""
    measured = [
        report.Measured(entry["texts"], entry.get("stack"), Condensation.load(config.out / entry["file"]))
        for entry in entries
    ]
    comparisons = report.compare(measured)
    about = {"command": command_of(config, "measure", ["out"]), "provenance": provenance()}
    compared = [report.compared(*one) for one in comparisons]
    folders.write_results(config.out, KIND, recorded, entries, comparisons=compared, **about)
    series = report.Series(plan.checkpoints, plan.unit)
    kinds = report.Kinds(config.family, config.paired, series)
    written = report.write(measured, kinds, config.out, tuple(report.split(config.formats)))
    for line in report.lines(measured, comparisons):
        print(line)
    print(f"wrote into {config.out}: {', '.join([RESULTS, *(entry['file'] for entry in entries), *written])}")
