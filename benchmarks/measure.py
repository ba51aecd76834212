"""`python benchmarks/measure.py`: what measuring costs over a bare forward pass, in time and memory, beside the authors' package.

A random model of GPT-2 small's shape, 20 texts of 512 tokens. All contenders are timed in turn, round after round, and the median is taken;
what is claimed are ratios. The authors' package pins an old transformers but runs with the present one: install it aside and name the folder,

    pip install --target ASIDE nltk
    pip install --target ASIDE --no-deps embedding-condensation==2.0
    python benchmarks/measure.py --peer ASIDE

Writes results/measure-cpu.json.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import io
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from memory import peak_bytes
from torch import nn

from decondense import measure
from decondense.files import write_json
from decondense.geometry import collectors
from decondense.layers import body, watch
from decondense.passes import PADDING_SHARE
from decondense.report.tables import Column, Table
from decondense.studies.provenance import provenance
from decondense.texts import embedded, sampling, sources, tokenizer
from decondense.tokens import Marker, plan_batches, tokenize

BARE = "bare forward pass"
LENGTH = 512
BATCH = 4
# One metric for each kind of sums that metrics are finished from.
COSTS = {
    "mean cosine": "mean_cosine",
    "histogram": "histogram",
    "histogram of the mean": "histogram_of_mean",
    "squared cosines": "effective_rank",
    "closeness": "uniformity",
    "lengths": "norm_mean",
    "causes (the diagnosis)": "without_sinks",
    "sample (spectra, TwoNN, CKA)": "similarity",
}


def make_model() -> tuple[nn.Module, Any]:
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(bos_token_id=0, eos_token_id=0)
    training, _ = embedded.split(embedded.documents())
    return transformers.GPT2LMHeadModel(config).eval(), tokenizer.train([document.text for document in training], 4096)


def make_texts(count: int) -> list[str]:
    return sampling.draw(sources.load("embedded"), count, seed=0)


@torch.inference_mode()
def forward(model: nn.Module, ids: torch.Tensor) -> None:
    for batch in ids.split(BATCH):
        body(model)(batch, attention_mask=torch.ones_like(batch), use_cache=False)


def peer_of(folder: Path | None) -> Callable[..., Any] | None:
    """The authors' function; None where the package is not there."""
    if folder is not None:
        sys.path.insert(0, str(folder))
    # Importing it tries to download nltk's sentence model, which it needs only to draw random texts.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            found: Callable[..., Any] = importlib.import_module("embedding_condensation").measure_embedding_condensation
        except ImportError:
            return None
    return found


def measure_times(
    model: nn.Module, words: Any, texts: list[str], rounds: int, peer: Callable[..., Any] | None
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """A row for each way, and the largest differences from the peer's numbers."""
    ids = torch.stack([one.long() for one in tokenize(words, texts, LENGTH).ids])
    ours = functools.partial(measure, model, words, texts, LENGTH, BATCH)
    ways: dict[str, Callable[[], Any]] = {BARE: functools.partial(forward, model, ids)}
    ways['metrics="paper"'] = functools.partial(ours, metrics="paper")
    ways['metrics="all"'] = functools.partial(ours, metrics="all")
    if peer is not None:
        ways["embedding-condensation 2.0"] = functools.partial(
            peer, model.transformer, words, texts=texts, repetitions=len(texts), max_length=LENGTH, plot=False, save_path=None, show_progress=False
        )  # fmt: skip
    forward(model, ids[:BATCH])  # warms up
    taken: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, Any] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            found[name] = way()
            taken[name].append(time.perf_counter() - began)
    rows = []
    for name, seconds in taken.items():
        # Within a round machine and frequency are alike: the ratio is taken there.
        ratio = statistics.median(one / other for one, other in zip(seconds, taken[BARE], strict=True))
        rows.append({"way": name, "seconds": statistics.median(seconds), "over forward": ratio})
    agreement: dict[str, float] = {}
    if peer is not None:
        result = found['metrics="paper"']
        matrices = found["embedding-condensation 2.0"].cossim_by_layer
        means = matrices.mean(axis=(1, 2), dtype=np.float64)
        counts = np.stack([np.histogram(matrix, 128, (-1, 1))[0] for matrix in matrices])
        agreement["mean_cosine"] = float(np.abs(means - result.mean_cosine).max())
        agreement["histogram_of_mean, share of pairs in another bin"] = float(
            np.abs(counts - result.histogram_of_mean).sum() / counts.sum() / 2
        )
    return rows, agreement


