"""Results files of made-up runs, as the commands write them. Knows no statistic."""

import json
from pathlib import Path

CONFIG = {"learning_rate": 0.002, "context": 32, "layers": "all"}


def training(folder: Path, arm: str, seed: int, perplexity: float | None, **config: object) -> dict[str, object]:
    """Write what `decondense train` writes of one run, and return it."""
    content = {
        "kind": "training",
        "config": {**CONFIG, **config, "arm": arm, "weight": 0.0 if arm == "cross_entropy" else 0.1, "seed": seed},
        "arm": arm,
        "seed": seed,
        "steps": 10,
        "texts_digest": "abc",
        "perplexity": perplexity,
        "bits_per_byte": 2.0 if perplexity is None else perplexity / 50,
        "mean_cosine": [0.0, 0.2, 0.4],
    }
    write(folder, content)
    return content


def evaluation(folder: Path, arm: str, seed: int, tasks: dict[str, list[float]], **of_task: object) -> None:
    """Write what `decondense evaluate` writes of one model, its samples beside: the items of each task by `acc`."""
    entries = {
        task: {
            "version": 1.0,
            "samples": len(items),
            "shots": 0,
            "metrics": {"acc": {"value": sum(items) / len(items), "stderr": 0.1}},
            **of_task,
        }
        for task, items in tasks.items()
    }
    model = {
        "model": f"runs/{arm}-seed{seed}",
        "arm": arm,
        "seed": seed,
        "samples_file": "samples.jsonl",
        "tasks": entries,
    }
    write(folder, {"kind": "evaluation", "config": {"limit": None}, "models": [model]})
    lines = [
        json.dumps({"task": task, "doc_id": place, "filter": "none", "metrics": ["acc"], "acc": item})
        for task, items in tasks.items()
        for place, item in enumerate(items)
    ]
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")


def write(folder: Path, content: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(content))
