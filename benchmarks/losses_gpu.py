"""`python benchmarks/losses_gpu.py`: the Triton engine on a GPU, beside the two matrix products in cuBLAS and the other ways to have the loss.

First every row is checked against the eager engine in float64, in all three precisions and both forms of the kernels; a wrong kernel is not timed.
Then all contenders of a shape are timed in turn, round after round, and the median is taken. Writes results/losses-gpu.json. Minutes on an H100.
(The name is not `triton.py`: Python looks for modules beside the script first, and torch would import this file in place of triton.)
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from losses import layer_norm, matrix_products, random_hidden, through
from memory import peak_bytes
from torch import Tensor

from decondense import DispersionLoss, Moments, Partition, Subset
from decondense.files import write_json
from decondense.losses import tiles
from decondense.losses.formulations import FORMULATIONS
from decondense.report.tables import Column, Table
from decondense.studies.provenance import provenance

# Batch, length, features, dtype, and how float32 is multiplied. The first is the one that the project's target is about.
SHAPES: dict[str, tuple[int, int, int, str, str]] = {
    "qwen3-0.6b L=4096 bf16": (8, 4096, 1024, "bfloat16", "highest"),
    "qwen3-0.6b L=4096 fp16": (8, 4096, 1024, "float16", "highest"),
    "qwen3-0.6b L=4096 tf32": (8, 4096, 1024, "float32", "high"),
    "qwen3-0.6b L=4096 fp32": (8, 4096, 1024, "float32", "highest"),
    "gpt2-small L=1024 bf16": (8, 1024, 768, "bfloat16", "highest"),
    "gpt2-small L=4096 bf16, one sequence": (1, 4096, 768, "bfloat16", "highest"),
    "narrow L=4096 bf16": (8, 4096, 256, "bfloat16", "highest"),
    "llama-3-8b L=4096 bf16": (4, 4096, 4096, "bfloat16", "highest"),
    "long L=16384 bf16": (1, 16384, 1024, "bfloat16", "highest"),
}
# The eager engine holds about so many matrices of all pairs, in float32, at once.
EAGER_MATRICES = 10


@contextlib.contextmanager
def fused_up_to(width: int | None) -> Iterator[None]:
    """One kernel for both products up to this width, whatever it costs; None: as the engine chooses."""
    chosen = dict(tiles.FUSED_WIDTH)
    if width is not None:
        tiles.FUSED_WIDTH.update(dict.fromkeys(chosen, width))
    try:
        yield
    finally:
        tiles.FUSED_WIDTH.update(chosen)


def fused(loss: torch.nn.Module, width: int) -> Callable[[Tensor], object]:
    run = through(loss)

    def run_fused(hidden: Tensor) -> object:
        with fused_up_to(width):
            return run(hidden)

    return run_fused


def value_alone(loss: torch.nn.Module) -> Callable[[Tensor], object]:
    def run(hidden: Tensor) -> object:
        with torch.no_grad():
            return loss(hidden)

    return run


def contenders(shape: tuple[int, int, int], device: torch.device) -> dict[str, Callable[[Tensor], object]]:
    """Every way by its name; those that hold all pairs only where there is room for them."""
    batch, length, _ = shape

    def loss(**arguments: Any) -> torch.nn.Module:
        return DispersionLoss(**arguments).to(device)

    ways: dict[str, Callable[[Tensor], object]] = {
        "two matrix products": matrix_products,
        "triton": through(loss(engine="triton")),
        "triton, one kernel": fused(loss(engine="triton"), 1 << 30),
        "triton, two kernels": fused(loss(engine="triton"), 0),
        "triton, value alone": value_alone(loss(engine="triton")),
        "blocked": through(loss(engine="blocked")),
        "eager": through(loss(engine="eager")),
        "Moments(1)": through(loss(pairs=Moments(1))),
        "Moments(2)": through(loss(pairs=Moments(2))),
        "Partition(64)": through(loss(pairs=Partition(64), engine="triton")),
        "Partition(64, control=1)": through(loss(pairs=Partition(64, control=1), engine="triton")),
        "Subset(256), eager (the paper's)": through(loss(pairs=Subset(256), engine="eager")),
        "layer_norm": layer_norm,
    }
    room, _ = torch.cuda.mem_get_info(device)
    if EAGER_MATRICES * batch * length * length * 4 > room:
        del ways["eager"]
    return ways


def milliseconds(way: Callable[[Tensor], object], hidden: Tensor) -> float:
    began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(hidden.device)
    began.record()
    way(hidden)
    ended.record()
    ended.synchronize()
    return began.elapsed_time(ended)


def check(device: torch.device) -> list[dict[str, Any]]:
    """Errors of value and gradient of every row against eager in float64; exits where one is too large."""
    rows = []
    for name in (name for name, row in FORMULATIONS.items() if row.slope is not None):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            # Small, so that distances of l2 rows leave something of the exponential; sizes that no tile divides.
            hidden = random_hidden((2, 333, 200), device, dtype, spread=0.1)
            exact = _value_and_gradient(DispersionLoss(name, engine="eager"), hidden.double())
            for form, width in (("one kernel", 1 << 30), ("two kernels", 0)):
                with fused_up_to(width):
                    found = _value_and_gradient(DispersionLoss(name, engine="triton"), hidden)
                of_value = float((found[0] - exact[0]).abs() / exact[0].abs().clamp(min=1))
                of_gradient = float((found[1] - exact[1]).abs().max() / exact[1].abs().max())
                rows.append(
                    {"row": name, "dtype": str(dtype), "form": form, "value": of_value, "gradient": of_gradient}
                )
                # float32 sums; a half is rounded twice, as a weight and as the gradient.
                if not (of_value < 1e-5 and of_gradient < max(1e-5, 4 * torch.finfo(dtype).eps)):
                    raise SystemExit(
                        f"{name} in {dtype}, {form}: value off by {of_value:.1e}, gradient by {of_gradient:.1e}"
                    )
    return rows


def _value_and_gradient(loss: torch.nn.Module, hidden: Tensor) -> tuple[Tensor, Tensor]:
    leaf = hidden.clone().requires_grad_()
    value = loss.to(hidden.device)(leaf)
    # Scaled as a GradScaler would, or float16 would lose small gradients.
    (value * 1024).backward()
    assert leaf.grad is not None, "the loss was differentiated"
    return value.detach().double(), leaf.grad.double()


def bandwidth(device: torch.device) -> float:
    """Bytes a second that this card moves when it copies 2 GiB (read and written)."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    taken = statistics.median(milliseconds(lambda _: target.copy_(source), source) for _ in range(10))
    return 2 * source.numel() / (taken / 1000)


