"""Accelerate: attach before or after `prepare`. What Accelerate does to the loss (scaling, accumulation) it does to the term too."""

import torch
from accelerate import Accelerator
from tiny import batches, compare

from decondense import DispersionLoss, attach


def train(model, weight, steps):
    accelerator = Accelerator(gradient_accumulation_steps=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    model, optimizer = accelerator.prepare(model, optimizer)
    handle = attach(model, DispersionLoss("dispersion"), weight=weight)  # the one line
    for batch in batches(2 * steps, size=4):
        with accelerator.accumulate(model):
            batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
            accelerator.backward(model(**batch).loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    handle.detach()


if __name__ == "__main__":
    compare(train)
