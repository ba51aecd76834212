"""`decondense distill` from the command line: what it writes, how it goes on after a kill, what it says of bad input."""

import contextlib
import io
import json
import signal
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
import transformers
from outcomes import launch, refusal, results
from saved import save_tiny_model

from decondense.cli import main
from decondense.evaluate.window_loss import evaluate_windows
from decondense.texts import tokenizer as tokenizers
from decondense.train import run as room

SMALL = ["--override", "n_layer=3", "n_embd=8", "n_head=2", "--context", "32", "--batch-size", "4"]
SHORT = ["--steps", "6", "--evaluate-every", "3", "--evaluation-windows", "10", "--device", "cpu"]


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """A hundred small stories, as records."""
    path = tmp_path_factory.mktemp("texts") / "stories.jsonl"
    stories = [" ".join(f"the dog {n % 7} jumps over fox {(n * k) % 5}." for k in range(12)) for n in range(100)]
    path.write_text("\n".join(json.dumps({"text": story}) for story in stories))
    return path


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    """A teacher with twenty rows of embeddings that are no tokens."""
    folder = tmp_path_factory.mktemp("teacher")
    return save_tiny_model(folder, 320)


@pytest.fixture(scope="session")
def shared(texts, tmp_path_factory):
    return [*SHORT, "--texts", str(texts), "--cache", str(tmp_path_factory.mktemp("cache"))]


@pytest.fixture
def words(teacher, shared, tmp_path):
    """A command with its first options; what it is given more comes after, and wins."""
    return ["distill", str(teacher), "tiny", "--from-scratch", *SMALL, *shared, "--out", str(tmp_path / "out")]


def fail(capsys, words):
    return refusal(capsys, *words, alone=False)


def test_arms_of_a_distillation_and_their_teacher(words, teacher, shared, tmp_path, capsys, monkeypatch):
    arms = ["--arms", "distillation", "dispersion", "cross_entropy", "--hidden-weight", "0.5"]
    assert main([*words, *arms]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    out = tmp_path / "out"
    found = results(out)
    assert (found["kind"], [one["arm"] for one in found["runs"]]) == ("trainings", arms[1:4])
    for one in found["runs"]:
        assert one["kind"] == "training"
        assert one["perplexity"] < one["history"][0]["perplexity"]
        assert (one["config"]["alpha"], one["config"]["hidden_weight"]) == (0.5, 0.5)
    assert [list(one["history"][1]["training"])[:-2] for one in found["runs"]] == [
        ["weighted cross entropy", "weighted distillation", "weighted hidden states"],
        ["weighted cross entropy", "weighted distillation", "weighted hidden states", "weighted dispersion"],
        ["cross entropy"],
    ]
    # The student as it is without what it was taught with.
    student = transformers.AutoModelForCausalLM.from_pretrained(out / "distillation-seed0")
    assert found["runs"][0]["parameters"] == student.num_parameters()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out / "distillation-seed0")
    assert tokenizer.get_vocab() == transformers.AutoTokenizer.from_pretrained(teacher).get_vocab()
    assert student.config.vocab_size == len(tokenizer)
    # The teacher is measured on the text that the students are measured on.
    told = found["runs"][0]["teacher"]
    assert told == found["runs"][1]["teacher"]
    assert (told["model"], len(told["mean_cosine"]), len(found["runs"][0]["mean_cosine"])) == (str(teacher), 3, 4)
    header, _, first, *_ = printed.out.splitlines()[-7:]
    assert header.split()[:2] == ["arm", "seed"]
    assert first.split()[:3] == ["teacher", "-", f"{told['perplexity']:.2f}"]
    # Finished runs are read, and nobody is trained or measured again.
    monkeypatch.setattr(room, "train", None)
    assert main([*words, *arms]) == 0
    assert capsys.readouterr().out.splitlines()[-6:] == printed.out.splitlines()[-6:]


