"""`python benchmarks/evaluate.py MODEL --data DIR`: `decondense evaluate` beside lm-eval alone, score by score and in time.

Both run the same tasks on the same files, each in a process of its own, in turn, round after round. lm-eval loads the model and the data itself: its
own task files with the path of the rows exchanged. What is claimed are ratios, of processor time where others use the machine. Scores are then
compared at one batch size, task by task, digit by digit. Writes results/evaluate-lm-eval.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from decondense.evaluate.benchmarks.local import read_splits
from decondense.files import write_json
from decondense.report.tables import Column, Table
from decondense.studies.provenance import provenance

# lm-eval's file, the data set on the hub, its configuration, and the split that is evaluated.
TASKS = {
    "lambada_openai": ("lambada/lambada_openai.yaml", "EleutherAI/lambada_openai", "default", "test"),
    "piqa": ("piqa/piqa.yaml", "baber/piqa", None, "validation"),
    "arc_easy": ("arc/arc_easy.yaml", "allenai/ai2_arc", "ARC-Easy", "test"),
    "openbookqa": ("openbookqa/openbookqa.yaml", "allenai/openbookqa", "main", "test"),
    "winogrande": ("winogrande/default.yaml", "allenai/winogrande", "winogrande_xl", "validation"),
    "truthfulqa_mc2": ("truthfulqa/truthfulqa_mc2.yaml", "truthfulqa/truthful_qa", "multiple_choice", "validation"),
}
BATCH_SIZES = ("1", "auto", "16")
# Standard errors by resampling: as few as lm-eval can, or it would spend most of its time on them.
RESAMPLES = 1000

LM_EVAL = """
import json, sys
import lm_eval
from lm_eval.tasks import TaskManager
from lm_eval.models.huggingface import HFLM
model, folder, tasks, size, limit, together, out = json.loads(sys.argv[1])
manager = TaskManager(include_path=folder, include_defaults=False)
size = size if size.startswith("auto") else int(size)
loaded = HFLM(model, device="cpu", batch_size=size)
results = {}
for some in [tasks] if together else [[task] for task in tasks]:
    found = lm_eval.simple_evaluate(loaded, tasks=some, task_manager=manager, batch_size=size, limit=limit, bootstrap_iters=%d, log_samples=False)
    results.update(found["results"])
