"""`decondense probe`: models in; how well they fill in blanks, and what each layer's states are good for, in a table and results.json, out.

Models of several arms and seeds, as `decondense train` writes them, are compared arm by arm.
"""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor

from decondense import models
from decondense.commands import folder as folders
from decondense.errors import UserError, check_least, choose
from decondense.evaluate.intervals import mean_interval, paired_difference
from decondense.evaluate.probe_items import Cloze, Passage, clozes, labelled, passages
from decondense.evaluate.probes import (
    centred,
    cloze_right,
    linear_probe,
    pooled_states,
    retrieval_ranks,
    scores,
)
from decondense.evaluate.runs import Candidate, find_models
from decondense.files import RESULTS
from decondense.measure import count_positions
from decondense.report.tables import Column, Table
from decondense.studies.command_line import command_of
from decondense.studies.provenance import provenance
from decondense.texts import embedded

KIND = "probes"
PARTS = ("all", "training", "held_out")
# What is told of every layer, in the order of the table.
OF_LAYERS = ("retrieval", "retrieval_centred", "recall", "recall_centred", "topic", "sentiment")
FOLDS = 4
"""Of cross-validation: each item is judged by a linear probe that was fitted on the other folds."""


@dataclass(frozen=True)
class ProbeConfig:
    """See what hidden states are good for: do the halves of a passage find one another, and does a linear probe tell where it is from?

    Of every layer: retrieval (mean reciprocal rank and recall at 1) by the cosine of mean-pooled states, as they are and without their
    common mean, and the accuracy of linear probes. Of the model: how often it fills in a blank with the word that stood before. Texts are the
    embedded corpus.
    """

    models: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="MODEL [MODEL ...]", help_behavior_hint="")
    ]
    """Name on the Hugging Face hub, NAME@REVISION, or local folder: of a model, or of a run or runs of decondense train (arm and seed are read)."""

    part: Annotated[str, tyro.conf.arg(metavar="PART")] = "all"
    """Of the embedded corpus: all, training, or held_out, which decondense demo and train hold out."""

    sentiment: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Reviews to probe for sentiment: jsonl or jsonl.gz with `text` and `label`, such as IMDB's."""

    reviews: int = 600
    """How many of them are read, from the beginning."""

    baseline: Annotated[str, tyro.conf.arg(metavar="ARM")] = "cross_entropy"
    """Arm that the others are compared with."""

    batch_size: int = 16
    """Texts in one forward pass."""

    device: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto"
    """auto, cpu, cuda, mps."""

    seed: int = 0
    """Of the order of candidates and of the intervals."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/probe")
    """Folder of the results. The same command goes on after the last finished model."""


@dataclass(frozen=True)
class Questions:
    """What all models are asked."""

    halves: list[Passage]
    of_documents: list[Passage]
    blanks: list[Cloze]
    reviews: list[tuple[str, int]]


def run(config: ProbeConfig) -> None:
    """Do what `ProbeConfig` says.

    Raises:
        UserError: an option is wrong, a model or a file cannot be had, --out is not writable or holds another run.
    """
    if not config.models:
        raise UserError("no MODEL was given: name at least one, a local folder or a name on the hub such as gpt2")
    candidates = {candidate.name: candidate for candidate in find_models(config.models)}
    choose("--part", config.part, PARTS)
    check_least(config, {"batch_size": 1, "reviews": 20, "seed": 0})
    device = models.choose_device(config.device)
    questions = _questions(config)
    for name in candidates:
        models.check(name)
    options = ("part", "reviews", "baseline", "batch_size", "seed")
    recorded: dict[str, Any] = {name: getattr(config, name) for name in options}
    recorded |= {"sentiment": config.sentiment and config.sentiment.name, "device": str(device)}
    with folders.claimed(config.out, KIND, {"models": list(candidates), **recorded}):
        finished = folders.read_finished(config.out)
        for number, (name, candidate) in enumerate(candidates.items(), 1):
            if name not in [entry["model"] for entry in finished]:
                print(f"{name} ({number} of {len(candidates)})", file=sys.stderr)
                finished.append(_probe(config, candidate, questions))
                folders.write_results(config.out, KIND, recorded, finished)
        summary = summarise(finished, config.baseline)
        origin = provenance()
        command = command_of(config, "probe", ["out"], ["sentiment"])
        about = {"study": KIND, "command": command, "commit": origin["commit"], "provenance": origin}
        folders.write_results(config.out, KIND, recorded, finished, summary=summary, **about)
    for entry in finished:
        print(f"{entry['model']}:\n{layer_table(entry).plain()}\n{_blanks_line(entry)}")
    if summary:
        print(f"arms, mean of all layers but the embeddings; differences to {config.baseline} are paired by seed:")
        print(summary_table(summary).plain())
    print(f"wrote {RESULTS} into {config.out}")


def _questions(config: ProbeConfig) -> Questions:
    documents = embedded.documents()
    if config.part != "all":
        training, held_out = embedded.split(documents)
        documents = training if config.part == "training" else held_out
    found = passages(documents)
    reviews = [] if config.sentiment is None else _reviews(config.sentiment, config.reviews)
    return Questions(found, labelled(found), clozes(found, config.seed), reviews)


def _reviews(path: Path, count: int) -> list[tuple[str, int]]:
    """Texts and labels of the first `count` lines."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
            content = list(itertools.islice(lines, count))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--sentiment {path}: cannot be read ({error}); expected jsonl or jsonl.gz") from error
    found = []
    for number, line in enumerate(content, 1):
        try:
            record = json.loads(line)
            found.append((str(record["text"]), int(record["label"])))
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(
                f"{path}, line {number}: expected an object with text and a whole number as label"
            ) from error
    if len({label for _, label in found}) < 2:
        raise UserError(
            f"{path}: its first {count} lines have fewer than two labels, so there is nothing to tell apart"
        )
    return found


