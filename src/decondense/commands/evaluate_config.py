"""What `decondense evaluate` can be told: its options with their help, and those that no run can have refused. Runs nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from decondense import models
from decondense.errors import UserError, check_least, choose


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate models on benchmarks of lm-eval, and take their perplexity.

    Prints a table with standard errors and writes results.json into the folder --out. Prompts, metrics and versions of tasks are lm-eval's own.
    The same command again, or one with more tasks or models, runs what is not finished there. Exit status 2 also tells that a task could not be
    evaluated because its data is not there; the others are.
    """

    models: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="MODEL [MODEL ...]", help_behavior_hint="")
    ]
    """Name on the Hugging Face hub, local folder, NAME@REVISION, or the folder of a run of train or demo (all its models)."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/evaluate")
    """Folder for the results. What is finished in it is kept."""

    tasks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")] = ("small",)
    """Any of: paper (the paper's twelve, 500 items each), small (for models under 100M parameters), tasks, groups and tags of lm-eval,
    perplexity:SOURCE with wikitext, tinystories, pubmed, imdb, squad, embedded or a PATH."""

    data: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder with a folder for each benchmark: nothing is asked of the hub."""

    limit: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Items of each task, its first ones; 0 = all (with paper alone: 500)."""

    shots: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Examples in the prompts, of all tasks; by default what paper or the task itself says."""

    batch_size: Annotated[str, tyro.conf.arg(metavar="N")] = "auto"
    """Sequences in one forward pass; auto = what is found to be fastest."""

    context: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Tokens in the window of a perplexity; 0 = all that the model takes."""

    stride: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Tokens by which that window moves; 0 = half of it."""

    bootstrap: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Resamples for standard errors that lm-eval resamples for, in its command 100,000; 0 = none, but lambada's perplexity has one by formula."""

    log_samples: bool = False
    """Write each item, with what the model was asked and what it answered."""

    seed: int = 0
    """Not used: scores have no chance in them, and examples in prompts are chosen as lm-eval's command chooses them."""

    device: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto"
    """auto, cpu, cuda, cuda:1, mps."""

    dtype: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto"
    """Precision of the weights: auto (as stored), float32, bfloat16, float16."""

    trust_remote_code: bool = False
    """Run Python code that comes with a model. Read it first."""

    allow_pickle: bool = False
    """Load weights from pytorch_model.bin where a model has no safetensors."""

    def check(self) -> None:
        """Raise `UserError` for options that no run can have."""
        if not self.models:
            raise UserError("no MODEL was given: name at least one, a local folder or a name on the hub such as gpt2")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(
                "evaluate runs in one process: start it without torchrun; several models can be started side by side, each with its --out"
            )
        check_least(self, dict.fromkeys(("limit", "shots", "context", "stride", "bootstrap"), 0))
        if 0 < self.bootstrap < 1000:
            raise UserError(f"--bootstrap {self.bootstrap}: lm-eval resamples by the thousand: give 1000 or more, or 0")
        if self.batch_size != "auto" and (not self.batch_size.isdecimal() or int(self.batch_size) < 1):
            raise UserError(f"--batch-size {self.batch_size}: auto or a number from 1 is expected")
        choose("--dtype", self.dtype, models.DTYPES)
        models.choose_device(self.device)
        if self.data is not None and not self.data.is_dir():
            raise UserError(f"--data {self.data}: no such folder; give one that holds a folder for each benchmark")

    def names(self) -> list[str]:
        """The names in --tasks, which blanks or commas stand between."""
        given = [name for part in self.tasks for name in part.split(",") if name]
        if not given:
            raise UserError("--tasks: no name was given; give paper, small, or names of lm-eval's tasks")
        return given
