"""What `decondense measure` measured in; lines to print, tables and figures out. Measures nothing."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decondense.comparison import Comparison
from decondense.condensation import Condensation
from decondense.files import write_text
from decondense.report import canvas, figures, matrix_figures, model_figures
from decondense.report.model_tables import last_n_table
from decondense.report.tables import Column, Table
from decondense.revisions import Checkpoint

MOST_COMPARED = 10
"""Comparisons that are printed; results.json has all."""


@dataclass(frozen=True)
class Measured:
    """One result: the source of its texts, the stack of an encoder-decoder, and the measurement."""

    source: str
    stack: str | None
    result: Condensation


@dataclass(frozen=True)
class Series:
    """Checkpoints of one training, and what is told of each, "tokens" or "steps"; empty where the models are none."""

    checkpoints: Sequence[Checkpoint]
    unit: str


@dataclass(frozen=True)
class Kinds:
    """Which figures were asked for."""

    family: bool
    paired: bool
    series: Series


def split(names: str) -> list[str]:
    """Names with commas between them."""
    return [name.strip() for name in names.split(",") if name.strip()]


def titles(names: Iterable[str]) -> dict[str, str]:
    """A title for people to read by name: the end of a folder's path where no other ends like it, a hub name as it is."""
    ends = {name: Path(name).resolve().name if Path(name).exists() else name for name in names}
    all_ends = list(ends.values())
    return {name: end if all_ends.count(end) == 1 else name for name, end in ends.items()}


def stems(titles: Sequence[str]) -> list[str]:
    """A file name for each title: letters that every file system takes, a number where two are alike."""
    found: list[str] = []
    for title in titles:
        stem = re.sub(r"[^\w.@+-]+", "-", title.replace("/", "--")).strip(".-") or "model"
        found.append(next(name for name in _numbered(stem) if name.lower() not in {one.lower() for one in found}))
    return found


def _numbered(stem: str) -> Iterator[str]:
    yield stem
    for number in itertools.count(2):
        yield f"{stem}-{number}"


def compare(measured: Sequence[Measured]) -> list[tuple[Measured, Comparison]]:
    """Each model that has a first one measured on the same texts (and is the same stack), and how it compares with that."""
    found = []
    for place, one in enumerate(measured):
        for base in measured[:place]:
            same = (base.source, base.stack, base.result.samples) == (one.source, one.stack, one.result.samples)
            if same and base.result.model != one.result.model and not base.result.broken and not one.result.broken:
                found.append((one, base.result.compare(one.result)))
                break
    return found


def compared(one: Measured, comparison: Comparison) -> dict[str, Any]:
    """What results.json says of a comparison."""
    about = {"texts": one.source} | ({"stack": one.stack} if one.stack is not None else {})
    return {**comparison.summary(), **about}


def lines(measured: Sequence[Measured], comparisons: Sequence[tuple[Measured, Comparison]]) -> Iterator[str]:
    """The table, what speaks against reading it as it stands, why models look condensed, and how they differ."""
    of = _names(measured)
    yield table(measured).plain()
    for title, one in zip(of, measured, strict=True):
        for doubt in one.result.doubts:
            yield f"note: {title}: {doubt}"
    for title, one in zip(of, measured, strict=True):
        if one.result.totals and len(one.result.broken) < one.result.layers:
            yield f"{title}: {one.result.diagnose().sentence}"
    if comparisons:
        short, where = titles(one.result.model for one in measured), _where(measured)
        yield "paired text by text, mean over layers [95 % interval]:"
        for one, comparison in comparisons[:MOST_COMPARED]:
            said = "" if comparison.mean.clear else ", within noise"
            yield f"  {short[comparison.second]} - {short[comparison.first]}{where(one)}: {comparison.mean}{said}"
        if len(comparisons) > MOST_COMPARED:
            yield f"  and {len(comparisons) - MOST_COMPARED} more, in results.json"


