"""Run by test_engines.py in a process of its own: shape checks and torch.compile do not go together."""

import sys

import torch

from decondense import DispersionLoss, Moments, Partition, Subset

WAYS = {
    "all": "all",
    "partition": Partition(5),
    "control": Partition(5, control=1),
    "subset": Subset(5),
    "moments-1": Moments(1),
    "moments-2": Moments(2),
}


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 12, 6, generator=generator, dtype=torch.float64) + 0.5
    for name, pairs in WAYS.items():
        loss = DispersionLoss(pairs=pairs)
        mask = torch.arange(12)[None] < torch.tensor([[12], [7]])

        def scaled(tensor: torch.Tensor, loss: DispersionLoss = loss, mask: torch.Tensor = mask) -> torch.Tensor:
            return 2 * loss(3 * tensor, mask=mask, step=1)

        results = []
        for function in (scaled, torch.compile(scaled, backend="aot_eager", fullgraph=True)):
            leaf = hidden.clone().requires_grad_()
            value = function(leaf)
            value.backward()
            results.append((value.detach(), leaf.grad))
        torch.testing.assert_close(*results)
        print(name, "compiled")


if __name__ == "__main__":
    sys.exit(main())
