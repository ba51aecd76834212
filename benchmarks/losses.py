"""`python benchmarks/losses.py`: time, memory and accuracy of every way to have the loss, beside its peers and its limits, in one run.

All contenders of a shape are timed in turn, round after round, and the median is taken, so that a busy machine slows all alike; what is claimed
are ratios.
Writes results/losses-cpu.json (losses-cuda.json on a GPU) and draws the cost against the length.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accuracy import compare_gradients
from memory import peak_bytes
from torch import Tensor
from training_step import compare_steps

from decondense import DispersionLoss, Moments, Partition, Subset
from decondense.files import write_json
from decondense.report import Series, curves
from decondense.report.tables import Column, Table
from decondense.studies.provenance import provenance

Contender = Callable[[Tensor], object]
SHAPES = {
    "gpt2-small L=1024": (4, 1024, 768),
    "gpt2-small L=4096": (1, 4096, 768),
    "qwen3-0.6b L=4096": (1, 4096, 1024),
}
LONG = {"gpt2-small L=16384": (1, 16384, 768)}
LENGTHS = (256, 512, 1024, 2048, 4096)
DRAWN = {
    "all pairs, eager": "all, eager",
    "all pairs, blocked": "all, blocked",
    "Partition(64, control=1)": "with control",
    "Subset(256), eager (the paper's)": "Subset(256)",
    "Moments(1)": "Moments(1)",
    "layer_norm": "layer_norm",
}


def through(loss: torch.nn.Module) -> Contender:
    """Forward and backward pass of a loss."""

    def run(hidden: Tensor) -> object:
        leaf = hidden.detach().requires_grad_()
        loss(leaf).backward()
        return leaf.grad

    return run


def matrix_products(hidden: Tensor) -> object:
    """The limit of a form with pairs: the inner products of all tokens, and their product with the tokens."""
    products = torch.bmm(hidden, hidden.mT)
    return torch.bmm(products, hidden)


def layer_norm(hidden: Tensor) -> object:
    """The limit of a form without pairs: layer_norm forward and backward."""
    leaf = hidden.detach().requires_grad_()
    torch.nn.functional.layer_norm(leaf, leaf.shape[-1:]).backward(hidden)
    return leaf.grad


def contenders(long: bool, compiled: bool) -> dict[str, Contender]:
    """Every way by its name; for a long input only those whose memory allows it."""
    ways: dict[str, Contender] = {
        "all pairs, blocked": through(DispersionLoss(engine="blocked")),
        "Moments(1)": through(DispersionLoss(pairs=Moments(1))),
        "Moments(2)": through(DispersionLoss(pairs=Moments(2))),
        "Partition(64)": through(DispersionLoss(pairs=Partition(64))),
        "Partition(64, control=1)": through(DispersionLoss(pairs=Partition(64, control=1))),
        "Subset(256), eager (the paper's)": through(DispersionLoss(pairs=Subset(256), engine="eager")),
        "layer_norm": layer_norm,
    }
    if not long:
        ways = {
            "all pairs, eager": through(DispersionLoss(engine="eager")),
            "two matrix products": matrix_products,
            **ways,
        }
        if compiled:
            ways["all pairs, eager, compiled"] = through(torch.compile(DispersionLoss(engine="eager"), dynamic=False))
    return ways


def time_all(ways: dict[str, Contender], hidden: Tensor, rounds: int) -> dict[str, float]:
    """Median seconds of each contender, timed in turn; a short one several times a turn, since a millisecond is easily disturbed."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    repeats = dict.fromkeys(ways, 1)
    for turn in range(rounds + 1):
        for name, way in ways.items():
            for _ in range(repeats[name]):
                _synchronize(hidden.device)
                began = time.perf_counter()
                way(hidden)
                _synchronize(hidden.device)
                seconds = time.perf_counter() - began
                if turn:  # the first turn warms up
                    taken[name].append(seconds)
            repeats[name] = min(20, max(1, int(0.05 / seconds)))
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def random_hidden(shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype, spread: float = 1.0) -> Tensor:
    """Vectors of a cone: mean cosine about 0.2, as in small released models."""
    generator = torch.Generator().manual_seed(0)
    return (spread * (torch.randn(shape, generator=generator) + 0.5)).to(dtype).to(device)


