"""`decondense measure`: models and a source of texts in; a table, `results.json`, arrays and the heatmap out.

Each model is loaded, measured and let go before the next. A run that was stopped goes on after its last whole model.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import itertools
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from decondense import models
from decondense.commands import folder as folders
from decondense.condensation import Condensation
from decondense.errors import UserError, choose, require
from decondense.files import plain
from decondense.geometry.metrics import choose_metrics
from decondense.measure import measure
from decondense.texts import sampling, sources

KIND = "condensation"
HEATMAP = "heatmap"


@dataclass(frozen=True)
class MeasureConfig:
    """Measure how condensed the token embeddings of models are, layer by layer.

    Prints a table and writes results.json, the arrays of each model (npz) and a heatmap into the folder --out.
    A file of texts is txt (a text a line), jsonl, json (a list of objects, or SQuAD's layout), csv, tsv or parquet;
    all but parquet may be gzipped.
    """

    models: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="MODEL [MODEL ...]", help_behavior_hint="")
    ]
    """Name on the Hugging Face hub, local folder, or NAME@REVISION."""

    texts: Annotated[str, tyro.conf.arg(metavar="SOURCE")] = sources.EMBEDDED
    """What to measure on: embedded (no download), wikitext, pubmed, imdb, squad (hub), or PATH of a file or folder."""

    field: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Field that holds the text. By default the first there is of text, long_answer, context, story, content."""

    samples: int = 100
    """Number of texts, each of 1024 to 1280 words from a random start."""

    max_length: int = 512
    """Tokens of each text that are measured."""

    metrics: Annotated[str, tyro.conf.arg(metavar="NAMES")] = "paper"
    """paper, all, or names of metrics with commas between them."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/measure")
    """Folder for the results. The same command again goes on where it stopped."""

    seed: int = 0
    """Seed of the choice of texts and of the intervals."""

    batch_size: int = 8
    """Texts in one forward pass."""

    device: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto"
    """auto, cpu, cuda, cuda:1, mps."""

    dtype: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto"
    """Precision of the weights: auto (as stored), float32, bfloat16, float16."""

    trust_remote_code: bool = False
    """Run Python code that comes with a model. Read it first."""

    allow_pickle: bool = False
    """Load weights from pytorch_model.bin where a model has no safetensors."""


def run(config: MeasureConfig) -> None:
    """Do what `MeasureConfig` says.

    Raises:
        UserError: an option is wrong, a model or source cannot be had, --out is not writable or holds other results.
            All but faults inside a model's weights are found before anything is measured or written.
    """
    metrics = _check(config)
    figures = require("decondense.report.figures", extra="report")
    require("matplotlib", extra="report")
    texts = sampling.draw(sources.load(config.texts, config.field), config.samples, config.seed)
    recorded = _recorded(config, metrics, texts)
    titles = _titles(config.models)
    files = dict(zip(config.models, _file_names(titles), strict=True))
    with folders.claimed(config.out, KIND, recorded):
        finished = folders.read_finished(config.out)
        waiting = [name for name in config.models if name not in finished or not (config.out / files[name]).is_file()]
        for name in waiting:
            models.check(name, trust_remote_code=config.trust_remote_code, allow_pickle=config.allow_pickle)
        for name in waiting:
            if sys.stderr.isatty():
                print(f"{name} ({config.models.index(name) + 1} of {len(config.models)})", file=sys.stderr)
            result = _measure(config, name, metrics, texts)
            result.save(config.out / files[name])
            finished[name] = _entry(result, files[name])
            folders.write_finished(config.out, KIND, recorded, finished)
        results = [Condensation.load(config.out / files[name]) for name in config.models]
        written = [folders.RESULTS, *files.values()]
        if all(result.pair_counts is not None for result in results):
            written += [path.name for path in figures.heatmaps(results, titles, config.out / HEATMAP)]
    for line in table([{**finished[name], "model": title} for name, title in zip(config.models, titles, strict=True)]):
        print(line)
    print(f"wrote into {config.out}: {', '.join(written)}")


def table(entries: Sequence[dict[str, Any]]) -> list[str]:
    """Lines of a table, a row for each entry of "models" in results.json: mean cosines with their 95 % intervals.

    >>> entry = {"model": "m", "mean_cosine": [0.5, 0.25], "mean_cosine_interval": [[None, None], [0.2, 0.3]],
    ...          "spearman": -1.0, "kendall": None, "samples": 2, "tokens": 9}
    >>> for line in table([entry]):
    ...     print(line)
    model  texts  tokens  first layer         middle layer           last layer    rho  tau
    m          2       9        0.500  0.250 [0.200 0.300]  0.250 [0.200 0.300]  -1.00    -
    """
    header = ["model", "texts", "tokens", "first layer", "middle layer", "last layer", "rho", "tau"]
    rows = [header]
    for entry in entries:
        layers = len(entry["mean_cosine"])
        cosines = [_cosine(entry, layer) for layer in (0, layers // 2, layers - 1)]
        ranks = [_number(entry[name], 2) for name in ("spearman", "kendall")]
        rows.append([entry["model"], str(entry["samples"]), str(entry["tokens"]), *cosines, *ranks])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    # Names stand left, numbers right.
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]


def _cosine(entry: dict[str, Any], layer: int) -> str:
    low, high = entry["mean_cosine_interval"][layer]
    interval = "" if low is None else f" [{_number(low, 3)} {_number(high, 3)}]"
    return _number(entry["mean_cosine"][layer], 3) + interval


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _check(config: MeasureConfig) -> tuple[str, ...]:
    """The metrics by name. Raises for options that no run can have."""
    if not config.models:
        raise UserError("no MODEL was given: name at least one, a local folder or a name on the hub such as gpt2")
    twice = [name for name in config.models if config.models.count(name) > 1]
    if twice:
        raise UserError(f"MODEL {twice[0]} was given twice: once is enough")
    for name in config.models:
        models.find(name, allow_pickle=config.allow_pickle)
    least = {"samples": 1, "max_length": 2, "batch_size": 1, "seed": 0}
    for name, smallest in least.items():
        value = getattr(config, name)
        if value < smallest:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least {smallest}")
    choose("--dtype", config.dtype, models.DTYPES)
    models.choose_device(config.device)
    return choose_metrics([name.strip() for name in config.metrics.split(",") if name.strip()])


def _recorded(config: MeasureConfig, metrics: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
    """What results.json says of the run: all that its numbers depend on, the very texts too."""
    # Sixteen digits tell texts apart, and an error that names them stays one line to read.
    digest = hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:16]
    return {
        "models": list(config.models),
        "texts": config.texts,
        "field": config.field,
        "samples": config.samples,
        "max_length": config.max_length,
        "metrics": list(metrics),
        "seed": config.seed,
        "dtype": config.dtype,
        "texts_sha256": digest,
        "batch_size": config.batch_size,
        "device": str(models.choose_device(config.device)),
    }


def _measure(config: MeasureConfig, name: str, metrics: Sequence[str], texts: Sequence[str]) -> Condensation:
    model, tokenizer = models.load(
        name,
        trust_remote_code=config.trust_remote_code,
        allow_pickle=config.allow_pickle,
        dtype=config.dtype,
        device=config.device,
    )
    try:
        result = measure(
            model, tokenizer, texts, config.max_length, config.batch_size, metrics, seed=config.seed, progress=True
        )
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{name}: the memory of {config.device} is full: try --batch-size 1, --dtype bfloat16 or --device cpu"
        ) from error
    except UserError as error:
        raise UserError(f"{name} on {config.texts}: {error}") from error
    finally:
        del model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    # As it was asked for, with the revision, not as transformers calls it.
    return dataclasses.replace(result, model=name)


def _entry(result: Condensation, file: str) -> dict[str, Any]:
    """One entry of "models" in results.json: the fixed fields, the file of arrays, other metrics where there are."""
    entry = {**result.summary(), "file": file}
    others = {name: plain(values) for name, values in result.metrics.items() if name not in entry}
    return {**entry, "metrics": others} if others else entry


def _titles(names: Sequence[str]) -> list[str]:
    """For people to read: the end of a folder's path where no other ends like it, a hub name as it is."""
    ends = [Path(name).resolve().name if Path(name).is_dir() else name for name in names]
    return [end if ends.count(end) == 1 else name for end, name in zip(ends, names, strict=True)]


def _file_names(titles: Sequence[str]) -> list[str]:
    """A file name for each model: its title in letters that every file system takes, a number where two are alike."""
    files: list[str] = []
    for title in titles:
        stem = re.sub(r"[^\w.@+-]+", "-", title.replace("/", "--")).strip(".-") or "model"
        files.append(next(name for name in _numbered(stem) if name.lower() not in {file.lower() for file in files}))
    return files


def _numbered(stem: str) -> Iterator[str]:
    yield f"{stem}.npz"
    for number in itertools.count(2):
        yield f"{stem}-{number}.npz"
