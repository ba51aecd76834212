"""What the terms of all layers cost in a training step of a model of GPT-2 small's shape: their share of its time, and its peak memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from memory import peak_bytes
from torch import Tensor

from decondense import DispersionLoss, Moments, Partition, Subset, attach
from decondense.report.tables import Column, Table

LENGTH = 1024


def ways() -> dict[str, DispersionLoss]:
    return {
        "Moments(1)": DispersionLoss(pairs=Moments(1)),
        "Partition(64, control=1)": DispersionLoss(pairs=Partition(64, control=1)),
        "all pairs": DispersionLoss(),
        "effective_rank, Moments(2)": DispersionLoss("effective_rank", pairs=Moments(2)),
        "effective_rank, Partition(64)": DispersionLoss("effective_rank", pairs=Partition(64)),
        "Subset(256), eager (the paper's)": DispersionLoss(pairs=Subset(256), engine="eager"),
        "all pairs, eager": DispersionLoss(engine="eager"),
    }


def compare_steps(device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """A row a way: seconds of the twelve terms, forward and backward, over those of the step without them; peak memory over the step's."""
    import transformers

    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(bos_token_id=0, eos_token_id=0)).to(device).train()
    model.loss_type = "ForCausalLM"  # GPT-2 names none, and transformers warns of it
    tokens = torch.randint(0, 50257, (1, LENGTH), generator=torch.Generator().manual_seed(0)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    layers = [torch.randn(1, LENGTH, 768, device=device) + 0.5 for _ in range(12)]
    taken: dict[str, list[float]] = {}
    for turn in range(max(rounds // 2, 2) + 1):
        for name, function in {"step": step, **{name: terms(loss, layers) for name, loss in ways().items()}}.items():
            for _ in range(1 if name == "step" else 3):  # terms are short against a step
                began = time.perf_counter()
                function()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                if turn:
                    taken.setdefault(name, []).append(time.perf_counter() - began)
    seconds = {name: statistics.median(values) for name, values in taken.items()}
    plain = peak_bytes(step, device)
    rows = []
    for name, loss in ways().items():
        with attach(model, loss):
            peak = peak_bytes(step, device)
        rows.append(
            {
                "way": name,
                "seconds": seconds[name],
                "step_seconds": seconds["step"],
                "share": seconds[name] / seconds["step"],
                "peak": peak / plain,
            }
        )
    columns: list[Column | str] = [
        Column("twelve terms of a training step", align="left"),
        Column("ms", ".0f"),
        Column("of the step", ".4f"),
    ]
    cells = [[row["way"], 1000 * row["seconds"], row["share"], row["peak"]] for row in rows]
    print("\n" + Table([*columns, Column("peak memory of the step", ".3f")], cells).plain(), flush=True)
    return rows


def terms(loss: DispersionLoss, layers: list[Tensor]) -> Callable[[], None]:
    """The terms of all layers as `attach` computes them: nothing kept between forward and backward pass."""
    from decondense.sums import find_sequences

    sequences = find_sequences((1, LENGTH), layers[0].device, None, None)

    def run() -> None:
        leaves = [hidden.detach().requires_grad_() for hidden in layers]
        values = [
            loss.of_sequences(leaf, sequences, layer=layer, recompute=True).sum() for layer, leaf in enumerate(leaves)
        ]
        torch.stack(values).mean().backward()

    return run
