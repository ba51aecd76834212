"""What `decondense quantize` computed in; lines to print and a figure out. Computes nothing of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from decondense.commands.measure_report import titles
from decondense.evaluate.curve import STORED
from decondense.evaluate.degradation import costs
from decondense.report.quantization_figure import costs as draw_costs
from decondense.report.series import Series
from decondense.report.tables import Cell, Column, Table

Entries = Sequence[Mapping[str, Any]]
COST = "bits a byte lost to rounding"


def lines(entries: Entries, arms: Sequence[Mapping[str, Any]], spreads: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A table of every model, or of every arm where there are several runs; what was quantised, what could not be, and the spread."""
    of = titles(entry["model"] for entry in entries)
    if len(arms) and max(len(row["seeds"]) for row in arms) > 1:
        yield f"{COST}, mean over seeds ± half of the 95 % t interval:"
        yield arms_table(arms).plain()
        yield "spread, mean over seeds ± half of the 95 % t interval (a normal distribution has kurtosis 3):"
        yield spread_table(spreads).plain()
    else:
        for entry in entries:
            yield f"{of[entry['model']]}, {entry['windows'][0]} windows of {entry['windows'][1]} tokens of {entry['texts']}:"
            yield curve_table(entry).plain()
            yield f"spread (a normal distribution has kurtosis 3): {'; '.join(_spreads(entry['spread']))}"
    said: dict[str, list[str]] = {}
    for entry in entries:
        for note in _notes(entry):
            said.setdefault(note, []).append(of[entry["model"]])
    for note, names in said.items():
        yield f"note: {names[0] if len(names) == 1 else 'all' if len(names) == len(entries) else ', '.join(names)}: {note}"


def curve_table(entry: Mapping[str, Any]) -> Table:
    """The curve of one model: a row a setting."""
    columns: list[Column | str] = [
        "weights",
        Column("bits", "d"),
        Column("perplexity", ".3f"),
        Column("bits a byte", ".4f"),
        Column("lost", "+.4f"),
        Column("bytes", ",d"),
        Column("of stored", ".3f"),
    ]
    whole = entry["curve"][0]["bytes"]
    lost = costs(entry["curve"])
    rows: list[list[Cell]] = []
    for row in entry["curve"]:
        key = (row["scheme"], row["bits"])
        numbers = [row["perplexity"], row["bits_per_byte"], lost.get(key), row["bytes"], row["bytes"] / whole]
        rows.append([row["scheme"], row["bits"], *numbers])
    return Table(columns, rows)


def arms_table(arms: Sequence[Mapping[str, Any]]) -> Table:
    """What each setting costs each arm, and how that differs from the baseline."""
    columns: list[Column | str] = [
        "weights",
        Column("bits", "d"),
        "arm",
        Column("seeds", "d"),
        "lost",
        "difference (paired)",
    ]
    settings = list(dict.fromkeys((row["scheme"], row["bits"]) for row in arms))
    rows: list[list[Cell]] = []
    for scheme, bits in settings:
        for row in (row for row in arms if (row["scheme"], row["bits"]) == (scheme, bits)):
            difference = row["difference"]
            clear = difference is not None and difference["low"] is not None and not _holds_zero(difference)
            told = None if difference is None else _plus_minus(difference) + ("" if clear else " (noise)")
            rows.append([scheme, bits, row["arm"], len(row["seeds"]), _plus_minus(row["cost"]), told])
    return Table(columns, rows)


def spread_table(spreads: Sequence[Mapping[str, Any]]) -> Table:
    """How far the extremes lie out: a row a statistic, a column an arm."""
    names = list(dict.fromkeys(row["arm"] for row in spreads))
    kinds = list(dict.fromkeys((row["of"], row["statistic"]) for row in spreads))
    rows: list[list[Cell]] = []
    for of, statistic in kinds:
        found = {row["arm"]: row for row in spreads if (row["of"], row["statistic"]) == (of, statistic)}
        cells = [_three_digits(found[name]) if name in found else None for name in names]
        rows.append([of.replace("_", " "), statistic.replace("_", " "), *cells])
    return Table(["of", "statistic", *names], rows)