json.dump(results, open(out, "w"))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True, help="folder of benchmarks")
    parser.add_argument("--tasks", nargs="*", help="names; by default all whose data is there")
    parser.add_argument("--limit", type=int, default=0, help="items of each task; 0 = all")
    parser.add_argument("--rounds", type=int, default=3, help="of timing; 0 = compare scores alone")
    parser.add_argument("--out", type=Path, default=Path("results/evaluate-lm-eval.json"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tasks = write_tasks(given.data, Path(folder), given.tasks)
        scores = compare(given, tasks, Path(folder))
        times = measure(given, tasks, Path(folder))
    command = f"python benchmarks/evaluate.py {Path(given.model).name} --data DIR --limit {given.limit} --rounds {given.rounds}"
    command += f" --tasks {' '.join(given.tasks)}" if given.tasks else ""
    write_json(
        given.out,
        {
            "command": command,
            "provenance": provenance(),
            "lm_eval": _version(),
            "limit": given.limit,
            "scores": scores,
            "times": times,
        },
    )
    print(
        Table(
            ["task", "metric", "lm-eval", "decondense", "equal"],
            [[str(cell) for cell in row.values()] for row in scores],
        ).plain()
    )
    if times:
        columns: list[Column | str] = [
            "what",
            "batch size",
            Column("processor seconds", ".1f"),
            Column("wall seconds", ".1f"),
            Column("of ours", ".2f"),
        ]
        print(Table(columns, [list(row.values()) for row in times]).plain())
    print(f"wrote {given.out}")
    sys.exit(0 if all(row["equal"] for row in scores) else 1)


def write_tasks(data: Path, folder: Path, names: list[str] | None) -> list[str]:
    """lm-eval's tasks over local rows: those named, else TASKS and each paradigm of BLiMP that is there."""
    import lm_eval.tasks

    paradigms = sorted(file.name.split(".")[0] for file in (data / "blimp").glob("*.jsonl*"))
    blimp = {f"blimp_{name}": (f"blimp/{name}.yaml", "nyu-mll/blimp", name, "train") for name in paradigms}
    root = Path(lm_eval.tasks.__file__).parent
    known = {**blimp, **TASKS}
    for task in names or known:
        file, path, name, split = known[task]
        rows = read_splits(data, path, name, task)[split]
        (folder / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        own = {
            "include": str(root / file),
            "task": task,
            "tag": None,
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {
                "data_files": {split: str(folder / f"{task}.jsonl")},
                "cache_dir": str(folder / "cache"),
            },
            **{f"{kind}_split": None for kind in ("training", "validation", "test")},
            ("test_split" if split == "test" else "validation_split"): split,
        }
        (folder / f"{task}.yaml").write_text(json.dumps(own))
    return list(names or known)


def lm_evals_own(
    given: argparse.Namespace, tasks: list[str], folder: Path, size: str, together: bool
) -> dict[str, Any]:
    """Scores as lm-eval gives them, all tasks in one call or one by one."""
    out = folder / "lm_eval.json"
    arguments = [given.model, str(folder), tasks, size, given.limit or None, together, str(out)]
    _run([sys.executable, "-c", LM_EVAL % RESAMPLES, json.dumps(arguments)])
    return dict(json.loads(out.read_text()))


def ours(given: argparse.Namespace, tasks: list[str], folder: Path, size: str) -> dict[str, Any]:
    """Scores as `decondense evaluate` gives them."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        command = [
            sys.executable,
            "-m",
            "decondense",
            "evaluate",
            given.model,
            "--data",
            str(given.data),
            "--out",
            f"{out}/run",
            "--tasks",
            *tasks,
        ]
        _run([*command, "--limit", str(given.limit), "--batch-size", size, "--bootstrap", str(RESAMPLES)])
        [model] = json.loads(Path(out, "run", "results.json").read_text())["models"]
        return dict(model["tasks"])


def compare(given: argparse.Namespace, tasks: list[str], folder: Path) -> list[dict[str, Any]]:
    """A row for each score."""
    theirs, here = lm_evals_own(given, tasks, folder, "16", together=False), ours(given, tasks, folder, "16")
    rows = []
    for task in tasks:
        for metric, scores in here[task]["metrics"].items():
            one = {"value": theirs[task][f"{metric},none"], "stderr": theirs[task][f"{metric}_stderr,none"]}
            rows.append(
                {
                    "task": task,
                    "metric": metric,
                    "lm_eval": one["value"],
                    "decondense": scores["value"],
                    "equal": one == scores,
                }
            )
    return rows


def measure(given: argparse.Namespace, tasks: list[str], folder: Path) -> list[dict[str, Any]]:
    """A row for each contender: the median of its processor and wall seconds, and the former over ours."""
    taken: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(given.rounds):
        taken.setdefault(("decondense", "auto"), []).append(_timed(lambda: ours(given, tasks, folder, "auto")))
        for size in BATCH_SIZES:
            taken.setdefault(("lm-eval", size), []).append(
                _timed(lambda size=size: lm_evals_own(given, tasks, folder, size, together=True))
            )
    medians = {
        key: [statistics.median(column) for column in zip(*values, strict=True)] for key, values in taken.items()
    }
    return [
        {
            "what": what,
            "batch_size": size,
            "processor_seconds": spent,
            "wall_seconds": wall,
            "of_ours": spent / medians["decondense", "auto"][0],
        }
        for (what, size), (spent, wall) in medians.items()
    ]


def _timed(call: Any) -> tuple[float, float]:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    call()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.perf_counter() - start


def _run(command: list[str]) -> None:
    finished = subprocess.run(
        command, env={**os.environ, "HF_HUB_OFFLINE": "1", "DISABLE_MULTIPROC": "1"}, capture_output=True, text=True
    )
    if finished.returncode:
        sys.exit(f"{' '.join(command[:6])} ...\n{finished.stderr}")


def _version() -> str:
    import lm_eval

    return str(lm_eval.__version__)


if __name__ == "__main__":
    main()
