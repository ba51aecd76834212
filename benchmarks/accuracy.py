"""How near each estimate's gradient is to the exact one, on hidden states of real models: cosine and relative error."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from decondense import DispersionLoss, Moments, Partition, Subset
from decondense.layers import body, watch
from decondense.report.tables import Column, Table
from decondense.texts import embedded

DRAWS = 8


def compare_gradients(twin: Path, formulation: str = "dispersion") -> list[dict[str, Any]]:
    """A row for each model, layer and estimate; estimates that draw at random are averaged over draws. Prints a table over layers."""
    rows: list[dict[str, Any]] = []
    for name, (model, tokens) in real_models(twin).items():
        for layer, hidden in hidden_states(model, tokens).items():
            exact = gradient(DispersionLoss(formulation, engine="eager"), hidden)
            for way, loss in estimates(formulation, hidden.shape[1]).items():
                row = {
                    "model": name,
                    "layer": layer,
                    "tokens": hidden.shape[1],
                    "way": way,
                    "mean_cosine": mean_cosine(hidden),
                }
                rows.append({**row, **agreement(loss, hidden, exact)})
    print(summary(rows), flush=True)
    return rows


def estimates(formulation: str, length: int) -> dict[str, DispersionLoss]:
    """The paper's subset takes a quarter of the tokens, as 256 of 1024."""
    return {
        "Moments(1)": DispersionLoss(formulation, pairs=Moments(1)),
        "Moments(2)": DispersionLoss(formulation, pairs=Moments(2)),
        "Partition(64)": DispersionLoss(formulation, pairs=Partition(64)),
        "Partition(64, control=1)": DispersionLoss(formulation, pairs=Partition(64, control=1)),
        "Subset(L/4), the paper's": DispersionLoss(formulation, pairs=Subset(length // 4)),
    }


def agreement(loss: DispersionLoss, hidden: Tensor, exact: Tensor) -> dict[str, float]:
    """Cosine and relative error of a loss's gradient to the exact one; what draws at random is averaged over draws."""
    draws = 1 if isinstance(loss.pairs, Moments) else DRAWS
    found = [gradient(loss, hidden, step) for step in range(draws)]
    cosines = [float(nn.functional.cosine_similarity(one.flatten(), exact.flatten(), dim=0)) for one in found]
    errors = [float((one - exact).norm() / exact.norm()) for one in found]
    return {"gradient_cosine": sum(cosines) / draws, "relative_error": sum(errors) / draws}


def gradient(loss: DispersionLoss, hidden: Tensor, step: int = 0) -> Tensor:
    leaf = hidden.detach().requires_grad_()
    loss(leaf, step=step).backward()
    assert leaf.grad is not None
    return leaf.grad


def mean_cosine(hidden: Tensor) -> float:
    unit = nn.functional.normalize(hidden, dim=-1)
    length = hidden.shape[1]
    return float(((unit.sum(dim=1).square().sum(dim=-1) - length) / (length * (length - 1))).mean())


def real_models(twin: Path, checkpoints: bool = False) -> dict[str, tuple[nn.Module, Tensor]]:
    """Models and tokens [4, length]: stories260K and a dispersed twin where they are at hand, and a random model of GPT-2 small's shape.

    With `checkpoints` those that the demo kept of its twins too.
    """
    import transformers

    models: dict[str, tuple[nn.Module, Tensor]] = {}
    data = Path(os.environ.get("DECONDENSE_DATA", "../shared/data"))
    folder = data / "models" / "stories260K"
    if folder.is_dir():
        text = (data / "texts" / "tinystories" / "tinystories_val_794k.txt").read_text(encoding="utf-8")
        models["stories260K"] = _load(folder, text, 512)
    else:
        print(f"no stories260K in {data} (DECONDENSE_DATA names the folder): left out")
    for arm in ("cross_entropy", "dispersion"):
        found = sorted(twin.glob(f"{arm}-seed*"))
        if found:
            text = "\n\n".join(document.text for document in embedded.split(embedded.documents())[1])
            models[f"demo's twin, {arm}"] = _load(found[0], text, 128)
            for checkpoint in sorted((found[0] / "checkpoints").glob("step-*")) if checkpoints else ():
                models[f"demo's twin, {arm}, {checkpoint.name}"] = _load(checkpoint, text, 128)
        else:
            print(f"no finished demo in {twin}: its {arm} twin is left out")
    torch.manual_seed(0)
    config = transformers.GPT2Config(bos_token_id=0, eos_token_id=0)
    tokens = torch.randint(0, config.vocab_size, (1, 1024), generator=torch.Generator().manual_seed(0))
    models["GPT-2 small's shape, at random"] = (transformers.GPT2LMHeadModel(config), tokens)
    return models


def _load(folder: Path, text: str, length: int) -> tuple[nn.Module, Tensor]:
    from decondense.models import load

    model, tokenizer = load(str(folder))
    ids = torch.tensor(tokenizer(text[: 40 * length], verbose=False)["input_ids"][: 4 * length])
    return model, ids.view(4, length)


@torch.no_grad()
def hidden_states(model: nn.Module, tokens: Tensor) -> dict[int, Tensor]:
    """Hidden states of every layer but the embeddings, in float64."""
    seen: dict[int, Tensor] = {}
    with watch(model.eval(), lambda index, hidden: seen.__setitem__(index, hidden.double())):
        body(model)(tokens)
    return {index: hidden for index, hidden in seen.items() if index > 0}


def summary(rows: list[dict[str, Any]]) -> str:
    cells = []
    for model in dict.fromkeys(row["model"] for row in rows):
        for way in dict.fromkeys(row["way"] for row in rows):
            chosen = [row for row in rows if (row["model"], row["way"]) == (model, way)]
            cosines = [row["gradient_cosine"] for row in chosen]
            means = [row["mean_cosine"] for row in chosen]
            cells.append(
                [
                    model,
                    f"{min(means):.2f} to {max(means):.2f}",
                    way,
                    min(cosines),
                    max(cosines),
                    max(row["relative_error"] for row in chosen),
                ]
            )
    columns: list[Column | str] = [
        "model",
        "mean cosine of its layers",
        "way",
        Column("gradient cosine, worst layer", ".4f"),
    ]
    return Table([*columns, Column("best layer", ".4f"), Column("largest relative error", ".3f")], cells).plain()
