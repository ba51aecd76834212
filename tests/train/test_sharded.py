"""Weights that are spread over processes are trained as on one, and their state is read by any number of processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import transformers
from models import build, tokens

from decondense import DispersionLoss, Partition, UserError, attach
from decondense.cli import main
from decondense.ranks import agreed
from decondense.train import build as rooms
from decondense.train import sharding
from decondense.train.arms import Arm
from decondense.train.baselines import ActiveForgetting, NoisyEmbedding
from decondense.train.loop import Schedule, train
from decondense.train.run import _objective
from decondense.train.update import Update

resource = pytest.importorskip("resource")  # that a disk is full is tried where the system can limit files
pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this build of torch has no gloo"
)
ARM = Arm("dispersion", "dispersion", 0.5)
STEPS, SAVED = 4, 2
# What a run is made of. Five rows and parts of two: one rank runs three rows in two parts, the other two in one.
CASES = {
    "llama": {"checkpointing": True},
    "gpt2": {"name": "gpt2", "forgetting": True},
    "lora": {"name": "gpt2", "lora": True},
    "random": {"name": "gpt2", "noise": True, "pairs": Partition(4)},
}
ALIKE = [name for name in CASES if name != "random"]  # noise and random pairs are drawn by each rank for itself


def batch_at(step, rows=5, length=12):
    """Packed windows whose documents, and whose labels, differ in number."""
    ids = tokens(rows, length, seed=step)
    documents = torch.stack([torch.arange(length) // size for size in (3, 12, 5, 4, 7)])[:rows]
    labels = ids.masked_fill((torch.arange(rows)[:, None] + torch.arange(length)) % 5 == 0, -100)
    return {"input_ids": ids, "labels": labels, "documents": documents}


def run(state, name="llama", forgetting=False, checkpointing=False, lora=False, noise=False, pairs="all", told=None):
    """Train in float64 and give the whole weights, on the first rank; `told` gets the numbers of each step."""
    model = build(name).double()
    if checkpointing:
        rooms.checkpoint_activations(model)
    if lora:
        torch.manual_seed(0)
        model = rooms.adapt(model)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0  # each rank draws its own
        model.double()
    model = sharding.shard(model, "cpu")

    def observe(step):
        with torch.no_grad():
            model(tokens())
        sharding.reshard(model)

    with attach(model, DispersionLoss(pairs=pairs), ARM.weight, add_to_loss=False) as handle:
        if noise:
            NoisyEmbedding(model, 5.0)
        train(
            model,
            batch_at,
            # The norm is clipped at each step: it must be that of all shards.
            Schedule(STEPS, learning_rate=1e-3, clip=0.1),
            state,
            observe=observe,
            # Where the embeddings are forgotten next.
            observe_at=(3,),
            extra_state=handle,
            save_every=SAVED,
            update=Update(_objective(handle, ARM), micro_batch=2, seed=0),
            intervention=ActiveForgetting(model, 3, STEPS, 1e-3, seed=0) if forgetting else None,
            report=lambda step, numbers: None if told is None else told.append(numbers),
            sharded=True,
        )
    return sharding.gather_state(model)


def share(rank, ranks, address, folder):
    """What each of several processes does."""
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=ranks, timeout=timedelta(seconds=100))
    try:
        torch.set_num_threads(1)
        for name, case in CASES.items():
            told = []
            found = {"whole": run(folder / f"{name}-two", **case, told=told), "numbers": told}
            # The state of step 2 is left: the same again goes on from it.
            found["resumed"] = run(folder / f"{name}-two", **case)
            if name in ALIKE:
                found["from one"] = run(folder / f"{name}-one", **case)
            if rank == 0:
                torch.save(found, folder / f"{name}.pt")
        model = sharding.shard(build("gpt2"), "cpu")
        held = [parameter.to_local().numel() for parameter in model.parameters()]
        (folder / f"held-{rank}.txt").write_text(str(sum(held) / model.num_parameters()))
        sharding.check_spread(model)
        model.add_module("beside", torch.nn.Linear(2, 2))
        try:
            sharding.check_spread(model)
        except UserError as error:
            (folder / f"beside-{rank}.txt").write_text(str(error))
        try:
            with agreed():
                if rank == 1:
                    raise UserError("the second gave up")
        except UserError as error:
            (folder / f"told-{rank}.txt").write_text(str(error))
        if rank == 1:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
        try:
            run(folder / "full")
        except UserError as error:
            (folder / f"full-{rank}.txt").write_text(str(error))
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes left, and before them one."""
    folder = tmp_path_factory.mktemp("sharded")
    for name in ALIKE:
        torch.save(run(folder / f"{name}-one", **CASES[name]), folder / f"{name}-alone.pt")
    shutil.copytree(folder / "llama-one", folder / "full")
    # As if it had been saved earlier: a run that goes on saves another.
    os.rename(folder / "full" / f"step-{SAVED}", folder / "full" / "step-1")
    torch.multiprocessing.spawn(share, (2, f"file://{folder / 'meeting'}", folder), nprocs=2)
    return folder


