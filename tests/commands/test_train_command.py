"""`decondense train` from the command line: what it writes, how it goes on after a kill, what it says of bad input."""

import json
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import transformers
from outcomes import contents, launch, refusal, results
from saved import save_tiny_model

from decondense import Condensation
from decondense.cli import main
from decondense.evaluate.window_loss import evaluate_windows
from decondense.train import loop, saving
from decondense.train import run as room
from decondense.train.monitor import CollapseWarning

SMALL = [
    "--override",
    "n_layer=2",
    "n_embd=32",
    "n_head=2",
    "--context",
    "32",
    "--batch-size",
    "4",
    "--vocabulary",
    "300",
]
SHORT = [*SMALL, "--steps", "6", "--evaluate-every", "3", "--evaluation-windows", "20", "--device", "cpu"]
FILES = ["condensation.npz", "config.json", "model.safetensors", "results.json", "run.json", "tokenizer.json"]


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """A hundred small stories, as records."""
    path = tmp_path_factory.mktemp("texts") / "stories.jsonl"
    subjects, verbs = ("the fox", "a dog", "my bird", "one cat"), ("sees", "hears", "likes", "follows")
    stories = [
        " ".join(f"{subjects[(n * k) % 4]} {verbs[(n + k) % 4]} {subjects[(n + 3 * k) % 4]} {n}." for k in range(12))
        for n in range(100)
    ]
    path.write_text("\n".join(json.dumps({"text": story}) for story in stories))
    return path


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def words(texts, cache, tmp_path):
    """A command with its first options; what it is given more comes after, and wins."""
    return ["train", *SHORT, "--texts", str(texts), "--cache", str(cache), "--out", str(tmp_path / "out")]


def told_alike(one, other):
    """Results of two runs without what may differ: how long they took, and where they lie."""

    def numbers(content):
        return {name: value for name, value in content.items() if name not in ("seconds", "provenance", "folder")}

    return numbers(one) == numbers(other)


def fail(capsys, words):
    return refusal(capsys, *words, alone=False)


def test_a_run_leaves_a_model_that_loads_and_gives_the_recorded_numbers(words, tmp_path, capsys):
    assert main(words) == 0
    printed = capsys.readouterr()
    out = tmp_path / "out"
    assert set(FILES) <= set(contents(out))
    assert not [name for name in contents(out) if "state" in name or ".part" in name]
    found = results(out)
    assert found["kind"] == "training"
    assert (found["arm"], found["seed"], found["steps"], found["tokens"]) == ("dispersion", 0, 6, 6 * 4 * 32)
    assert len(found["mean_cosine"]) == 3
    assert found["commit"] == found["provenance"]["commit"]
    assert [entry["step"] for entry in found["history"]] == [0, 3, 6]
    assert list(found["history"][1]["training"]) == [
        "cross entropy", "weighted dispersion", "learning_rate", "gradient_norm",
    ]  # fmt: skip
    assert found["history"][-1]["perplexity"] == found["perplexity"] < found["history"][0]["perplexity"]
    assert Condensation.load(out / "condensation.npz").mean_cosine.tolist() == found["mean_cosine"]

    assert printed.err == ""
    assert printed.out.splitlines()[0].startswith("dispersion-seed0: step 0: perplexity")
    assert f"{found['perplexity']:.2f}" in printed.out.splitlines()[-2]

    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert model.config.use_cache
    assert found["parameters"] == model.num_parameters()
    # A window of held-out text, tokenised with the tokenizer that was saved.
    assert len(tokenizer) == model.config.vocab_size == 300
    ids = tokenizer("the fox sees a dog. " * 9, return_tensors="pt")["input_ids"][:, :32]
    assert evaluate_windows(model, ids, "mean_cosine", "saved").perplexity < found["history"][0]["perplexity"]


def test_the_same_command_reads_what_is_finished(words, tmp_path, monkeypatch):
    assert main(words) == 0
    before = (tmp_path / "out" / "results.json").read_bytes()
    monkeypatch.setattr(room, "train", None)
    assert main(words) == 0
    assert (tmp_path / "out" / "results.json").read_bytes() == before


KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from decondense.cli import main
from decondense.train import {module} as room
left = int(sys.argv[1])
original = room.{name}
def counted(*given, **more):
    global left
    left -= 1
    if not left:
        {before}
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*given, **more)
room.{name} = counted
sys.exit(main(sys.argv[2:]))
"""
# Where a kill comes: as tokens are written, in the middle of a step, while a state is written, and while the model is.
PLACES = {
    "tokens": ("data", "_array", 5, "pass"),
    "step": ("loop", "_check", 8, "pass"),
    "state": ("saving", "replace_file", 2, "given[0].with_name('.state.0a.part.pt').write_text('half')"),
    "results": ("run", "save_model", 1, "pass"),
}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill so")
@pytest.mark.parametrize("place", PLACES)
def test_a_killed_run_goes_on_and_ends_with_the_same_bits(place, words, tmp_path):
    module, name, count, before = PLACES[place]
    # Dropout, random pairs and noise must all be the same after the kill.
    more = ["--steps", "10", "--save-every", "3", "--pairs", "partition:8", "--noisy-embedding", "5"]
    more += ["--formulation", "dispersion", "--weight", "1", "--cache", str(tmp_path / "cache"), "--micro-batch", "3"]
    more += ["--override", "n_layer=2", "n_embd=32", "n_head=2", "resid_pdrop=0.3", "embd_pdrop=0.1"]
    program = KILLED.format(module=module, name=name, before=before)
    killed = subprocess.run(
        [sys.executable, "-c", program, str(count), *words, *more], capture_output=True, text=True, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert not (out / "results.json").exists()
    assert (out / "state.pt").exists() == (place != "tokens")
    assert main([*words, *more]) == 0
    assert main([*words, *more, "--out", str(whole)]) == 0
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert told_alike(results(out), results(whole))
    assert contents(out) == contents(whole)


STEERED = ["--weight-schedule", "adaptive:0.02", "--layers", "condensed:0.05", "--monitor-every", "2", "--weight", "1"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill so")
def test_a_killed_run_is_steered_on_to_the_same_bits(words, tmp_path):
    more = ["--steps", "10", "--save-every", "4", "--pairs", "partition:8", *STEERED]
    program = KILLED.format(module="loop", name="_check", before="pass")
    killed = subprocess.run(
        [sys.executable, "-c", program, "8", *words, *more], capture_output=True, text=True, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert (out / "state.pt").exists()
    assert main([*words, *more]) == 0
    assert main([*words, *more, "--out", str(whole)]) == 0
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert told_alike(results(out), results(whole))
    assert results(out)["monitor"]["steps"] == [1, 2, 4, 6, 8, 10]


def test_what_is_observed_is_told_drawn_and_followed(words, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main([*words, *STEERED, "--report-to", "tensorboard"]) == 0
    out = tmp_path / "out"
    found = results(out)
    assert found["monitor"]["steps"] == [1, 2, 4, 6]
    assert [len(means) for means in found["monitor"]["mean_cosine"]] == [3] * 4
    assert (out / "mean_cosine.png").is_file()
    assert found["config"]["schedule"] == "adaptive:0.02"
    weights = [entry["training"]["weight"] for entry in found["history"][1:]]
    assert len(set(weights)) == 2
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    seen = events.Scalars("train/mean_cosine/layer_02")
    assert [event.step for event in seen] == found["monitor"]["steps"]
    # TensorBoard holds float32.
    assert [event.value for event in seen] == pytest.approx(
        [means[2] for means in found["monitor"]["mean_cosine"]], abs=1e-6
    )
    assert len(events.Scalars("train/weight")) == 6
    assert events.Tags()["images"] == ["train/mean_cosine"]


def test_observing_works_without_a_loss_warns_and_changes_no_bit(words, tmp_path, capsys):
    plain = ["--formulation", "cross_entropy"]
    with warnings.catch_warnings():
        warnings.simplefilter("always", CollapseWarning)
        assert main([*words, *plain, "--monitor-every", "1"]) == 0
    assert "decondense: warning: step 5: the hidden states of layer 2 condense" in capsys.readouterr().err
    assert main([*words, *plain, "--out", str(tmp_path / "plain")]) == 0
    one, other = tmp_path / "out", tmp_path / "plain"
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert set(contents(one)) - set(contents(other)) == {"mean_cosine.png"}
    assert "monitor" not in results(other)


def test_the_share_of_the_gradient_is_held(words, tmp_path):
    # The first observation replaces the weight that was given.
    assert main([*words, "--weight-schedule", "gradient_share:0.5", "--monitor-every", "1", "--micro-batch", "2"]) == 0
    weight = results(tmp_path / "out")["history"][-1]["training"]["weight"]
    assert weight > 0.2


def test_a_run_that_goes_on_does_so_from_its_last_state(words, tmp_path, monkeypatch):
    steps = []

    def stop(numbers, norm, step, kept, check=loop._check):
        steps.append(step)
        if len(steps) == 6:
            raise KeyboardInterrupt
        check(numbers, norm, step, kept)

    monkeypatch.setattr(loop, "_check", stop)
    assert main([*words, "--save-every", "2"]) == 130
    assert torch.load(tmp_path / "out" / "state.pt", weights_only=True)["step"] == 4
    assert main([*words, "--save-every", "2"]) == 0
    assert steps == [0, 1, 2, 3, 4, 5, 4, 5]


def test_arms_and_seeds_are_a_folder_each_and_begin_alike(words, tmp_path, capsys):
    named = ["cross_entropy", "koleo=0.3", "noisy_embedding", "active_forgetting=2"]
    assert main([*words, "--arms", *named, "--seeds", "2"]) == 0
    folders = [f"{name.replace('=', '-')}-seed{seed}" for seed in (0, 1) for name in named]
    out = tmp_path / "out"
    assert contents(out) == sorted([*folders, "results.json", "run.json"])
    together = results(out)
    assert together["kind"] == "trainings"
    assert [Path(entry["folder"]).name for entry in together["runs"]] == folders
    alone = [results(out / folder) for folder in folders]
    assert all(told_alike(one, other) for one, other in zip(together["runs"], alone, strict=True))
    begun = [[entry["history"][0]["perplexity"] for entry in alone if entry["seed"] == seed] for seed in (0, 1)]
    assert [len(set(perplexities)) for perplexities in begun] == [1, 1]
    assert begun[0] != begun[1]
    assert len({entry["perplexity"] for entry in alone}) == 8
    assert list(alone[0]["history"][1]["training"]) == ["cross entropy", "learning_rate", "gradient_norm"]
    assert "one matrix: what is forgotten is the head too" in capsys.readouterr().out
    # More seeds are added to those that are there, and an arm alone is one of them.
    before = {folder: (out / folder / "results.json").stat().st_mtime_ns for folder in folders}
    assert main([*words, "--arms", *named, "--seeds", "3"]) == 0
    assert before == {folder: (out / folder / "results.json").stat().st_mtime_ns for folder in folders}
    assert len(results(out)["runs"]) == 12


def test_noise_alone_is_plain_cross_entropy_with_noise(words, tmp_path):
    assert main([*words, "--noisy-embedding", "5"]) == 0
    found = results(tmp_path / "out")
    assert found["arm"] == "noisy_embedding"
    assert found["config"]["formulation"] is None
    assert found["config"]["noise"] == 5.0


@pytest.mark.parametrize("more", [["--gradient-checkpointing"], ["--micro-batch", "1"]])
def test_saving_memory_changes_nothing(more, words, tmp_path):
    assert main([*words, "--out", str(tmp_path / "plain")]) == 0
    assert main([*words, *more]) == 0
    one, other = results(tmp_path / "out"), results(tmp_path / "plain")
    # Sums in another order, and Adam's first steps enlarge what that changes.
    assert one["perplexity"] == pytest.approx(other["perplexity"], rel=1e-3)
    assert one["mean_cosine"] == pytest.approx(other["mean_cosine"], abs=1e-3)


def test_mid_training_with_adapters(texts, cache, tmp_path):
    model = save_tiny_model(tmp_path / "tiny")
    words = ["train", "--init", str(model), "--texts", str(texts), "--cache", str(cache), "--device", "cpu"]
    more = [
        "--steps",
        "4",
        "--learning-rate",
        "0.01",
        "--lora",
        "--evaluation-windows",
        "9",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*words, *more]) == 0
    found = results(tmp_path / "out")
    assert found["config"]["context"] == 64  # what the model can take
    assert found["perplexity"] < found["history"][0]["perplexity"]
    before, after = (transformers.AutoModelForCausalLM.from_pretrained(folder) for folder in (model, tmp_path / "out"))
    changed = {
        name for name, parameter in after.named_parameters() if not torch.equal(parameter, before.get_parameter(name))
    }
    assert changed == {
        f"transformer.h.{block}.{part}.weight"
        for block in (0, 1)
        for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }


def test_a_real_model_is_trained_on(stories260K, data, cache, tmp_path):
    text = data / "texts" / "tinystories" / "tinystories_val_794k.txt"
    words = ["train", "--init", str(stories260K), "--texts", str(text), "--cache", str(cache), "--device", "cpu"]
    more = ["--steps", "3", "--context", "128", "--evaluation-windows", "40", "--out", str(tmp_path / "out")]
    assert main([*words, *more]) == 0
    found = results(tmp_path / "out")
    # What llama2.c's author reports is a loss of about 1.3 with longer contexts.
    assert 3 < found["history"][0]["perplexity"] < 6
    assert found["perplexity"] < 1.05 * found["history"][0]["perplexity"]


# --- what goes wrong ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--weight", "nan"], "--weight nan: expected a finite number"),
        (["--layers", "7"], "layers=[7]: expected different indices from 0 to 2"),
        (["--formulation", "disperson"], "did you mean 'dispersion'"),
        (["--texts", "nowhere.txt"], "no such file or folder"),
        (["--field", "title"], "has no field 'title': its fields are text"),
        (["--context", "100000"], "tokens to train on, of 90 documents, and one window needs 100000"),
        (["--override", "n_layr=2"], "did you mean n_layer"),
        (["--init", "nobody/nothing", "--override"], "nobody/nothing"),
        (["--report-to", "trackio"], "--report-to trackio: it is not installed"),
        (["--pairs", "moments:3"], "the order of the expansion is 1 or 2"),
        (["--formulation", "koleo", "--pairs", "moments"], "koleo has no expansion in moments"),
        (["--lora", "--arms", "active_forgetting"], "these are not trained (LoRA)"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(more, message, words, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    assert message in fail(capsys, [*words, *more])
    assert not (tmp_path / "out" / "results.json").exists()
    if "--arms" not in more:
        assert not (tmp_path / "out").exists()


def test_no_text_column_names_the_columns(words, tmp_path, capsys):
    path = tmp_path / "table.csv"
    path.write_text("title,body\na,b\n")
    assert "its fields are title, body" in fail(capsys, [*words, "--texts", str(path)])


def test_a_folder_of_another_configuration_shows_what_differs(words, tmp_path, capsys):
    assert main(words) == 0
    line = fail(capsys, [*words, "--weight", "0.2", "--seed", "3"])
    assert "holds another run (seed 0 there, 3 now; weight 0.1 there, 0.2 now)" in line


def test_other_texts_are_another_configuration(words, texts, tmp_path, capsys):
    assert main(words) == 0
    other = tmp_path / "stories.jsonl"
    other.write_text("\n".join(texts.read_text().splitlines()[:-1]))
    assert "texts_digest" in fail(capsys, [*words, "--texts", str(other)])
    # The same texts elsewhere are the same, but for their name.
    other.write_text(texts.read_text())
    assert "texts_digest" not in fail(capsys, [*words, "--texts", str(other)])


def test_a_loss_that_becomes_nan_stops_the_run_and_keeps_its_state(words, tmp_path, capsys):
    line = fail(capsys, [*words, "--learning-rate", "1e20", "--save-every", "1", "--warmup", "0"])
    assert "cross entropy is nan" in line or "cross entropy is inf" in line
    assert "at step " in line
    state = tmp_path / "out" / "state.pt"
    assert f"kept in {state}" in line
    assert all(tensor.isfinite().all() for tensor in torch.load(state, weights_only=True)["model"].values())


def test_a_disk_that_fills_up_keeps_the_last_state_and_the_run_goes_on(words, tmp_path, capsys, monkeypatch):
    save, calls = torch.save, []

    def full(state, file):
        calls.append(state["step"])
        if len(calls) == 2:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        save(state, file)

    monkeypatch.setattr(saving.torch, "save", full)
    line = fail(capsys, [*words, "--save-every", "2"])
    state = tmp_path / "out" / "state.pt"
    assert f"{state}: cannot be written (No space left on device); the state after 2 steps is kept in {state}" in line
    assert contents(tmp_path / "out") == ["run.json", "state.pt"]
    assert main([*words, "--save-every", "2"]) == 0
    assert calls == [2, 4, 4]
    assert main([*words, "--save-every", "2", "--out", str(tmp_path / "whole")]) == 0
    one, other = (tmp_path / name / "model.safetensors" for name in ("out", "whole"))
    assert one.read_bytes() == other.read_bytes()


# --- several processes --------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="this build of torch has no gloo")
def test_two_processes_of_a_launcher_train_as_one(words, tmp_path):
    more = ["--save-every", "2", "--batch-size", "5", "--micro-batch", "2"]
    finished = launch(*words, *more)
    assert finished.stdout.count("wrote the model") == 1
    assert "decondense:" not in finished.stderr
    whole = tmp_path / "whole"
    assert main([*words, *more, "--out", str(whole)]) == 0
    assert contents(tmp_path / "out") == contents(whole)
    two, one = results(tmp_path / "out"), results(whole)
    for mine, other in zip(two["history"], one["history"], strict=True):
        # Sums in another order, and Adam's first steps enlarge what that changes.
        assert mine["perplexity"] == pytest.approx(other["perplexity"], rel=1e-3)
        assert mine["training"] == pytest.approx(other["training"], rel=1e-2)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill so")
def test_an_interrupt_is_told_how_to_go_on(words, tmp_path):
    # A job in the background of a shell has its interrupts ignored, and hands that on.
    program = """
import signal, sys
from decondense.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main(sys.argv[1:]))
"""
    more = ["--steps", "100000", "--save-every", "5"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *words, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        for _ in range(600):
            if (tmp_path / "out" / "state.pt").exists():
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert told.splitlines()[-1] == (
        "decondense: interrupted: the last saved state is kept, run the same command again to go on"
    )
    assert contents(tmp_path / "out") == ["run.json", "state.pt"]
