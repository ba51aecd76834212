"""Names of sets of benchmarks in, the tasks of each with their shots out; and the mean that the paper reports. Knows no task and no model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PERPLEXITY = "perplexity:"

# What the authors' scripts run, each with the examples in its prompts, at most 500 items a task.
PAPER: Mapping[str, int] = {
    "anli": 0,
    "hellaswag": 0,
    "lambada_openai": 0,
    "openbookqa": 0,
    "paloma_wikitext_103": 0,
    "piqa": 0,
    "truthfulqa_mc2": 0,
    "winogrande": 0,
    "arc_easy": 1,
    "arc_challenge": 1,
    "mmlu": 1,
    "medmcqa": 1,
}
PAPER_LIMIT = 500
# Those of them that the paper's mean score is over.
PAPER_TEN = (
    "anli_r2",
    "lambada_openai",
    "openbookqa",
    "piqa",
    "truthfulqa_mc2",
    "winogrande",
    "arc_easy",
    "arc_challenge",
    "medmcqa",
    "mmlu",
)
# Where a model of under 100 M parameters is above chance, or nearly.
SMALL = ("blimp", "lambada_openai", "perplexity:tinystories", "perplexity:wikitext", "arc_easy", "piqa")


def expand(names: list[str]) -> dict[str, int | None]:
    """Tasks by name with the examples in their prompts (None: as the task says); sets are replaced by what is in them."""
    found: dict[str, int | None] = {}
    for name in names:
        one = PAPER if name == "paper" else dict.fromkeys(SMALL) if name == "small" else {name: None}
        for task, shots in one.items():
            found.setdefault(task, shots)
    return found


def mean_of_ten(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """The mean accuracy over the paper's ten tasks; without a value, naming what is missing, where not all are there; None where none is."""
    there = [name for name in PAPER_TEN if "acc" in entries.get(name, {}).get("metrics", {})]
    if not there:
        return None
    missing = [name for name in PAPER_TEN if name not in there]
    values = [entries[name]["metrics"]["acc"]["value"] for name in there]
    return {
        "metric": "acc",
        "value": None if missing else sum(values) / len(values),
        "tasks": list(PAPER_TEN),
        "missing": missing,
    }