def measure_shapes(device: torch.device, dtype: torch.dtype, rounds: int, compiled: bool) -> list[dict[str, Any]]:
    rows = []
    for shapes, long in ((SHAPES, False), (LONG, True)):
        for name, shape in shapes.items():
            hidden = random_hidden(shape, device, dtype)
            ways = contenders(long, compiled and not long)
            if long:
                ways.pop("Subset(256), eager (the paper's)")
            seconds = time_all(ways, hidden, 1 if long else rounds)
            size = hidden.numel() * hidden.element_size()
            for way, taken in seconds.items():
                peak = peak_bytes(functools.partial(ways[way], hidden), device)
                row = {
                    "shape": name,
                    "batch": shape[0],
                    "length": shape[1],
                    "features": shape[2],
                    "way": way,
                    "seconds": taken,
                }
                rows.append({**row, "peak_bytes": peak, "peak_over_input": peak / size})
                for peer in ("all pairs, eager", "two matrix products", "layer_norm"):
                    if peer in seconds:
                        rows[-1][f"over {peer}"] = taken / seconds[peer]
            print(shape_table([row for row in rows if row["shape"] == name], name), flush=True)
    return rows


def shape_table(rows: list[dict[str, Any]], name: str) -> str:
    columns: list[Column | str] = [
        Column(name, align="left"),
        Column("ms", ".1f"),
        Column("of eager", ".3f"),
        Column("of two products", ".2f"),
    ]
    columns += [Column("of layer_norm", ".2f"), Column("peak MB", ".1f"), Column("peak / input", ".2f")]
    keys = ("over all pairs, eager", "over two matrix products", "over layer_norm")
    cells = [
        [
            row["way"],
            1000 * row["seconds"],
            *(row.get(key) for key in keys),
            row["peak_bytes"] / 1e6,
            row["peak_over_input"],
        ]
        for row in rows
    ]
    return "\n" + Table(columns, cells).plain()


def measure_lengths(device: torch.device, dtype: torch.dtype, rounds: int) -> list[dict[str, Any]]:
    """Time against the length, at a batch of one and 768 features."""
    rows = []
    for length in LENGTHS:
        ways = {name: way for name, way in contenders(False, False).items() if name in DRAWN}
        for way, seconds in time_all(ways, random_hidden((1, length, 768), device, dtype), rounds).items():
            rows.append({"length": length, "way": way, "seconds": seconds})
    return rows


def draw_lengths(rows: list[dict[str, Any]], picture: Path) -> None:
    """Draw the ways of `DRAWN` as lines."""
    series = []
    for way, label in DRAWN.items():
        times = {row["length"]: 1000 * row["seconds"] for row in rows if row["way"] == way}
        series.append(Series(label, sorted(times), [times[length] for length in sorted(times)]))
    picture.parent.mkdir(parents=True, exist_ok=True)
    curves(series, picture, x_label="tokens of a sequence", y_label="milliseconds", x_scale="log", y_scale="log")


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--rounds", type=int, default=5, help="each contender is timed so often; the median is taken")
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile eager too (needs a C++ compiler; adds minutes)"
    )
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--picture", type=Path, default=Path("docs/images/losses-cost"), help="without suffix")
    parser.add_argument(
        "--twin", type=Path, default=Path("runs/demo"), help="a finished demo, for hidden states of a dispersed model"
    )
    arguments = parser.parse_args()
    if arguments.compile and shutil.which("g++") is None:
        parser.error("--compile needs a C++ compiler (g++), and there is none here")
    origin = provenance()
    torch.set_num_threads(arguments.threads)
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    content: dict[str, Any] = {
        "study": "losses",
        "command": f"python benchmarks/losses.py --device {device} --dtype {arguments.dtype}",
    }
    content |= {**origin, "threads": arguments.threads, "dtype": arguments.dtype}
    content["accuracy"] = compare_gradients(arguments.twin)
    content["shapes"] = measure_shapes(device, dtype, arguments.rounds, arguments.compile)
    content["step"] = compare_steps(device, arguments.rounds)
    content["lengths"] = measure_lengths(device, dtype, arguments.rounds)
    draw_lengths(content["lengths"], arguments.picture)
    path = arguments.results / f"losses-{device.type}.json"
    write_json(path, json.loads(json.dumps(content)))
    print(f"\n{path}, {arguments.picture}.png")


if __name__ == "__main__":
    main()