def measure(device: torch.device, rounds: int, memory_bandwidth: float, names: list[str]) -> list[dict[str, Any]]:
    rows = []
    for name in names:
        batch, length, features, dtype, precision = SHAPES[name]
        torch.set_float32_matmul_precision(precision)
        hidden = random_hidden((batch, length, features), device, getattr(torch, dtype))
        ways = contenders((batch, length, features), device)
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(rounds + 2):
            for way, run in ways.items():
                found = milliseconds(run, hidden)
                if turn >= 2:  # the first compiles, the second warms up
                    taken[way].append(found)
        median = {way: statistics.median(all_of_it) for way, all_of_it in taken.items()}
        size = hidden.numel() * hidden.element_size()
        of_shape = []
        for way, found in median.items():
            row: dict[str, Any] = {
                "shape": name,
                "batch": batch,
                "length": length,
                "features": features,
                "dtype": dtype,
            }
            row |= {"float32_products": precision, "way": way, "milliseconds": found}
            row["over two matrix products"] = found / median["two matrix products"]
            row["over eager"] = found / median["eager"] if "eager" in median else None
            row["peak_over_input"] = peak_bytes(functools.partial(ways[way], hidden), device) / size
            if way in ("Moments(1)", "layer_norm"):
                # The input is read for the value and for the gradient, and the gradient is written: no form moves less.
                row["share_of_bandwidth"] = 3 * size / (found / 1000) / memory_bandwidth
            of_shape.append(row)
        print(shape_table(of_shape, name), flush=True)
        rows += of_shape
        torch.set_float32_matmul_precision("highest")
    return rows


def shape_table(rows: list[dict[str, Any]], name: str) -> str:
    columns: list[Column | str] = [
        Column(name, align="left"),
        Column("ms", ".3f"),
        Column("of two products", ".2f"),
        Column("of eager", ".3f"),
        Column("peak / input", ".2f"),
        Column("share of bandwidth", ".2f"),
    ]
    keys = ("way", "milliseconds", "over two matrix products", "over eager", "peak_over_input", "share_of_bandwidth")
    return "\n" + Table(columns, [[row.get(key) for key in keys] for row in rows]).plain()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="each contender is timed so often; the median is taken")
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES), choices=list(SHAPES), metavar="NAME")
    parser.add_argument("--results", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print(
            "losses_gpu.py: error: torch sees no CUDA device; benchmarks/losses.py measures on the CPU", file=sys.stderr
        )
        raise SystemExit(2)
    device = torch.device("cuda", torch.cuda.current_device())
    content: dict[str, Any] = {"study": "losses", "command": "python benchmarks/losses_gpu.py", **provenance()}
    content["rounds"] = arguments.rounds
    content["gpu"] = torch.cuda.get_device_name(device)
    content["bandwidth_bytes_per_second"] = bandwidth(device)
    print(f"{content['gpu']}, copies at {content['bandwidth_bytes_per_second'] / 1e9:.0f} GB/s")
    content["errors"] = check(device)
    print(f"{len(content['errors'])} comparisons with eager in float64 passed")
    content["shapes"] = measure(device, arguments.rounds, content["bandwidth_bytes_per_second"], arguments.shapes)
    path = arguments.results / "losses-gpu.json"
    arguments.results.mkdir(parents=True, exist_ok=True)
    write_json(path, content)
    print(f"\n{path}")


if __name__ == "__main__":
    main()
