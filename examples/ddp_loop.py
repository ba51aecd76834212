"""DistributedDataParallel, two processes: attach to the model or to its wrapper. Gradients of the term are averaged with the others."""

import copy
import os
import socket

import torch
import torch.distributed as dist
from tiny import batches, compare
from torch.nn.parallel import DistributedDataParallel

from decondense import DispersionLoss, attach

RANKS = 2


def run(rank, port, shared, weight, steps):
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=RANKS)
    wrapped = DistributedDataParallel(copy.deepcopy(shared))
    handle = attach(wrapped, DispersionLoss("dispersion"), weight=weight)  # the one line
    optimizer = torch.optim.AdamW(wrapped.parameters(), lr=2e-3)
    for step, batch in enumerate(batches(RANKS * steps, size=4)):
        if step % RANKS == rank:  # each rank takes its own batches
            wrapped(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    handle.detach()
    if rank == 0:
        shared.load_state_dict(wrapped.module.state_dict())
    dist.destroy_process_group()


def train(model, weight, steps):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    model.share_memory()  # where the first process leaves the trained weights
    torch.multiprocessing.spawn(run, (port, model, weight, steps), nprocs=RANKS)


if __name__ == "__main__":
    compare(train)
