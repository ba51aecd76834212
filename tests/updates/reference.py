"""Sixteen sequences and a small model in, the update that every way of training must give out: the formula written by hand. Knows no `attach`.

The loss is (sum over targets of cross entropy + weight * mean over layers of sum_b n_b r_b) / sum_b n_b: n_b the targets of sequence b, r_b its
dispersion over all pairs, as DESIGN has it and docs/updates.md tells. It is read off `output_hidden_states`, with autograd through plain torch.
"""

from __future__ import annotations

import functools
import math

import torch
import transformers
from torch import Tensor, nn

SEQUENCES, STEPS, PADDING, IGNORED, VOCABULARY = 16, 3, 2, -100, 48
WEIGHT, RATE = 1.0, 0.3

Rows = list[dict[str, Tensor]]


def sequences(step: int) -> Rows:
    """The sixteen of a step: 1 to 13 tokens, every third with a prompt that has no labels, so neither rows nor tokens weigh as targets do."""
    generator = torch.Generator().manual_seed(step)
    lengths = torch.randint(2, 14, (SEQUENCES,), generator=generator)
    lengths[5] = 1  # no pair and no target
    rows = []
    for number, length in enumerate(lengths.tolist()):
        ids = torch.randint(3, VOCABULARY, (length,), generator=generator)
        labels = ids.clone()
        if number % 3 == 0:
            labels[: length // 2] = IGNORED
        rows.append({"input_ids": ids, "labels": labels})
    return rows


def collate(rows: Rows) -> dict[str, Tensor]:
    """Padded at the right to the longest; padding has no label."""
    pad = functools.partial(nn.utils.rnn.pad_sequence, batch_first=True)
    return {
        "input_ids": pad([row["input_ids"] for row in rows], padding_value=PADDING),
        "attention_mask": pad([torch.ones_like(row["input_ids"]) for row in rows]),
        "labels": pad([row["labels"] for row in rows], padding_value=IGNORED),
    }


def pack(rows: Rows) -> dict[str, Tensor | bool]:
    """One row of documents: positions restart, and the first token of each is nobody's target.

    Without a cache: with one transformers' attention looks past the restarts.
    """
    labels = [torch.cat([torch.tensor([IGNORED]), row["labels"][1:]]) for row in rows]
    return {
        "input_ids": torch.cat([row["input_ids"] for row in rows])[None],
        "position_ids": torch.cat([torch.arange(len(row["input_ids"])) for row in rows])[None],
        "labels": torch.cat(labels)[None],
        "use_cache": False,
    }


def count_targets(rows: Rows, first: bool = False) -> Tensor:
    """Labels that are predicted; with `first` the first tokens' too, which are not."""
    return torch.stack([(row["labels"][0 if first else 1 :] != IGNORED).sum() for row in rows]).sum()


def build(name: str) -> nn.Module:
    """The model of two blocks that all ways start from, without dropout: "llama", or "gpt2", whose embeddings are tied."""
    size = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": PADDING}
    if name == "gpt2":
        dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        config = transformers.GPT2Config(**size, **dropout, n_embd=32, n_layer=2, n_head=2, n_positions=16)
    elif name == "llama":
        shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        config = transformers.LlamaConfig(**size, **shape)
    else:
        raise ValueError(f"no such model: {name}")
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config).train()


def dispersion(hidden: Tensor) -> Tensor:
    """log mean_{i != j} exp(-theta_ij) of [tokens, features], theta = arccos(c) / pi; beyond |c| = 0.9 the slope is the one at 0.9."""
    unit = hidden / (hidden.norm(dim=-1, keepdim=True) + 1e-2)
    cosine = unit @ unit.T
    inside = cosine.detach().clamp(-0.9, 0.9)
    slope = -1 / (math.pi * (1 - inside.square()).sqrt())
    angle = inside.arccos() / math.pi + slope * (cosine - cosine.detach())
    off_diagonal = ~torch.eye(len(hidden), dtype=torch.bool)
    return (-angle[off_diagonal]).exp().mean().log()


def by_hand(
    model: nn.Module, batch: dict[str, Tensor], total: Tensor, weighting: str = "targets", parts: int = 1
) -> Tensor:
    """The loss of one micro-batch of `parts`, all of them together having `total` targets; every weighting but "targets" is a mistake."""
    labels, mask = batch["labels"], batch["attention_mask"].bool()
    output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True)
    targets = (labels[:, 1:] != IGNORED).sum(dim=1)
    with torch.autocast("cpu", enabled=False):
        logits = output.logits[:, :-1]
        logits = logits if logits.dtype == torch.float64 else logits.float()
        cross_entropy = nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
        layers = []
        for hidden in output.hidden_states[1:]:
            hidden = hidden if hidden.dtype == torch.float64 else hidden.float()
            rows = zip(hidden, mask, targets, strict=True)
            of_row = [(dispersion(row[valid]), count) for row, valid, count in rows if valid.sum() > 1]
            if weighting == "targets":
                layers.append(sum((value * count for value, count in of_row), torch.zeros(())) / total)
            elif of_row:
                layers.append(torch.stack([value for value, _ in of_row]).mean())
        term = torch.stack(layers).mean() if layers and weighting != "none" else torch.zeros(())
        return cross_entropy / total + WEIGHT * term / (parts if weighting == "mean over sequences" else 1)


@functools.cache
def reference(name: str, first: bool = False, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """How the parameters of a model change, by name: the formula on whole batches of sixteen."""
    model = build(name).to(dtype)
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for step in range(STEPS):
        by_hand(model, collate(sequences(step)), count_targets(sequences(step), first)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {key: parameter.detach() - before[key] for key, parameter in model.named_parameters()}


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """|found - expected| / |expected| over all parameters."""
    assert found.keys() == expected.keys()
    apart = sum(float((found[key].double() - expected[key].double()).square().sum()) for key in expected)
    return math.sqrt(apart / sum(float(change.double().square().sum()) for change in expected.values()))