def difference(one, other):
    """The largest, over parameters, of the relative norms of differences."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).norm() / one[name].norm().clamp(min=1e-3)) for name in one)


@pytest.mark.parametrize("name", ALIKE)
def test_two_processes_train_as_one(name, folder):
    alone, found = torch.load(folder / f"{name}-alone.pt"), torch.load(folder / f"{name}.pt")
    # In float64, but for some sums of the models' own (the loss, rotary embeddings), which are the same on both sides.
    assert difference(found["whole"], alone) < 1e-9
    if name != "lora":
        assert difference(alone, build(CASES[name].get("name", "llama")).double().state_dict()) > 1e-2
    assert difference(alone, {key: one * 1.001 for key, one in alone.items()}) > 1e-4


@pytest.mark.parametrize("name", CASES)
def test_as_many_processes_go_on_to_the_same_bits(name, folder):
    found = torch.load(folder / f"{name}.pt")
    assert all(torch.equal(found["whole"][key], found["resumed"][key]) for key in found["whole"])
    assert found["numbers"][0]["gradient_norm"] > 0.1  # and was clipped
    assert [path.name for path in (folder / f"{name}-two").iterdir()] == [f"step-{SAVED}"]


@pytest.mark.parametrize("name", ALIKE)
def test_another_number_of_processes_goes_on(name, folder, tmp_path):
    alone, found = torch.load(folder / f"{name}-alone.pt"), torch.load(folder / f"{name}.pt")
    assert difference(found["from one"], alone) < 1e-9
    shutil.copytree(folder / f"{name}-two", tmp_path / "state")
    told = []
    assert difference(run(tmp_path / "state", **CASES[name], told=told), alone) < 1e-9
    assert len(told) == STEPS - SAVED


def test_each_process_holds_its_share_of_the_weights(folder):
    shares = [float((folder / f"held-{rank}.txt").read_text()) for rank in (0, 1)]
    assert sum(shares) == pytest.approx(1)
    assert max(shares) < 0.55


def test_what_is_added_later_and_would_drift_apart_is_refused(folder):
    lines = [(folder / f"beside-{rank}.txt").read_text() for rank in (0, 1)]
    assert lines[0] == lines[1]
    assert lines[0].startswith("--fsdp: beside.weight is trained beside the model's own weights")


def test_what_one_process_meets_is_told_by_all(folder):
    assert [(folder / f"told-{rank}.txt").read_text() for rank in (0, 1)] == ["the second gave up"] * 2


def test_a_disk_that_is_full_for_one_process_is_told_by_all_and_keeps_the_state(folder):
    state = folder / "full"
    line = (
        f"{state / f'step-{SAVED}'}: cannot be written (File too large); the state after 1 steps is kept in {state / 'step-1'}; "
        "make room and run the same command again"
    )
    assert [(folder / f"full-{rank}.txt").read_text() for rank in (0, 1)] == [line] * 2
    assert [path.name for path in state.iterdir()] == ["step-1"]


def test_a_damaged_state_is_one_line(folder, tmp_path):
    state = tmp_path / "state"
    shutil.copytree(folder / "llama-one", state)
    [part] = state.glob("*/*.distcp")
    part.write_bytes(part.read_bytes()[:1000])
    with pytest.raises(UserError, match=rf"state/step-{SAVED}: cannot be read \(.*\); remove it to begin anew"):
        run(state)


# --- the command ---------------------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from decondense.cli import main
write, calls = FileSystemWriter.write_data, []
def killed(*given):
    result = write(*given)
    calls.append(given)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
FileSystemWriter.write_data = killed
sys.exit(main(sys.argv[1:]))
"""
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
                   "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"],
}  # fmt: skip


