"""Curves of models that were trained by several arms and seeds in; what rounding costs each arm, with intervals over seeds, out. Knows no model.

The cost is bits a byte when rounded minus bits a byte as stored, of the same model on the same text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from decondense.evaluate.curve import STORED
from decondense.evaluate.intervals import Estimate, mean_interval, paired_difference
from decondense.train.arms import BASELINE

SPREADS = (
    ("weights", "kurtosis"),
    ("weights", "row_max_over_rms"),
    ("inputs", "kurtosis"),
    ("inputs", "row_max_over_rms"),
    ("inputs", "outlier_share"),
    ("hidden_states", "kurtosis"),
    ("hidden_states", "row_max_over_rms"),
)


def costs(curve: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], float]:
    """Bits a byte lost, by scheme and bits; a setting at which the model gives no number is left out."""
    stored = next(row["bits_per_byte"] for row in curve if row["scheme"] == STORED)
    if stored is None:
        return {}
    return {
        (row["scheme"], row["bits"]): row["bits_per_byte"] - stored
        for row in curve
        if row["scheme"] != STORED and row["bits_per_byte"] is not None
    }


def compare_arms(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each arm and setting the mean cost and its 95 % t interval over seeds, and the same of its difference from the baseline, paired by seed.

    Args:
        entries: of "models" in the results; those without an arm are passed over.

    Returns:
        rows with "arm", "scheme", "bits", "seeds", "cost", and "difference", which is None for the baseline, where its seeds are others, and where
        there is one arm only. The baseline is cross entropy, or the first arm.
    """
    arms = by_arm(entries)
    if not arms:
        return []
    baseline = BASELINE if BASELINE in arms else next(iter(arms))
    lost = {arm: {seed: costs(entry["curve"]) for seed, entry in seeds.items()} for arm, seeds in arms.items()}
    rows = []
    for arm, by_seed in lost.items():
        for scheme, bits in dict.fromkeys(key for found in by_seed.values() for key in found):
            key = (scheme, bits)
            values = {seed: found[key] for seed, found in by_seed.items() if key in found}
            base = {seed: found[key] for seed, found in lost[baseline].items() if key in found}
            shared = arm != baseline and values.keys() == base.keys()
            difference = paired_difference([values[s] for s in base], list(base.values())) if shared else None
            row = {"arm": arm, "scheme": scheme, "bits": bits, "seeds": sorted(values)}
            rows.append({**row, "cost": _told(mean_interval(list(values.values()))), "difference": _told(difference)})
    return rows


def compare_spreads(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each arm the mean over seeds, with its t interval, of the statistics of spread of weights, inputs and hidden states."""
    rows = []
    for arm, seeds in by_arm(entries).items():
        for what, name in SPREADS:
            values = [value for entry in seeds.values() for value in _overall(entry["spread"], what, name)]
            if values:
                rows.append({"arm": arm, "of": what, "statistic": name, **(_told(mean_interval(values)) or {})})
    return rows


def by_arm(entries: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, Mapping[str, Any]]]:
    """Entries by arm and seed, in their order."""
    arms: dict[str, dict[int, Mapping[str, Any]]] = {}
    for entry in entries:
        if entry.get("arm") is not None:
            arms.setdefault(entry["arm"], {})[entry["seed"]] = entry
    return arms


def _overall(spread: Mapping[str, Any], what: str, name: str) -> Iterator[float]:
    found = spread[what]
    if what == "hidden_states":
        if found:
            yield sum(layer[name] for layer in found) / len(found)
    elif found:
        yield found["all"][name]


def _told(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else asdict(estimate)
