"""`decondense evaluate` from the command line: what it writes, what it says of bad input and of absent data, and how it goes on."""

import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

from outcomes import refusal, results
from saved import POSITIONS, save_tiny_model
from small_benchmarks import write_benchmarks

from decondense import models
from decondense.cli import main
from decondense.commands import evaluate as command
from decondense.evaluate.held_out_documents import open_held_out
from decondense.evaluate.perplexity import by_window

TASKS = ["blimp", "lambada_openai", "piqa", "perplexity:wikitext"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmarks(tmp_path_factory.mktemp("benchmarks"))


def words(model: Path, folder: Path, out: Path, *more: str, tasks: list[str] = TASKS) -> list[str]:
    return ["evaluate", str(model), "--data", str(folder), "--out", str(out), "--tasks", *tasks, *more]


def fail(capsys: pytest.CaptureFixture[str], *given: str | Path) -> str:
    return refusal(capsys, "evaluate", *given)


def test_it_writes_a_table_results_and_samples(
    tiny: Path, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tiny, folder, tmp_path / "out", "--log-samples")) == 0
    printed = capfd.readouterr()
    assert printed.err == ""
    assert "blimp (2 of 67)" in printed.out and "blimp_wh_island" not in printed.out
    assert "note: blimp: 2 of its 67 tasks are there; the mean is over these, and is not that of blimp" in printed.out

    content = results(tmp_path / "out")
    assert content["kind"] == "evaluation"
    assert content[
        "command"
    ] == f"decondense {shlex.join(words(tiny, folder, tmp_path / 'out', '--log-samples'))}".replace(
        f"--data {folder} --out {tmp_path / 'out'} --tasks {' '.join(TASKS)}",
        f"--out {tmp_path / 'out'} --tasks {' '.join(TASKS)} --data {folder}",
    )
    assert set(content["absent"]) > {"blimp_causative"} and len(content["absent"]) == 65
    [entry] = content["models"]
    assert (entry["model"], entry["arm"], entry["seed"]) == (str(tiny), None, None)
    tasks = entry["tasks"]
    assert set(tasks) == {
        "blimp (2 of 67)",
        "blimp_wh_island",
        "blimp_adjunct_island",
        "lambada_openai",
        "piqa",
        "perplexity:wikitext",
    }
    assert (tasks["piqa"]["version"], tasks["piqa"]["samples"], tasks["piqa"]["shots"]) == (1.0, 6, 0)
    assert set(tasks["piqa"]["metrics"]) == {"acc", "acc_norm"}
    assert set(tasks["lambada_openai"]["metrics"]["perplexity"]) == {"value", "stderr"}

    loaded = models.load(str(tiny))
    expected = by_window(*loaded, open_held_out("wikitext", folder).documents)
    assert tasks["perplexity:wikitext"]["metrics"]["perplexity"]["value"] == pytest.approx(expected.value, rel=1e-6)
    assert (tasks["perplexity:wikitext"]["context"], tasks["perplexity:wikitext"]["bytes"]) == (
        POSITIONS,
        expected.bytes,
    )

    samples = [json.loads(line) for line in (tmp_path / "out" / entry["samples_file"]).read_text().splitlines()]
    counted = {task: sum(sample["task"] == task for sample in samples) for task in tasks}
    assert counted == {name: 0 if "tasks" in task else task["samples"] for name, task in tasks.items()}
    right = [sample["acc"] for sample in samples if sample["task"] == "piqa"]
    assert sum(right) / len(right) == tasks["piqa"]["metrics"]["acc"]["value"]
    nats = [sample["nats"] for sample in samples if sample["task"] == "perplexity:wikitext"]
    document = tasks["perplexity:wikitext"]["metrics"]["perplexity/document"]["value"]
    tokens = sum(sample["tokens"] for sample in samples if sample["task"] == "perplexity:wikitext")
    assert math.exp(math.fsum(nats) / tokens) == pytest.approx(document, rel=1e-9)


