"""`python benchmarks/monitor.py`: what the monitor costs of a training step.

A random model of GPT-2 small's shape trains on rows of 1024 tokens, on two threads. Steps that are observed and steps that are not alternate; the
median over rounds is taken of their ratio within a round, and, since a ratio of two long steps is noisy, of the share of an observed step that was
spent in the monitor's own hooks. Observing every so many steps costs that over so many.

Writes results/monitor-cpu.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from decondense.files import write_json
from decondense.report.tables import Column, Table
from decondense.studies.provenance import provenance
from decondense.train.monitor import Monitor

LENGTH = 1024
EVERY = (1, 10, 50, 100)


class TimedMonitor(Monitor):
    """A monitor that adds up the seconds of its hooks."""

    seconds = 0.0

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        began = time.perf_counter()
        super()._begin(module, args, kwargs)
        self.seconds += time.perf_counter() - began

    def _see(self, index: int, hidden: Tensor) -> None:
        began = time.perf_counter()
        super()._see(index, hidden)
        self.seconds += time.perf_counter() - began

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        began = time.perf_counter()
        super()._end(module, args, output)
        self.seconds += time.perf_counter() - began


def measure(rounds: int, rows: int) -> list[dict[str, float]]:
    """A row a round: seconds of a plain step, of an observed one, and of the monitor in that."""
    import transformers

    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(bos_token_id=0, eos_token_id=0)).train()
    model.loss_type = "ForCausalLM"  # GPT-2 names none, and transformers warns of it
    ids = torch.randint(0, 50257, (rows, LENGTH), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> float:
        began = time.perf_counter()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - began

    step()  # warms up
    found = []
    for _ in range(rounds):
        plain = step()
        with TimedMonitor(model, every=1) as monitor:
            found.append({"plain": plain, "observed": step(), "monitor": monitor.seconds})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/monitor-cpu.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found = measure(args.rounds, args.rows)
    step = statistics.median(one["plain"] for one in found)
    share = statistics.median(one["monitor"] / (one["observed"] - one["monitor"]) for one in found)
    ratio = statistics.median(one["observed"] / one["plain"] for one in found)
    rows = [{"every": every, "share": share / every} for every in EVERY]
    columns: list[Column | str] = [
        Column("steps from one observation to the next", "d"),
        Column("share of the time", ".5f"),
    ]
    print(f"a step takes {step:.2f} s; an observed one {ratio:.4f} of a plain one")
    print(Table(columns, [[row["every"], row["share"]] for row in rows]).plain())
    content = {
        "study": "monitor",
        "command": f"python benchmarks/monitor.py --rounds {args.rounds} --rows {args.rows} --threads {args.threads}",
        **provenance(),
        "threads": args.threads,
        "length": LENGTH,
        "step_seconds": step,
        "observed_over_plain": ratio,
        "rows": rows,
        "rounds": found,
    }
    write_json(args.out, content)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