def test_the_recorded_numbers_of_the_teacher_are_its_own(words, teacher, tmp_path, monkeypatch):
    seen = []

    def evaluate(model, windows, *more, evaluate=evaluate_windows):
        seen.append(windows)
        return evaluate(model, windows, *more)

    monkeypatch.setattr("decondense.commands.distill.evaluate_windows", evaluate)
    assert main([*words, "--steps", "1"]) == 0
    [windows] = seen
    told = results(tmp_path / "out")["teacher"]
    own = evaluate_windows(transformers.AutoModelForCausalLM.from_pretrained(teacher), windows, "mean_cosine", "own")
    assert told["perplexity"] == pytest.approx(own.perplexity, rel=1e-6)
    assert told["mean_cosine"] == pytest.approx(own.condensation.mean_cosine.tolist(), abs=1e-6)


def test_without_the_teacher_it_is_decondense_train(words, teacher, shared, tmp_path):
    assert main([*words, "--arms", "cross_entropy"]) == 0
    alone = ["train", *SMALL, *shared, "--tokenizer", str(teacher), "--formulation", "cross_entropy"]
    assert main([*alone, "--out", str(tmp_path / "alone")]) == 0
    one, other = tmp_path / "out" / "cross_entropy-seed0", tmp_path / "alone"
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert results(one)["history"] == results(other)["history"]


def test_a_student_that_goes_on_from_its_weights_nears_its_teacher(teacher, shared, tmp_path):
    student = tmp_path / "student"
    model = transformers.AutoModelForCausalLM.from_pretrained(teacher)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    with contextlib.redirect_stderr(io.StringIO()):
        model.save_pretrained(student)
    transformers.AutoTokenizer.from_pretrained(teacher).save_pretrained(student)
    words = ["distill", str(teacher), str(student), *shared, "--alpha", "1", "--formulation", "distillation"]
    more = ["--steps", "12", "--evaluate-every", "4", "--learning-rate", "0.01", "--weight-decay", "0"]
    assert main([*words, *more, "--out", str(tmp_path / "out")]) == 0
    found = results(tmp_path / "out")
    assert (found["arm"], found["config"]["context"]) == ("distillation", 64)
    _, first, *_, last = [entry["training"].get("weighted distillation") for entry in found["history"]]
    assert 0 < last < 0.8 * first


KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from decondense.cli import main
from decondense.train import loop
left = 8
original = loop._check
def counted(*given):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*given)
loop._check = counted
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill so")
def test_a_killed_run_goes_on_and_ends_with_the_same_bits(words, tmp_path):
    # Dropout, random pairs and the projections must all be the same after the kill.
    more = ["--steps", "10", "--save-every", "3", "--pairs", "partition:8", "--weight", "1", "--hidden-weight", "1"]
    more += ["--override", *SMALL[1:4], "resid_pdrop=0.3", "--micro-batch", "3"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *words, *more], capture_output=True, text=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    out, whole = tmp_path / "out", tmp_path / "whole"
    state = torch.load(out / "state.pt", weights_only=True)
    assert state["step"] == 6 and "teacher_projections.weight" in state["model"]
    assert main([*words, *more]) == 0
    assert main([*words, *more, "--out", str(whole)]) == 0
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert results(out)["history"] == results(whole)["history"]
    assert results(out)["teacher"] == results(whole)["teacher"]
    assert not (out / "state.pt").exists()


@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="this build of torch has no gloo")
def test_two_processes_of_a_launcher_train_as_one(words, tmp_path):
    more = ["--batch-size", "5", "--micro-batch", "2", "--hidden-weight", "1"]
    finished = launch(*words, *more)
    assert finished.stdout.count("wrote the model") == 1
    whole = tmp_path / "whole"
    assert main([*words, *more, "--out", str(whole)]) == 0
    two, one = results(tmp_path / "out"), results(whole)
    assert two["teacher"]["perplexity"] == pytest.approx(one["teacher"]["perplexity"], rel=1e-6)
    for mine, other in zip(two["history"], one["history"], strict=True):
        # Sums in another order, and Adam's first steps enlarge what that changes.
        assert mine["perplexity"] == pytest.approx(other["perplexity"], rel=1e-3)
        assert mine["training"] == pytest.approx(other["training"], rel=1e-2)


