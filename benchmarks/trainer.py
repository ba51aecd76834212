"""`python benchmarks/trainer.py`: what an attached loss costs through transformers' Trainer, and how fast `decondense train` is beside it.

A random model of GPT-2 small's shape, rows of 1024 tokens, AdamW, clipping, two threads. In each round every way trains a few steps, one after the
other; a step is timed from its beginning to that of the next, data and update included, and the first of a way, in which the optimizer takes its
memory, is left out. Ratios are taken within a round, and their median is what counts.

Writes results/trainer-cpu.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from decondense import DispersionLoss, Moments, Partition, attach
from decondense.files import write_json
from decondense.report.tables import Column, Table
from decondense.studies.provenance import provenance
from decondense.train.callback import MonitorCallback
from decondense.train.loop import Schedule, train
from decondense.train.run import cross_entropy
from decondense.train.update import Update

ALONE = "HF Trainer alone"
OURS = "decondense train, no loss"
LOSSES: dict[str, Callable[[], DispersionLoss]] = {
    "attach, Moments(1)": lambda: DispersionLoss(pairs=Moments(1)),
    "attach, Partition(64, control=1)": lambda: DispersionLoss(pairs=Partition(64, control=1)),
    "attach, all pairs": DispersionLoss,
}
MONITORED = "MonitorCallback, every step"


class Clock(transformers.TrainerCallback):
    """Seconds between the beginnings of steps."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began = 0.0

    def start(self) -> None:
        self._began = time.perf_counter()

    def tick(self) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self._began)
        self._began = now

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if state.global_step == 0:
            self.start()
        else:
            self.tick()

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.tick()


def through_trainer(model: Any, rows: Tensor, steps: int, folder: str, monitored: bool = False) -> list[float]:
    arguments = transformers.TrainingArguments(
        output_dir=folder, max_steps=steps, per_device_train_batch_size=1, learning_rate=1e-4, max_grad_norm=1.0, weight_decay=0.1,
        adam_beta2=0.95, save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False,
    )  # fmt: skip
    clock = Clock()
    data = [{"input_ids": row, "labels": row} for row in rows]
    trainer = transformers.Trainer(model, arguments, train_dataset=data, callbacks=[clock])
    trainer.remove_callback(transformers.PrinterCallback)
    if monitored:
        trainer.add_callback(MonitorCallback(every=1))
    trainer.train()
    return clock.seconds[1:]


def through_loop(model: Any, rows: Tensor, steps: int, folder: str) -> list[float]:
    clock = Clock()

    def batch(step: int) -> dict[str, Tensor]:
        if step == 0:
            clock.start()
        row = rows[step : step + 1]
        return {"input_ids": row, "labels": row}

    train(
        model, batch, Schedule(steps, 1e-4), Path(folder) / "state.pt", observe=lambda step: None, save_every=steps + 1,
        progress=lambda step: clock.tick(), update=Update(cross_entropy, seed=0),
    )  # fmt: skip
    return clock.seconds[1:]


def measure(model: Any, rows: Tensor, steps: int, rounds: int) -> list[dict[str, Any]]:
    """A row a way: seconds of a step, and its ratio to a step of the Trainer alone."""
    taken: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds + 1):
            found = {ALONE: through_trainer(model, rows, steps, folder), OURS: through_loop(model, rows, steps, folder)}
            for name, make in LOSSES.items():
                with attach(model, make()):
                    found[name] = through_trainer(model, rows, steps, folder)
            found[MONITORED] = through_trainer(model, rows, steps, folder, monitored=True)
            print(
                f"round {turn}: " + ", ".join(f"{name} {statistics.median(one):.2f} s" for name, one in found.items()),
                flush=True,
            )
            for name, seconds in found.items() if turn else ():  # the first warms up
                taken.setdefault(name, []).append(statistics.median(seconds))
    ratios = {
        name: [one / alone for one, alone in zip(seconds, taken[ALONE], strict=True)] for name, seconds in taken.items()
    }
    tokens = rows.shape[1]
    return [
        {
            "way": name,
            "seconds": statistics.median(seconds),
            "over_trainer": statistics.median(ratios[name]),
            "tokens_a_second": tokens / statistics.median(seconds),
            "speed_over_trainer": 1 / statistics.median(ratios[name]),
            "ratios": ratios[name],
        }
        for name, seconds in taken.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="of a way in a round; the first is left out")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/trainer-cpu.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    size = {
        "n_layer": args.layers,
        "n_embd": args.width,
        "n_head": max(args.width // 64, 1),
        "n_positions": args.length,
    }
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**size, bos_token_id=0, eos_token_id=0, use_cache=False)
    )
    model.loss_type = "ForCausalLM"  # GPT-2 names none, and transformers warns of it
    rows = torch.randint(0, 50257, (args.steps, args.length), generator=torch.Generator().manual_seed(0))
    found = measure(model, rows, args.steps, args.rounds)
    columns: list[Column | str] = [
        Column("way", align="left"),
        Column("seconds a step", ".2f"),
        Column("over the Trainer alone", ".4f"),
        Column("tokens a second", ".0f"),
        Column("speed", ".3f"),
    ]
    cells = [
        [row["way"], row["seconds"], row["over_trainer"], row["tokens_a_second"], row["speed_over_trainer"]]
        for row in found
    ]
    print(Table(columns, cells).plain())
    given = " ".join(
        f"--{name} {getattr(args, name)}" for name in ("rounds", "steps", "layers", "width", "length", "threads")
    )
    content = {
        "study": "trainer",
        "command": f"python benchmarks/trainer.py {given}",
        **provenance(),
        "threads": args.threads,
        "rows": found,
    }
    write_json(args.out, content)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