def measure_costs(model: nn.Module, words: Any, texts: list[str], rounds: int) -> list[dict[str, Any]]:
    """Seconds of collecting what each kind of metric needs from all layers of a batch, over those of its forward pass."""
    tokenized = tokenize(words, texts[:BATCH], LENGTH)
    ids = torch.stack([one.long() for one in tokenized.ids])
    marks = Marker(tokenized, words, 0).mark(list(range(BATCH)), ids, torch.ones_like(ids, dtype=torch.bool))
    hidden: list[torch.Tensor] = []
    with torch.inference_mode(), watch(model, lambda index, seen: hidden.append(seen.clone())):
        body(model)(ids, use_cache=False)
    taken: dict[str, list[float]] = {name: [] for name in (BARE, *COSTS)}
    for _ in range(rounds + 1):
        for name in taken:
            statistics_of = None if name == BARE else collectors([COSTS[name]], len(hidden), one_length=True)
            began = time.perf_counter()
            if statistics_of is None:
                forward(model, ids)
            else:
                for one, seen in zip(statistics_of, hidden, strict=True):
                    one.update(seen, marks=marks)
            taken[name].append(time.perf_counter() - began)
    base = statistics.median(taken[BARE][1:])
    costs = {name: statistics.median(seconds[1:]) for name, seconds in taken.items() if name != BARE}
    return [
        {"what": name, "seconds": seconds, "of the forward pass": seconds / base} for name, seconds in costs.items()
    ]


def measure_memory(model: nn.Module, words: Any) -> list[dict[str, Any]]:
    """Bytes over a bare forward pass with few and with many texts."""
    cpu = torch.device("cpu")
    rows = []
    for metrics in ("paper", "all"):
        for count in (10, 200):
            texts = make_texts(count)
            ids = torch.stack([one.long() for one in tokenize(words, texts, LENGTH).ids])
            bare = peak_bytes(functools.partial(forward, model, ids[: 2 * BATCH]), cpu)
            peak = peak_bytes(functools.partial(measure, model, words, texts, LENGTH, BATCH, metrics), cpu)
            rows.append({"metrics": metrics, "texts": count, "peak_bytes": peak, "over_forward_bytes": peak - bare})
            print(f"{metrics}, {count} texts: {(peak - bare) / 1e6:.1f} MB over the bare forward pass", flush=True)
    return rows


def measure_padding() -> dict[str, float]:
    """Share of padding among the tokens that are run, for texts of 16 to 512 tokens, in batches of 8."""
    lengths = np.random.default_rng(0).integers(16, LENGTH + 1, 200).tolist()
    bucketed = plan_batches(lengths, 8, PADDING_SHARE)
    as_given = [list(range(start, min(start + 8, 200))) for start in range(0, 200, 8)]

    def share(batches: list[list[int]]) -> float:
        run = sum(len(batch) * max(lengths[text] for text in batch) for batch in batches)
        return 1 - sum(lengths) / run

    return {"bucketed": share(bucketed), "in the order given": share(as_given)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="each way is timed so often; the median is taken")
    parser.add_argument("--texts", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer", type=Path, help="folder with the authors' package; without it there is no peer")
    parser.add_argument(
        "--keep-memory", action="store_true", help="time only, and keep what the results file says of memory"
    )
    parser.add_argument("--results", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    origin = provenance()
    torch.set_num_threads(arguments.threads)
    model, words = make_model()
    peer = peer_of(arguments.peer)
    if peer is None:
        print("no embedding-condensation here (--peer names its folder): it is left out")
    rows, agreement = measure_times(model, words, make_texts(arguments.texts), arguments.rounds, peer)
    columns: list[Column | str] = [
        Column(f"{arguments.texts} texts of {LENGTH} tokens", align="left"),
        Column("s", ".2f"),
        Column("of the forward pass", ".3f"),
    ]
    print(Table(columns, [[row["way"], row["seconds"], row["over forward"]] for row in rows]).plain(), flush=True)
    costs = measure_costs(model, words, make_texts(arguments.texts), arguments.rounds)
    columns = [Column("collecting, with the unit vectors", align="left"), Column("of the forward pass", ".4f")]
    print(Table(columns, [[row["what"], row["of the forward pass"]] for row in costs]).plain(), flush=True)
    for name, value in agreement.items():
        print(f"difference from the peer's {name}: {value:.2g}")
    padding = measure_padding()
    print(f"padding: {padding['bucketed']:.3f} of the tokens, {padding['in the order given']:.3f} in the order given")
    path = arguments.results / "measure-cpu.json"
    if arguments.keep_memory:
        memory = json.loads(path.read_text(encoding="utf-8"))["memory"]
    else:
        memory = {"commit": origin["commit"], "rows": measure_memory(model, words)}
    content = {
        "study": "measure",
        "command": "python benchmarks/measure.py --peer ASIDE",
        **origin,
        "threads": arguments.threads,
        "texts": arguments.texts,
        "times": rows,
        "costs": costs,
        "agreement": agreement,
        "padding": padding,
        "memory": memory,
    }
    write_json(path, json.loads(json.dumps(content)))
    print(f"\n{path}")


if __name__ == "__main__":
    main()
