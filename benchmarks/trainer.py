"""`python benchmarks/trainer.py`: what an attached loss costs through transformers' Trainer, and how fast `decondense train` is beside it.

A random model of GPT-2 small's shape, rows of 1024 tokens, AdamW, clipping, two threads. All ways train the one model by turns, a step each and in
an order that moves on from round to round, so that a machine that slows down slows all of them. A step is timed from its beginning to that of the
way's next, data and update included; the first, in which the optimizer takes its memory, is left out. Ratios are taken within a round, and their
median is what counts, with the quartiles beside it.

Writes results/trainer-cpu.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from decondense import DispersionLoss, Moments, Partition, attach
from decondense.files import write_json
from decondense.report.tables import Column, Table
from decondense.studies.provenance import provenance
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


class ByTurns(threading.Thread):
    """A training in a thread of its own that makes one step whenever it is told to, and else waits.

    `training` is handed `step_begins`, to be called at the beginning of every step.
    """

    def __init__(self, training: Callable[[Callable[[], None]], None]) -> None:
        super().__init__(daemon=True)
        self._training = training
        self._go, self._waits = threading.Semaphore(0), threading.Semaphore(0)
        self._began = self._seconds = 0.0
        self._failure: BaseException | None = None
        self.start()
        self._until_it_waits()

    def step(self) -> float:
        """Seconds of one step, with what follows it until the next begins."""
        self._go.release()
        self._until_it_waits()
        return self._seconds

    def run(self) -> None:
        try:
            self._training(self._step_begins)
        except BaseException as failure:  # noqa: BLE001 - told to whoever waits for this step
            self._failure = failure
        self._hand_over()

    def _step_begins(self) -> None:
        self._hand_over()
        self._go.acquire()
        self._began = time.perf_counter()

    def _hand_over(self) -> None:
        self._seconds = time.perf_counter() - self._began
        self._waits.release()

    def _until_it_waits(self) -> None:
        self._waits.acquire()
        if self._failure is not None:
            raise self._failure


class StepBegins(transformers.TrainerCallback):
    """Calls a function at the beginning of every step."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self._call()


def trainer_of(model: Any, rows: Tensor, folder: str) -> ByTurns:
    """transformers' Trainer, a row a step."""

    def training(step_begins: Callable[[], None]) -> None:
        arguments = transformers.TrainingArguments(
            output_dir=folder, max_steps=len(rows), per_device_train_batch_size=1, learning_rate=1e-4, max_grad_norm=1.0, weight_decay=0.1,
            adam_beta2=0.95, save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
            dataloader_pin_memory=False,
        )  # fmt: skip
        data = [{"input_ids": row, "labels": row} for row in rows]
        trainer = transformers.Trainer(model, arguments, train_dataset=data, callbacks=[StepBegins(step_begins)])
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()

    return ByTurns(training)


def loop_of(model: Any, rows: Tensor, folder: str) -> ByTurns:
    """The loop of `decondense train`, a row a step."""

    def training(step_begins: Callable[[], None]) -> None:
        def batch(step: int) -> dict[str, Tensor]:
            step_begins()
            return {"input_ids": rows[step : step + 1], "labels": rows[step : step + 1]}

        train(
            model, batch, Schedule(len(rows), 1e-4), Path(folder) / "state.pt", observe=lambda step: None, save_every=len(rows) + 1,
            update=Update(cross_entropy, seed=0),
        )  # fmt: skip

    return ByTurns(training)


def measure(model: Any, rows: Tensor) -> list[dict[str, Any]]:
    """A row a way: seconds of a step, and its ratio to a step of the Trainer alone. A round for each row of tokens, the first left out."""
    taken: dict[str, list[float]] = {name: [] for name in (ALONE, OURS, *LOSSES)}
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            name: loop_of(model, rows, folder) if name == OURS else trainer_of(model, rows, folder) for name in taken
        }
        order = list(ways)
        for turn in range(len(rows)):
            for name in order:
                with attach(model, LOSSES[name]()) if name in LOSSES else nullcontext():
                    taken[name].append(ways[name].step())
            order = [*order[1:], order[0]]
            print(f"round {turn}: " + ", ".join(f"{name} {taken[name][-1]:.2f} s" for name in taken), flush=True)
    counted = {name: seconds[1:] for name, seconds in taken.items()}
    return [_row(name, seconds, counted[ALONE], rows.shape[1]) for name, seconds in counted.items()]


def _row(name: str, seconds: list[float], alone: list[float], tokens: int) -> dict[str, Any]:
    ratios = [one / other for one, other in zip(seconds, alone, strict=True)]
    lower, median, upper = statistics.quantiles(ratios, n=4, method="inclusive")
    return {
        "way": name,
        "seconds": statistics.median(seconds),
        "over_trainer": median,
        "over_trainer_quartiles": [lower, upper],
        "tokens_a_second": tokens / statistics.median(seconds),
        "speed_over_trainer": 1 / median,
        "ratios": ratios,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=13, help="a step of each way; the first is left out")
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
    rows = torch.randint(0, 50257, (args.rounds, args.length), generator=torch.Generator().manual_seed(0))
    found = measure(model, rows)
    columns: list[Column | str] = [
        Column("way", align="left"),
        Column("seconds a step", ".2f"),
        Column("over the Trainer alone", ".4f"),
        Column("quartiles"),
        Column("tokens a second", ".0f"),
        Column("speed", ".3f"),
    ]
    cells = [
        [
            row["way"],
            row["seconds"],
            row["over_trainer"],
            " to ".join(f"{one:.3f}" for one in row["over_trainer_quartiles"]),
            row["tokens_a_second"],
            row["speed_over_trainer"],
        ]
        for row in found
    ]
    print(Table(columns, cells).plain())
    given = " ".join(f"--{name} {getattr(args, name)}" for name in ("rounds", "layers", "width", "length", "threads"))
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