def _probe(config: ProbeConfig, candidate: Candidate, questions: Questions) -> dict[str, Any]:
    """All of one model."""
    model, tokenizer = models.load(candidate.name, device=config.device)
    length = min(count_positions(model) or 512, 512)

    def states(texts: Sequence[str]) -> list[Tensor]:
        return pooled_states(model, tokenizer, texts, length, config.batch_size)

    columns: dict[str, Tensor] = {}
    pairs = list(
        zip(
            states([one.first for one in questions.halves]),
            states([one.second for one in questions.halves]),
            strict=True,
        )
    )
    for kind, sides in (("", pairs), ("_centred", [centred(*pair) for pair in pairs])):
        ranks = torch.stack([retrieval_ranks(*pair) for pair in sides], dim=2)
        columns[f"retrieval{kind}"] = (1 / ranks).mean(dim=1)
        columns[f"recall{kind}"] = (ranks == 1).double().mean(dim=1)
    names = list(dict.fromkeys(one.document for one in questions.of_documents))
    if len(names) > 1:
        labels = torch.tensor([names.index(one.document) for one in questions.of_documents])
        columns["topic"] = _probe_layers(states([one.text for one in questions.of_documents]), labels)
    if questions.reviews:
        labels = torch.tensor([label for _, label in questions.reviews])
        columns["sentiment"] = _probe_layers(states([text for text, _ in questions.reviews]), labels - labels.min())
    entry: dict[str, Any] = {"model": candidate.name, "arm": candidate.arm, "seed": candidate.seed}
    found = {kind: scores(columns[kind], config.seed) for kind in OF_LAYERS if kind in columns}
    entry["layers"] = [
        {"layer": layer, **{kind: dataclasses.asdict(each[layer]) for kind, each in found.items()}}
        for layer in range(len(pairs))
    ]
    # Over all layers but the embeddings, item by item: what arms are compared by.
    entry["mean"] = {
        kind: dataclasses.asdict(scores(columns[kind][:, 1:].mean(dim=1, keepdim=True), config.seed)[0])
        for kind in found
    }
    if model.get_output_embeddings() is not None and questions.blanks:
        right = cloze_right(model, tokenizer, questions.blanks, length, config.batch_size)
        entry["mean"]["cloze"] = dataclasses.asdict(scores(right.double()[:, None], config.seed)[0])
    entry["chance"] = {
        "cloze": 1 / len(questions.blanks[0].candidates) if questions.blanks else None,
        "topic": 1 / max(len(names), 1),
    }
    return entry