def test_what_is_finished_is_not_run_again(
    tiny: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    run_one = command._run_one

    def spy(config: Any, plan: Any, scorer: Any, name: str) -> Any:
        ran.append(name)
        return run_one(config, plan, scorer, name)

    monkeypatch.setattr(command, "_run_one", spy)
    out = tmp_path / "out"
    assert main(words(tiny, folder, out, tasks=["piqa"])) == 0
    first = results(out)["models"]
    assert main(words(tiny, folder, out, tasks=["piqa"])) == 0
    assert ran == ["piqa"]
    assert results(out)["models"] == first
    assert main(words(tiny, folder, out, tasks=["piqa", "lambada_openai"])) == 0
    assert ran == ["piqa", "lambada_openai"]
    assert main(words(tiny, folder, out, "--limit", "3", tasks=["piqa"])) == 0
    assert main(words(tiny, folder, out, "--shots", "2", tasks=["piqa"])) == 0
    assert ran == ["piqa", "lambada_openai", "piqa", "piqa"]
    assert results(out)["models"][0]["tasks"]["piqa"]["shots"] == 2


def test_a_killed_run_goes_on_after_its_last_task(tiny: Path, folder: Path, tmp_path: Path) -> None:
    given = words(tiny, folder, tmp_path / "out", "--batch-size", "4", "--log-samples")
    program = f"""
import sys, time
from decondense.commands import evaluate
from decondense.cli import main
run_one = evaluate._run_one
def slow(config, plan, scorer, name):
    if name == "piqa":
        print("reached", flush=True)
        time.sleep(60)
    return run_one(config, plan, scorer, name)
evaluate._run_one = slow
main({given!r})
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=os.environ) as process:
        assert process.stdout is not None and process.stdout.readline().strip() == b"reached"
        process.send_signal(signal.SIGKILL)
    state = tmp_path / "out" / "tasks" / "tiny"
    kept = {path.name: path.stat().st_mtime_ns for path in state.glob("*.json")}
    assert sorted(kept) == ["blimp_adjunct_island.json", "blimp_wh_island.json", "lambada_openai.json"]
    assert set(results(tmp_path / "out")["models"][0]["tasks"]) == {
        "blimp (2 of 67)",
        "blimp_adjunct_island",
        "blimp_wh_island",
        "lambada_openai",
    }
    time.sleep(0.01)
    assert main(given) == 0
    assert {path.name: path.stat().st_mtime_ns for path in state.glob("*.json") if path.name in kept} == kept
    assert main(words(tiny, folder, tmp_path / "whole", "--batch-size", "4", "--log-samples")) == 0
    assert results(tmp_path / "out")["models"] == results(tmp_path / "whole")["models"]


def test_absent_data_is_told_and_all_the_rest_is_done(
    tiny: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(words(tiny, folder, out, tasks=["hellaswag", "piqa", "perplexity:imdb"])) == 2
    printed = capsys.readouterr()
    assert "piqa" in printed.out
    [line] = printed.err.splitlines()
    assert line.startswith(
        f"decondense: error: --tasks hellaswag, perplexity:imdb: no data, not evaluated: {folder} has no folder hellaswag"
    )
    assert set(results(out)["absent"]) == {"hellaswag", "perplexity:imdb"}
    assert set(results(out)["models"][0]["tasks"]) == {"piqa"}


def test_several_models_stand_side_by_side_and_runs_tell_their_arm(
    tiny: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    for seed in (0, 1):
        one = save_tiny_model(run / f"dispersion-seed{seed}")
        (one / "results.json").write_text(json.dumps({"kind": "training", "arm": "dispersion", "seed": seed}))
    assert (
        main(
            [
                "evaluate",
                str(tiny),
                str(run),
                "--data",
                str(folder),
                "--tasks",
                "arc_easy",
                "--shots",
                "1",
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "dispersion-seed0" in printed and "dispersion-seed1" in printed
    assert printed.count("0-shot in place of 1-shot") == 1
    entries = results(tmp_path / "out")["models"]
    assert [(entry["arm"], entry["seed"]) for entry in entries] == [(None, None), ("dispersion", 0), ("dispersion", 1)]
    assert [entry["tasks"]["arc_easy"]["metrics"] for entry in entries[1:]] == [
        entries[0]["tasks"]["arc_easy"]["metrics"]
    ] * 2


def test_prompts_that_the_model_cannot_hold_are_counted(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_benchmarks(tmp_path / "benchmarks")
    long = json.dumps({"text": "the dog " * 100 + "sleeps"})
    (folder / "lambada_openai" / "test.jsonl").write_text(f'{{"text": "the dog sleeps"}}\n{long}\n')
    assert main(words(tiny, folder, tmp_path / "out", tasks=["lambada_openai"])) == 0
    assert (
        "tiny on lambada_openai: 1 of 2 prompts are longer than its context and lost their beginning"
        in capsys.readouterr().out
    )
    assert results(tmp_path / "out")["models"][0]["tasks"]["lambada_openai"]["truncated"] == 1


def test_a_task_that_a_model_cannot_do_is_told_and_the_others_are_done(
    tiny: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = words(
        tiny, folder, tmp_path / "out", "--context", str(POSITIONS + 1), tasks=["perplexity:wikitext", "piqa"]
    )
    assert main(given) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(
        f"decondense: error: tiny: context={POSITIONS + 1}: a window has from 1 to {POSITIONS} tokens"
    )
    assert printed.err.endswith("; all others are done\n")
    [entry] = results(tmp_path / "out")["models"]
    assert set(entry["failed"]) == {"perplexity:wikitext"} and set(entry["tasks"]) == {"piqa"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--limit", "-1"], "--limit -1: must be at least 0"),
        (["--batch-size", "many"], "--batch-size many: auto or a number from 1"),
        (["--bootstrap", "10"], "lm-eval resamples by the thousand"),
        (["--dtype", "float33"], "--dtype 'float33' is not known"),
        (["--data", "nowhere"], "--data nowhere: no such folder"),
        (["--tasks", "perplexity:wikitex"], "did you mean 'wikitext'"),
        (["--tasks", ","], "--tasks: no name was given"),
    ],
)
def test_a_wrong_option_is_one_line(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert message in fail(capsys, tiny, "--out", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_a_wrong_model_is_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such folder" in fail(capsys, "./nothing", "--data", folder, "--tasks", "piqa", "--out", tmp_path / "out")
    assert "no MODEL was given" in fail(capsys, "--data", folder)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    assert "is a run without a finished model" in fail(capsys, tmp_path / "run", "--data", folder, "--tasks", "piqa")


def test_a_broken_benchmark_is_named_before_anything_runs(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_benchmarks(tmp_path / "benchmarks")
    file = folder / "piqa" / "valid.jsonl"
    file.write_text(file.read_text() + "{broken\n")
    assert f"{file} line 7 is not JSON" in fail(capsys, *words(tiny, folder, tmp_path / "out")[1:])
    assert not (tmp_path / "out").exists()


def test_help_costs_no_lm_eval() -> None:
    program = (
        "import sys\nfrom decondense.cli import main\nmain(['evaluate', '--help'])\nprint('lm_eval' in sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.splitlines()[-1] == "False"
