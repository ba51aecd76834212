"""Run by test_engines.py: a loss that was never called before is compiled as one graph, and gives what it gives uncompiled."""

import torch

from decondense import DispersionLoss

for name in ("dispersion", "uniformity"):
    hidden = torch.randn(1, 32, 8, generator=torch.Generator().manual_seed(0))
    compiled, plain = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    value = torch.compile(DispersionLoss(name), backend="eager", fullgraph=True)(compiled)
    value.backward()
    expected = DispersionLoss(name)(plain)
    expected.backward()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(compiled.grad, plain.grad)
    print("compiled")