def table(measured: Sequence[Measured]) -> Table:
    """A row for each result: mean cosines of its first, middle and last layer with their 95 % intervals, rho and tau."""
    columns: list[Column | str] = [Column("model", align="left"), "texts", "tokens"]
    columns += [Column(name, align="right") for name in ("first layer", "middle layer", "last layer")]
    rows = []
    for title, one in zip(_names(measured), measured, strict=True):
        result = one.result
        cosines = [_cosine(result, layer) for layer in (0, result.layers // 2, result.layers - 1)]
        ranks = [None if math.isnan(rank) else rank for rank in (result.spearman, result.kendall)]
        rows.append([title, result.samples, int(result.tokens.sum()), *cosines, *ranks])
    return Table([*columns, Column("rho", ".2f"), Column("tau", ".2f")], rows)


def _cosine(result: Condensation, layer: int) -> str:
    if math.isnan(result.mean_cosine[layer]):
        return "not finite"
    low, high = result.mean_cosine_interval[layer]
    interval = "" if math.isnan(low) else f" [{low:.3f} {high:.3f}]"
    return f"{result.mean_cosine[layer]:.3f}{interval}"


def _names(measured: Sequence[Measured]) -> list[str]:
    """What tells the results apart: the model, its stack, the source where there are several."""
    models, where = titles(one.result.model for one in measured), _where(measured)
    return [models[one.result.model] + where(one) for one in measured]


def _where(measured: Sequence[Measured]) -> Callable[[Measured], str]:
    """Says of a result which stack it is, and on which source it was measured where there are several."""
    sources = titles(one.source for one in measured)

    def told(one: Measured) -> str:
        return (f" ({one.stack})" if one.stack else "") + (f" on {sources[one.source]}" if len(sources) > 1 else "")

    return told


def write(measured: Sequence[Measured], kinds: Kinds, out: Path, formats: Sequence[str]) -> list[str]:
    """Write tables and figures into `out`; gives their names. Nothing is drawn that was not measured."""
    of = _names(measured)
    results = [one.result for one in measured]
    write_text(out / "metrics.csv", _metrics_csv(of, results))
    write_text(out / "last-n.csv", _csv(last_n_table(results, of)))
    paths = [out / "metrics.csv", out / "last-n.csv"]
    intervals = [result.mean_cosine_interval for result in results]
    paths += model_figures.layer_lines(results, of, out / "layers", formats, intervals)
    whole = [not result.broken and result.pair_counts is not None for result in results]
    if all(whole):
        paths += _draw_histograms(measured, of, kinds, out, formats)
    for stem, result in zip(stems(of), results, strict=True):
        end = "" if len(results) == 1 else f"-{stem}"
        if (profile := result.positions) is not None:
            counts = result.totals["at_position"].max(axis=0).astype("int64")
            paths += matrix_figures.positions(profile, counts, out / f"positions{end}", formats)
        if result.similarity is not None and not result.broken:
            paths += matrix_figures.similarity(result.similarity, out / f"similarity{end}", formats)
    return _grouped(paths, formats)


def _grouped(paths: Sequence[Path], formats: Sequence[str]) -> list[str]:
    """Names of files for people: a figure once, those of each result together."""
    of = {path.stem: path for path in paths}
    tables = [
        path.name
        for path in of.values()
        if not any(other.stem == path.stem and other.suffix != ".csv" for other in paths)
    ]
    drawn = [name for name, path in of.items() if path.name not in tables]
    shared = dict.fromkeys(
        name.split("-")[0] + "-*" if name.startswith(("positions-", "similarity-")) else name for name in drawn
    )
    return [*tables, *([f"{', '.join(shared)} ({', '.join([*formats, 'csv'])})"] if shared else [])]


def _draw_histograms(
    measured: Sequence[Measured], of: Sequence[str], kinds: Kinds, out: Path, formats: Sequence[str]
) -> list[Path]:
    results = [one.result for one in measured]
    paths: list[Path] = []
    sources = list(dict.fromkeys(one.source for one in measured))
    if len(sources) > 1:
        rows = list(dict.fromkeys((one.result.model, one.stack) for one in measured))
        grid = [[one.result for one in measured if (one.result.model, one.stack) == row] for row in rows]
        short = titles(model for model, _ in rows)
        heads = [short[model] + (f" ({stack})" if stack else "") for model, stack in rows]
        paths += model_figures.texts_grid(grid, heads, list(titles(sources).values()), out / "texts", formats)
    # The other figures are of models: on the first source of texts.
    chosen = [
        (name, one.result)
        for name, one in zip(of, measured, strict=True)
        if one.source == sources[0] and one.stack in (None, "decoder")
    ]
    names, first = [name for name, _ in chosen], [result for _, result in chosen]
    if kinds.family:
        ranks = [{kind: result.rank_interval(kind) for kind in ("spearman", "kendall")} for result in first]
        paths += model_figures.family(
            first, [result.parameters for result in first], names, out / "family", formats, ranks
        )
    if kinds.paired:
        pairs = list(zip(first[::2], first[1::2], strict=True))
        paths += model_figures.paired(pairs, list(zip(names[::2], names[1::2], strict=True)), out / "paired", formats)
    if kinds.series.checkpoints:
        told = [(one.tokens if kinds.series.unit == "tokens" else one.step) or 0.0 for one in kinds.series.checkpoints]
        labels = [one.label if one.step is None else f"step {one.step:.0f}" for one in kinds.series.checkpoints]
        paths += model_figures.revisions(first, told, labels, out / "revisions", formats, unit=kinds.series.unit)
    elif len(sources) == 1:
        paths += figures.heatmaps(results, of, out / "heatmap", formats)
    return paths


def _metrics_csv(of: Sequence[str], results: Sequence[Condensation]) -> str:
    """Every metric of every layer, a line each, with its interval over texts where it has one."""
    lines: list[list[Any]] = [["model", "layer", "metric", "value", "low", "high"]]
    for title, result in zip(of, results, strict=True):
        for name, values in result.metrics.items():
            ends = result.interval(name) if name in result.text_metrics else None
            for layer, value in enumerate(values):
                low, high = ("", "") if ends is None else (_cell(ends[layer][0]), _cell(ends[layer][1]))
                lines.append([title, layer, name, _cell(value), low, high])
    return canvas.csv_text(lines)


def _csv(content: Table) -> str:
    rows: list[list[Any]] = [[column.name for column in content.columns]]
    rows += [["" if cell is None else _cell(cell) for cell in row] for row in content.rows]
    return canvas.csv_text(rows)


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(float(value))
    return value