def draw(entries: Entries, arms: Sequence[Mapping[str, Any]], path: Path, formats: Sequence[str]) -> list[Path]:
    """Draw what weights of few bits cost, a panel a scheme: a line an arm, with its interval over seeds, or a line a model."""
    panels: dict[str, list[Series]] = {}
    by_line: dict[tuple[str, str], list[tuple[int, float, float | None, float | None]]] = {}
    if len({row["arm"] for row in arms}) and len(arms) and all(entry.get("arm") for entry in entries):
        for row in arms:
            cost = row["cost"]
            by_line.setdefault((row["scheme"], row["arm"]), []).append(
                (row["bits"], cost["mean"], cost["low"], cost["high"])
            )
    else:
        of = titles(entry["model"] for entry in entries)
        for entry in entries:
            for (scheme, bits), cost in costs(entry["curve"]).items():
                by_line.setdefault((scheme, of[entry["model"]]), []).append((bits, cost, None, None))
    for (scheme, name), points in by_line.items():
        if _is_weights_alone(scheme):
            panels.setdefault(scheme, []).append(_series(name, sorted(points)))
    if not panels:
        return []
    return draw_costs(panels, path, formats, COST)


def _series(name: str, points: Sequence[tuple[int, float, float | None, float | None]]) -> Series:
    bits, mean, low, high = zip(*points, strict=True)
    return Series(name, list(bits), list(mean), *([None, None] if None in low else [list(low), list(high)]))


def _is_weights_alone(scheme: str) -> bool:
    return scheme != STORED and "activations" not in scheme and not scheme.startswith("torchao")


def _spreads(spread: Mapping[str, Any]) -> Iterator[str]:
    """The means over matrices of weights and of what they are multiplied with, and the last of the hidden states."""
    last = spread["hidden_states"][-1] if spread["hidden_states"] else None
    parts = (
        ("weights", spread["weights"]["all"]),
        ("inputs", spread["inputs"].get("all")),
        ("last hidden state", last),
    )
    for name, found in parts:
        if found is not None:
            yield (
                f"{name}: kurtosis {found['kurtosis']:.3g}, max/rms {found['max_over_rms']:.3g}, in a row {found['row_max_over_rms']:.3g}, "
                f"beyond 6 sigma {found['outlier_share']:.2%}"
            )


def _notes(entry: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"{entry['quantised_share']:.1%} of {entry['parameters']:,} parameters are quantised ({', '.join(entry['quantised'])}), "
        "the rest is as stored"
    )
    yield from entry["notes"]
    if entry["shorter_groups"] and any(row["scheme"].startswith("group") for row in entry["curve"]):
        yield f"the group size does not divide the rows of {entry['shorter_groups']} matrices: their last group is shorter"
    for row in entry["curve"]:
        if row.get("left"):
            yield f"{row['scheme']} left {len(row['left'])} matrices as they are"
        if row["bits_per_byte"] is None:
            yield f"{row['scheme']} at {row['bits']} bits gives no finite loss"
    for one in entry["unavailable"]:
        yield f"{one['scheme']} is not available here: {one['reason']}"


def _holds_zero(estimate: Mapping[str, Any]) -> bool:
    return bool(estimate["low"] <= 0 <= estimate["high"])


def _plus_minus(estimate: Mapping[str, Any]) -> str:
    half = "" if estimate["low"] is None else f" ±{(estimate['high'] - estimate['low']) / 2:.5f}"
    return f"{estimate['mean']:+.5f}{half}"


def _three_digits(estimate: Mapping[str, Any]) -> str:
    half = "" if estimate["low"] is None else f" ±{(estimate['high'] - estimate['low']) / 2:.2g}"
    return f"{estimate['mean']:.3g}{half}"