def _probe_layers(states: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Which items each layer's probe gets right, [items, layers]: each item by a probe that was fitted on the three quarters without it."""
    order = torch.zeros_like(labels)
    for label in labels.unique():
        order[labels == label] = torch.arange(int((labels == label).sum()))
    right = torch.zeros(len(labels), len(states), dtype=torch.float64)
    for fold in range(FOLDS):
        test = order % FOLDS == fold
        for layer, one in enumerate(states):
            right[test, layer] = linear_probe(one[~test], labels[~test], one[test], labels[test]).double()
    return right


def summarise(entries: Sequence[dict[str, Any]], baseline: str) -> list[dict[str, Any]]:
    """For each arm and probe the mean over seeds, its t interval, and the difference to the baseline's, paired by seed. Nothing without arms."""
    arms = list(dict.fromkeys(entry["arm"] for entry in entries if entry["arm"] is not None))
    rows = []
    for arm in arms:
        row: dict[str, Any] = {"arm": arm}
        mine, base = ({one["seed"]: one["mean"] for one in entries if one["arm"] == name} for name in (arm, baseline))
        row["seeds"] = sorted(mine)
        both = sorted(set(mine) & set(base))
        for kind in next(iter(mine.values())):
            row[kind] = dataclasses.asdict(mean_interval([mine[seed][kind]["mean"] for seed in mine]))
            if arm != baseline and both and all(kind in base[seed] for seed in both):
                values = [[runs[seed][kind]["mean"] for seed in both] for runs in (mine, base)]
                row[kind]["difference"] = dataclasses.asdict(paired_difference(*values))
        rows.append(row)
    return rows


def layer_table(entry: dict[str, Any]) -> Table:
    """A row a layer: each score with half of its interval."""
    kinds = [kind for kind in OF_LAYERS if kind in entry["layers"][0]]
    columns: list[Column | str] = ["layer", *(Column(kind.replace("_", ", "), align="right") for kind in kinds)]
    return Table(columns, [[one["layer"], *(_score(one[kind]) for kind in kinds)] for one in entry["layers"]])


def summary_table(summary: Sequence[dict[str, Any]]) -> Table:
    """A row an arm."""
    kinds = [kind for kind in (*OF_LAYERS, "cloze") if kind in summary[0]]
    columns: list[Column | str] = ["arm", "seeds", *(Column(kind.replace("_", ", "), align="right") for kind in kinds)]
    rows = []
    for row in summary:
        cells = []
        for kind in kinds:
            text = f"{row[kind]['mean']:.3f}"
            difference = row[kind].get("difference")
            if difference is not None:
                text += f" ({difference['mean']:+.3f}"
                text += ")" if difference["high"] is None else f" ±{difference['high'] - difference['mean']:.3f})"
            cells.append(text)
        rows.append([row["arm"], len(row["seeds"]), *cells])
    return Table(columns, rows)


def _score(found: dict[str, Any]) -> str:
    return f"{found['mean']:.3f} ±{(found['high'] - found['low']) / 2:.3f}"


def _blanks_line(entry: dict[str, Any]) -> str:
    found = entry["mean"].get("cloze")
    if found is None:
        return "blanks: none asked (the model has no language-model head, or the texts have no blank)"
    chance = entry["chance"]["cloze"]
    return f"blanks: {_score(found)} of {found['items']} filled in right (chance {chance:.2f})"