def test_adapters_are_distilled_too(teacher, shared, tmp_path):
    words = ["distill", str(teacher), str(teacher), *shared, "--lora", "--hidden-weight", "1", "--steps", "2"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.n_embd == 16


def test_a_real_teacher_teaches(stories260K, data, tmp_path):
    text = data / "texts" / "tinystories" / "tinystories_val_794k.txt"
    words = ["distill", str(stories260K), "llama", "--from-scratch", "--texts", str(text), "--device", "cpu"]
    sizes = ["--override", "hidden_size=16", "intermediate_size=32", "num_hidden_layers=2", "num_attention_heads=2"]
    more = ["num_key_value_heads=2", "--steps", "8", "--context", "64", "--evaluation-windows", "20"]
    assert main([*words, *sizes, *more, "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]) == 0
    found = results(tmp_path / "out")
    assert found["perplexity"] < found["history"][0]["perplexity"]
    assert 3 < found["teacher"]["perplexity"] < 7  # in windows as short as these


# --- what goes wrong ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--alpha", "2"], "--alpha 2.0: expected a share"),
        (["--context", "65"], "has 64 positions, fewer than --context 65"),
        (["--override", "n_layr=2"], "did you mean n_layer"),
        (["--arms", "distilation"], "did you mean 'distillation'"),
        (["--layers", "7"], "layers=[7]: expected different indices from 0 to 3"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(more, message, words, tmp_path, capsys):
    assert message in fail(capsys, [*words, *more])
    assert not (tmp_path / "out" / "results.json").exists()


def test_another_vocabulary_is_told_and_leaves_nothing(words, teacher, shared, tmp_path, capsys):
    student = save_tiny_model(tmp_path / "student")
    other = tokenizers.train(["the quick brown cat sleeps"] * 10, vocabulary_size=290)
    other.save_pretrained(student)
    line = fail(capsys, ["distill", str(teacher), str(student), *shared, "--out", str(tmp_path / "out")])
    own = transformers.AutoTokenizer.from_pretrained(teacher)
    assert f"have different vocabularies: {len(own)} tokens and {len(other)}; the first that differs is" in line
    assert not (tmp_path / "out").exists()


def test_a_configuration_alone_is_a_student_from_scratch(teacher, shared, tmp_path, capsys):
    folder = tmp_path / "configuration"
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    transformers.LlamaConfig(**sizes).save_pretrained(folder)
    words = ["distill", str(teacher), str(folder), *shared, "--steps", "1", "--out", str(tmp_path / "out")]
    line = fail(capsys, words)
    assert line.startswith(f"decondense: error: STUDENT {folder} has no weights")
    assert line.endswith("; or --from-scratch, for a student with new weights")
    assert main([*words, "--from-scratch"]) == 0
    assert transformers.AutoConfig.from_pretrained(tmp_path / "out").hidden_size == 8


def test_models_of_another_kind_are_told(words, teacher, shared, tmp_path, capsys):
    encoder = tmp_path / "bert"
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    with contextlib.redirect_stderr(io.StringIO()):
        transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=300, **sizes)).save_pretrained(encoder)
    transformers.AutoTokenizer.from_pretrained(teacher).save_pretrained(encoder)
    line = fail(capsys, ["distill", str(encoder), *words[2:]])
    assert f"TEACHER {encoder}: is a BertModel, and a causal language model is expected" in line
    line = fail(capsys, ["distill", str(teacher), str(encoder), *shared, "--out", str(tmp_path / "out")])
    assert f"STUDENT {encoder}: is a BertModel" in line
    line = fail(capsys, ["distill", str(teacher), "gtp2", "--from-scratch", *shared, "--out", str(tmp_path / "out")])
    assert "STUDENT 'gtp2': did you mean 'gpt2'?" in line


def test_a_folder_of_another_distillation_shows_what_differs(words, tmp_path, capsys):
    assert main([*words, "--steps", "1"]) == 0
    line = fail(capsys, [*words, "--steps", "1", "--temperature", "3"])
    assert "holds another run (temperature 2.0 there, 3.0 now)" in line
