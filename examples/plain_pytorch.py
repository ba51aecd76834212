"""A loop of one's own: one line, and the loss that the model returns has the term in it."""

import torch
from tiny import batches, compare

from decondense import DispersionLoss, attach


def train(model, weight, steps):
    handle = attach(model, DispersionLoss("dispersion"), weight=weight)  # the one line
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for batch in batches(steps):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    handle.detach()


if __name__ == "__main__":
    compare(train)
