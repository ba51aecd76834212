"""DistributedDataParallel: attach to the model or to its wrapper. Gradients of the term are averaged with the others.

torchrun --nproc-per-node 2 examples/ddp_loop.py
"""

import torch
import torch.distributed as dist
from tiny import batches, compare
from torch.nn.parallel import DistributedDataParallel

from decondense import DispersionLoss, attach


def train(model, weight, steps):
    rank, ranks = dist.get_rank(), dist.get_world_size()
    wrapped = DistributedDataParallel(model)
    handle = attach(wrapped, DispersionLoss("dispersion"), weight=weight)  # the one line
    optimizer = torch.optim.AdamW(wrapped.parameters(), lr=2e-3)
    for step, batch in enumerate(batches(ranks * steps, size=4)):
        if step % ranks == rank:  # each rank takes its own batches
            wrapped(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    handle.detach()


if __name__ == "__main__":
    dist.init_process_group("gloo")
    compare(train)
    dist.destroy_process_group()
