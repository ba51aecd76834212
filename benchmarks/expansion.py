"""`python benchmarks/expansion.py`: how wrong the gradient of the expansions is, against temperature and against condensation.

On hidden states of real models: each layer of stories260K, and each layer of the demo's twins at every checkpoint that the demo kept
(`decondense demo --checkpoints 9`), from initialisation through the first steps, when a model is condensed most, to the end.
Writes results/expansion.json and draws two pictures.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accuracy import agreement, gradient, hidden_states, mean_cosine, real_models
from torch import Tensor

from decondense import DispersionLoss, Moments, Partition
from decondense.files import write_json
from decondense.report import Series, curves
from decondense.report.tables import Column, Table
from decondense.studies.provenance import provenance

TEMPERATURES = (0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
WAYS: dict[str, Callable[[float], DispersionLoss]] = {
    "Moments(1)": lambda temperature: DispersionLoss(temperature=temperature, pairs=Moments(1)),
    "Moments(2)": lambda temperature: DispersionLoss(temperature=temperature, pairs=Moments(2)),
    "Partition(64, control=1)": lambda temperature: DispersionLoss(
        temperature=temperature, pairs=Partition(64, control=1)
    ),
    "Partition(64)": lambda temperature: DispersionLoss(temperature=temperature, pairs=Partition(64)),
}
BINS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
"""Edges of mean cosine: layers between two edges are pooled into one point of the picture."""


def states(twin: Path) -> Iterator[tuple[str, int, Tensor]]:
    """Hidden states (model, layer, [sequences, length, features]) of the models at hand, random models left out."""
    for name, (model, tokens) in real_models(twin, checkpoints=True).items():
        if "at random" not in name:
            for layer, hidden in hidden_states(model, tokens).items():
                yield name, layer, hidden


def errors(twin: Path) -> list[dict[str, Any]]:
    """A row for each model, layer, temperature and way; what draws at random is averaged over draws."""
    rows = []
    for name, layer, hidden in states(twin):
        condensed = mean_cosine(hidden)
        for temperature in TEMPERATURES:
            exact = gradient(DispersionLoss(temperature=temperature, engine="eager"), hidden)
            for way, build in WAYS.items():
                row = {"model": name, "layer": layer, "mean_cosine": condensed, "temperature": temperature, "way": way}
                rows.append({**row, **agreement(build(temperature), hidden, exact)})
    return rows


def against_temperature(rows: Sequence[dict[str, Any]]) -> list[Series]:
    """Median over layers, and the range from the best to the worst tenth of them."""
    return [_pooled(way, [row for row in rows if row["way"] == way], "temperature", TEMPERATURES) for way in WAYS]


def against_condensation(rows: Sequence[dict[str, Any]]) -> list[Series]:
    """The same at temperature 1, layers pooled by their mean cosine."""
    series = []
    for way in WAYS:
        chosen = []
        for row in rows:
            if row["way"] == way and row["temperature"] == 1.0:
                place = max(edge for edge in BINS[:-1] if edge <= max(row["mean_cosine"], 0.0))
                upper = BINS[BINS.index(place) + 1]
                chosen.append({**row, "middle": (place + upper) / 2})
        series.append(_pooled(way, chosen, "middle", sorted({row["middle"] for row in chosen})))
    return series


def _pooled(way: str, rows: Sequence[dict[str, Any]], key: str, values: Sequence[float]) -> Series:
    quantiles = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    found = [
        torch.tensor([row["relative_error"] for row in rows if row[key] == value], dtype=torch.float64).quantile(
            quantiles
        )
        for value in values
    ]
    low, middle, high = torch.stack(found).T.tolist()
    return Series(way, list(values), middle, low, high)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Median and worst gradient cosine at each temperature."""
    cells = []
    for temperature in TEMPERATURES:
        for way in WAYS:
            of_both = [row for row in rows if (row["temperature"], row["way"]) == (temperature, way)]
            cosines = torch.tensor([row["gradient_cosine"] for row in of_both])
            error = torch.tensor([row["relative_error"] for row in of_both]).median()
            cells.append([temperature, way, float(cosines.median()), float(cosines.min()), float(error)])
    columns: list[Column | str] = [Column("temperature", ".2f"), Column("way", align="left")]
    columns += [Column("gradient cosine, median layer", ".4f"), Column("worst layer", ".4f")]
    return Table([*columns, Column("relative error, median layer", ".3f")], cells).plain()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--pictures", type=Path, default=Path("docs/images"), help="folder")
    parser.add_argument("--twin", type=Path, default=Path("runs/demo"), help="a finished demo, best with checkpoints")
    arguments = parser.parse_args()
    origin = provenance()
    rows = errors(arguments.twin)
    if not rows:
        parser.error(f"no model at hand: {arguments.twin} holds no finished demo and DECONDENSE_DATA no stories260K")
    print(table(rows))
    content = {"study": "expansion", "command": "python benchmarks/expansion.py", **origin, "rows": rows}
    write_json(arguments.results / "expansion.json", content)
    arguments.pictures.mkdir(parents=True, exist_ok=True)
    label = "relative error of the gradient"
    curves(
        against_temperature(rows),
        arguments.pictures / "expansion-temperature",
        x_label="temperature",
        y_label=label,
        x_scale="log",
        y_scale="log",
    )
    curves(
        against_condensation(rows),
        arguments.pictures / "expansion-condensation",
        x_label="mean cosine of the layer",
        y_label=label,
    )
    print(f"\n{arguments.results / 'expansion.json'}, {arguments.pictures}/expansion-*.png")


if __name__ == "__main__":
    main()