def launch(launcher, *words):
    return subprocess.run(
        [sys.executable, "-m", *LAUNCHERS[launcher], *words], capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.fixture
def words(tmp_path):
    """A command with its first options; what it is given more comes after, and wins."""
    text = tmp_path / "stories.jsonl"
    names, verbs = ("the fox", "a dog", "my bird"), ("sees", "hears", "likes", "follows")
    stories = [
        " ".join(f"{names[(n * k) % 3]} {verbs[(n + k) % 4]} {names[(n + k) % 3]} {n}." for k in range(12))
        for n in range(100)
    ]
    text.write_text("\n".join(json.dumps({"text": story}) for story in stories))
    model = ["--override", "n_layer=2", "n_embd=32", "n_head=2", "--context", "32", "--vocabulary", "300"]
    run = [
        "--steps",
        "6",
        "--batch-size",
        "5",
        "--micro-batch",
        "2",
        "--evaluate-every",
        "3",
        "--evaluation-windows",
        "9",
    ]
    places = [
        "--device",
        "cpu",
        "--texts",
        str(text),
        "--cache",
        str(tmp_path / "cache"),
        "--out",
        str(tmp_path / "out"),
    ]
    return ["train", *model, *run, *places, "--fsdp", "--save-every", "2", "--lora"]


def test_a_killed_run_goes_on_under_another_launcher_and_alone(words, tmp_path):
    program = tmp_path / "killed.py"
    program.write_text(KILLED)
    killed = launch("torchrun", str(program), *words)
    assert killed.returncode != 0
    assert "decondense: error" not in killed.stderr, killed.stderr
    out, alone, whole = tmp_path / "out", tmp_path / "alone", tmp_path / "whole"
    assert sorted(path.name for path in (out / "state").iterdir()) == [".step-4.part", "step-2"], killed.stderr
    shutil.copytree(out, alone)

    finished = launch("accelerate", "-m", "decondense", *words)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("wrote the model") == 1
    assert "step 0:" not in finished.stdout
    assert main([*words, "--out", str(alone)]) == 0
    assert main([*words, "--out", str(whole)]) == 0

    results = [json.loads((folder / "results.json").read_text()) for folder in (out, alone, whole)]
    for folder, found in zip((out, alone), results, strict=False):
        assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in whole.iterdir())
        # Adapters have dropout, which each process draws for itself: the first steps were of two, and the rest of one or two.
        assert found["perplexity"] == pytest.approx(results[-1]["perplexity"], rel=1e-2)
        assert found["parameters"] == results[-1]["parameters"]
        assert [entry["step"] for entry in found["history"]] == [0, 3, 6]
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        assert type(model).__name__ == "GPT2LMHeadModel"
        assert model.config.architectures == ["GPT2LMHeadModel"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--device", "mps"], "--fsdp on mps: weights can be spread over processes on cpu and cuda alone"),
        (["--lora", "--arms", "active_forgetting"], "these are not trained (LoRA)"),
    ],
)
def test_what_cannot_be_is_one_line(more, message, words, capsys, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert main([*words, *more]) == 2
    assert message in capsys.readouterr().err


def test_more_processes_than_windows_are_refused_before_anything_is_read(words, capsys, monkeypatch):
    monkeypatch.setattr("decondense.train.config.world", lambda: 8)
    assert main([*words, "--texts", "nowhere"]) == 2
    assert "--batch-size 5: cannot be shared by 8 processes, each needs at least one window" in capsys.readouterr().err
