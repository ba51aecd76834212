"""The demo end to end on a tiny budget: twins share everything but the loss, files load, a stopped run goes on, wrong input is told."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import transformers

from decondense import Condensation, UserError
from decondense.studies.demo import DemoConfig, run
from decondense.studies.twins import Arm, run_arm

TINY = DemoConfig(
    steps=6, layers=2, width=32, context=32, batch_size=2, vocabulary=300, seeds=2, checkpoints=3, device="cpu"
)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "run"
    lines = []
    results = run(dataclasses.replace(TINY, out=out, formulation="koleo"), say=lines.append)
    return out, results, lines


def test_results_file(demo):
    out, results, _ = demo
    written = json.loads((out / "results.json").read_text())
    assert written == json.loads(json.dumps(results))
    assert written["kind"] == "demo"
    assert [(arm["name"], arm["seed"]) for arm in written["arms"]] == [
        (name, seed) for seed in (0, 1) for name in ("cross_entropy", "dispersion", "effective_rank", "koleo")
    ]
    for arm in written["arms"]:
        assert len(arm["mean_cosine"]) == 3
        assert arm["history"][-1]["perplexity"] == arm["perplexity"]
        assert [seen["step"] for seen in arm["history"]] == [0, 1, 2, 3, 5, 6]


def test_twins_begin_alike_and_part(demo):
    _, results, _ = demo
    of_seed = [arm for arm in results["arms"] if arm["seed"] == 0]
    assert len({arm["history"][0]["perplexity"] for arm in of_seed}) == 1
    assert len({arm["perplexity"] for arm in of_seed}) == 4
    assert len({arm["history"][0]["perplexity"] for arm in results["arms"]}) == 2


def test_models_load_and_give_the_recorded_perplexity(demo):
    out, results, _ = demo
    folder = out / "dispersion-seed1"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert len(tokenizer) == model.config.vocab_size == 300
    assert model.lm_head.weight.data_ptr() == model.transformer.wte.weight.data_ptr()
    condensation = Condensation.load(folder / "condensation.npz")
    arm = next(arm for arm in results["arms"] if (arm["name"], arm["seed"]) == ("dispersion", 1))
    assert condensation.mean_cosine.tolist() == arm["mean_cosine"]
    ids = tokenizer("The import statement", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert model(ids, labels=ids).loss.isfinite()


def test_checkpoints_are_log_spaced_and_load(demo):
    out, _, _ = demo
    checkpoints = sorted(path.name for path in (out / "cross_entropy-seed0" / "checkpoints").iterdir())
    assert checkpoints == ["step-000000", "step-000002", "step-000006"]
    begin, end = (
        transformers.AutoModelForCausalLM.from_pretrained(out / "cross_entropy-seed0" / "checkpoints" / name)
        for name in ("step-000000", "step-000006")
    )
    assert not torch.equal(begin.lm_head.weight, end.lm_head.weight)


def test_pictures_table_and_verdict(demo):
    out, results, lines = demo
    for name in ("heatmaps", "perplexity", "trajectory"):
        for suffix in (".png", ".svg", ".csv"):
            assert (out / f"{name}{suffix}").stat().st_size > 100
    assert "koleo" in (out / "report.html").read_text(encoding="utf-8")
    text = "\n".join(lines)
    assert results["verdict"] in text
    assert "difference (paired)" in text
    assert not [path for path in out.rglob("*") if ".part" in path.name or path.name == "state.pt"]


def test_the_same_command_reads_what_is_finished(demo):
    out, results, _ = demo
    began = time.perf_counter()
    again = run(dataclasses.replace(TINY, out=out, formulation="koleo"), say=lambda line: None)
    assert again["arms"] == results["arms"]
    assert time.perf_counter() - began < 60


def test_a_folder_of_another_run_is_refused(demo):
    out, _, _ = demo
    with pytest.raises(
        UserError, match=r"holds another run \(formulation 'koleo' there, None now; steps 6 there, 7 now\)"
    ):
        run(dataclasses.replace(TINY, out=out, steps=7))


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and holds no run"):
        run(dataclasses.replace(TINY, out=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "--steps 0: must be at least 1"),
        ({"seeds": 0}, "--seeds 0"),
        ({"weight": -1.0}, r"--weight -1.0: expected a number above 0"),
        ({"width": 33}, "--width 33: expected a multiple of 32"),
        ({"formulation": "dispertion"}, "did you mean 'dispersion'"),
        ({"formulation": "dispersion"}, "has an arm already"),
        ({"device": "tpu"}, "device 'tpu' is not known"),
        ({"vocabulary": 10}, "--vocabulary 10"),
    ],
)
def test_wrong_settings_write_nothing(tmp_path, change, message):
    out = tmp_path / "run"
    with pytest.raises(UserError, match=message):
        run(dataclasses.replace(TINY, out=out, **change))
    assert not out.exists()


def test_a_killed_arm_goes_on_to_the_same_result(tmp_path):
    settings = dataclasses.replace(TINY, steps=210).settings()
    arm = Arm("dispersion", "dispersion", 1.0, 0)
    whole = run_arm((tmp_path / "whole", settings, arm), lambda step: None)

    def stop(step):
        if step == 150:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_arm((tmp_path / "parts", settings, arm), stop)
    first = []
    resumed = run_arm((tmp_path / "parts", settings, arm), first.append)
    assert first[0] == 101  # from the state saved at step 100
    assert {**whole, "seconds": 0} == {**resumed, "seconds": 0}


def ends_within(group, seconds):
    """Whether no process of a group is left after a while."""
    for _ in range(10 * seconds):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_an_interrupt_leaves_no_broken_file_and_no_process(tmp_path):
    out = tmp_path / "run"
    options = "steps=100000, layers=1, width=32, context=32, vocabulary=300, device='cpu'"
    path = tmp_path / "script.py"
    path.write_text(
        "import signal\n"
        "from pathlib import Path\n"
        "from decondense.studies.demo import DemoConfig, run\n"
        "if __name__ == '__main__':\n"
        # A job in the background of a shell has its interrupts ignored, and hands that on.
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"    run(DemoConfig(out=Path({str(out)!r}), {options}))\n"
    )
    process = subprocess.Popen([sys.executable, str(path)], stderr=subprocess.PIPE, start_new_session=True, text=True)
    try:
        for _ in range(600):
            if list(out.glob("*/state.pt")):
                break
            time.sleep(0.1)
        else:
            pytest.fail("no state was saved within a minute")
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode not in (0, None)
        assert ends_within(process.pid, seconds=20)
    finally:
        if not ends_within(process.pid, seconds=1):
            os.killpg(process.pid, signal.SIGKILL)
    assert not [found for found in out.rglob("*") if ".part" in found.name]
    assert not (out / "results.json").exists()
    state = torch.load(next(out.glob("*/state.pt")), weights_only=True)
    assert state["step"] % 100 == 0
