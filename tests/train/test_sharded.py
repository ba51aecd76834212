"""Weights that are spread over processes are trained as on one, and their state is read by any number of processes."""

import os
import resource
import shutil
import signal
import socket
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from models import build, tokens

from decondense import DispersionLoss, Partition, UserError, attach
from decondense.train import build as rooms
from decondense.train import sharding
from decondense.train.arms import Arm
from decondense.train.baselines import ActiveForgetting, NoisyEmbedding
from decondense.train.loop import Schedule, train
from decondense.train.run import _objective
from decondense.train.update import Update

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this build of torch has no gloo"
)
ARM = Arm("dispersion", "dispersion", 0.5)
STEPS = 5
# What a run is made of. Five rows and parts of two: one rank runs three rows in two parts, the other two in one.
CASES = {
    "llama": {},
    "gpt2": {"name": "gpt2", "forgetting": True},
    "checkpointing": {"checkpointing": True},
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
    with attach(model, DispersionLoss(pairs=pairs), ARM.weight, add_to_loss=False) as handle:
        if noise:
            NoisyEmbedding(model, 5.0)
        train(
            model,
            batch_at,
            # The norm is clipped at each step: it must be that of all shards.
            Schedule(STEPS, learning_rate=1e-3, clip=0.1),
            state,
            observe=lambda step: None,
            extra_state=handle,
            save_every=3,
            update=Update(_objective(handle, ARM), micro_batch=2, seed=0),
            intervention=ActiveForgetting(model, 2, STEPS, 1e-3, seed=0) if forgetting else None,
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
            # The state of step 3 is left: the same again goes on from it.
            found["resumed"] = run(folder / f"{name}-two", **case)
            if name in ALIKE:
                found["from one"] = run(folder / f"{name}-one", **case)
            if rank == 0:
                torch.save(found, folder / f"{name}.pt")
        if rank == 1:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
        for known in (True, False):
            place = folder / ("full" if known else "empty")
            if known and rank == 0:
                shutil.copytree(folder / "llama-one", place)
                os.rename(place / "step-3", place / "step-1")
            dist.barrier()
            try:
                run(place)
            except UserError as error:
                (folder / f"{place.name}-{rank}.txt").write_text(str(error))
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes left, and before them one."""
    folder = tmp_path_factory.mktemp("sharded")
    for name in ALIKE:
        torch.save(run(folder / f"{name}-one", **CASES[name]), folder / f"{name}-alone.pt")
    torch.multiprocessing.spawn(share, (2, f"file://{folder / 'meeting'}", folder), nprocs=2)
    return folder


def difference(one, other):
    """The largest, over parameters, of the relative norms of differences."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).norm() / one[name].norm().clamp(min=1e-3)) for name in one)


@pytest.mark.parametrize("name", ALIKE)
def test_two_processes_train_as_one(name, folder):
    alone, found = torch.load(folder / f"{name}-alone.pt"), torch.load(folder / f"{name}.pt")
    # Five updates of Adam; the models' own sums are in float32 in places (rotary embeddings, the loss).
    assert difference(found["whole"], alone) < 1e-5
    assert difference(alone, {key: torch.zeros_like(one) for key, one in alone.items()}) > 0.9


@pytest.mark.parametrize("name", CASES)
def test_as_many_processes_go_on_to_the_same_bits(name, folder):
    found = torch.load(folder / f"{name}.pt")
    assert all(torch.equal(found["whole"][key], found["resumed"][key]) for key in found["whole"])
    assert [path.name for path in (folder / f"{name}-two").iterdir()] == ["step-3"]


@pytest.mark.parametrize("name", ALIKE)
def test_another_number_of_processes_goes_on(name, folder, tmp_path):
    alone, found = torch.load(folder / f"{name}-alone.pt"), torch.load(folder / f"{name}.pt")
    assert difference(found["from one"], alone) < 1e-5
    shutil.copytree(folder / f"{name}-two", tmp_path / "state")
    told = []
    assert difference(run(tmp_path / "state", **CASES[name], told=told), alone) < 1e-5
    assert len(told) == STEPS - 3
