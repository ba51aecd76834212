"""The matrix: every way to train the same sixteen sequences, one row each. Knows names, not how they are run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, replace

SEQUENCES, MODELS = 16, ("llama", "gpt2")
ALL, SOME = (1, 2, 4, 8, 16), (1, 4)


@dataclass(frozen=True)
class Case:
    """One way, with one model, at one accumulation.

    Attributes:
        how: who forms the loss and steps: "attach" in a plain loop, "Trainer", "Update", "Accelerate", "by hand"; or a mistake, of `MISTAKES`.
        model: "llama" or "gpt2".
        processes: that share the sixteen sequences.
        accumulation: backward passes for an update; each has 16 / (processes x accumulation) sequences.
        wrapper: "none", "DDP", "FSDP2".
        first: what is done first, "attach" or "wrap" (DDP, FSDP2, torch.compile).
        checkpointing: "off", "non-reentrant", "reentrant".
        compiled: backend of torch.compile, or "off".
        packed: a micro-batch is one row of documents.
        precision: "float32", "bfloat16" (autocast).
        first_labels: the denominator counts labels of first tokens too, as Trainer does for GPT-2 as it is.
    """

    how: str = "attach"
    model: str = "llama"
    processes: int = 1
    accumulation: int = 1
    wrapper: str = "none"
    first: str = "attach"
    checkpointing: str = "off"
    compiled: str = "off"
    packed: bool = False
    precision: str = "float32"
    first_labels: bool = False

    @property
    def batch(self) -> int:
        """Sequences of one backward pass."""
        return SEQUENCES // (self.processes * self.accumulation)

    def __str__(self) -> str:
        default = Case()
        kept = ("model", "processes", "accumulation")
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        changed = [
            key.replace("_", " ") if value is True else str(value)
            for key, value in fields.items()
            if key not in kept and value != getattr(default, key)
        ]
        return "-".join([self.model, f"{self.processes}x{self.batch}x{self.accumulation}", *changed])


MISTAKES = {
    "mean over sequences": "the mean over a micro-batch's sequences, divided by the number of micro-batches",
    "mean over sequences, not divided": "the same, added once for each micro-batch",
    "own targets": "attach without num_items_in_batch, divided by the number of micro-batches",
    "none": "cross entropy alone",
}


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        group: its heading.
        name: what a reader sees.
        case: the way; its model and accumulation are those of the columns.
        accumulations, models: that are run.
        quick: models that the tests run; the script runs all.
    """

    group: str
    name: str
    case: Case
    accumulations: tuple[int, ...] = SOME
    models: tuple[str, ...] = MODELS
    quick: tuple[str, ...] = MODELS

    def cases(self, quick: bool = False) -> Iterator[Case]:
        """Those of the row that exist: with p processes at most 16 / p micro-batches."""
        for accumulation in self.accumulations:
            case = replace(self.case, accumulation=accumulation)
            if case.batch:
                models = [model for model in self.models if model in self.quick or not quick]
                yield from (replace(case, model=model) for model in models)


def over(processes: int, **given: str) -> Case:
    return Case(processes=processes, **{"wrapper": "DDP", **given})


ONE = [
    Row("One process", "the formula by hand", Case(how="by hand"), ALL),
    Row("One process", "plain loop", Case(), ALL),
    Row("One process", "transformers' Trainer", Case(how="Trainer"), ALL),
    Row("One process", "Trainer, GPT-2's loss_type as it is", Case(how="Trainer", first_labels=True), models=("gpt2",)),
    Row("One process", "Accelerate", Case(how="Accelerate")),
    Row("One process", "Update, as decondense train has it", Case(how="Update"), ALL),
    Row("One process", "documents packed in one row", Case(packed=True)),
    Row("Gradient checkpointing", "plain loop, non-reentrant", Case(checkpointing="non-reentrant")),
    Row("Gradient checkpointing", "plain loop, reentrant", Case(checkpointing="reentrant")),
    Row("Gradient checkpointing", "Trainer, non-reentrant", Case(how="Trainer", checkpointing="non-reentrant")),
    Row("Gradient checkpointing", "Trainer, reentrant", Case(how="Trainer", checkpointing="reentrant")),
    Row("bfloat16 autocast", "the formula by hand", Case(how="by hand", precision="bfloat16")),
    Row("bfloat16 autocast", "plain loop", Case(precision="bfloat16")),
    Row("bfloat16 autocast", "Trainer", Case(how="Trainer", precision="bfloat16")),
]


def several(processes: int) -> list[Row]:
    """The ways of processes that share the sequences."""
    splits = ALL if processes == 2 else SOME
    ways = [
        ("DDP", over(processes), splits),
        ("DDP, attached after it", over(processes, first="wrap"), SOME),
        ("DDP, non-reentrant checkpointing", over(processes, checkpointing="non-reentrant"), SOME),
        ("DDP, Trainer", over(processes, how="Trainer"), SOME),
        ("DDP, Accelerate", over(processes, how="Accelerate"), SOME),
        ("DDP, Update", over(processes, how="Update"), SOME),
        ("FSDP2", over(processes, wrapper="FSDP2"), splits),
        ("FSDP2, attached after it", over(processes, wrapper="FSDP2", first="wrap"), SOME),
        ("FSDP2, non-reentrant", over(processes, wrapper="FSDP2", checkpointing="non-reentrant"), SOME),
        ("FSDP2, Trainer", over(processes, wrapper="FSDP2", how="Trainer"), SOME),
    ]
    return [Row(f"{processes} processes", name, case, accumulations) for name, case, accumulations in ways]


def compiling(name: str, case: Case, models: tuple[str, ...] = ("llama",), quick: tuple[str, ...] = ()) -> Row:
    """Compiling takes long, and gains nothing from another split: four micro-batches of several lengths each."""
    return Row("torch.compile", name, case, (4,), models, quick)


COMPILED = [
    compiling("plain loop, aot_eager", Case(compiled="aot_eager"), MODELS, quick=("llama",)),
    compiling("plain loop, inductor", Case(compiled="inductor"), MODELS, quick=("llama",)),
    compiling("attached after it, before the first call", Case(compiled="aot_eager", first="wrap")),
    compiling("Trainer, aot_eager", Case(how="Trainer", compiled="aot_eager")),
    compiling("Trainer, inductor", Case(how="Trainer", compiled="inductor")),
    compiling("2 processes, DDP, aot_eager", over(2, compiled="aot_eager")),
    compiling("2 processes, DDP, inductor", over(2, compiled="inductor")),
    compiling("2 processes, FSDP2, aot_eager", over(2, compiled="aot_eager", wrapper="FSDP2")),
]
WRONG = [Row("Mistakes, which must differ", text, Case(how=how), ALL) for how, text in MISTAKES.items()]
ROWS = [*ONE, *COMPILED, *several(2), *several(4), *WRONG]


def chosen(processes: int, quick: bool) -> list[Case]:
    """The cases that so many processes run together."""
    return [case for row in ROWS if row.case.processes == processes for case in row.cases(quick)]
