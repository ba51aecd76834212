"""Figures of several models show each of them where it belongs, say it in their csv, and refuse what they cannot show."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
from PIL import Image

from decondense import Condensation
from decondense.errors import UserError
from decondense.report import (
    canvas,
    family,
    last_n_table,
    layer_lines,
    paired,
    positions,
    revisions,
    similarity,
    style,
    texts_grid,
)

Make = Callable[..., Any]
NAN = float("nan")
SIZES = [1_500_000_000, 124_000_000, 355_000_000]
TITLES = ["xl", "small", "medium"]
TOKENS = [0.0, 4e9, 2e10, 5e10, 1e11, 3e11, 6e11, 1e12, 2e12, 4e12, 5e12, 6e12]


class WithoutHistogram:
    """A measurement for which no histogram was asked: it says so when asked for one, as `Condensation` does."""

    model = "plain"
    mean_cosine = numpy.array([0.1, 0.5, 0.9])
    spearman = kendall = 1.0
    histogram_of_mean = None

    @property
    def histogram(self) -> Any:
        raise UserError("the histogram was not measured")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def fractions(result: Any) -> Any:
    return numpy.arange(len(result.mean_cosine)) / (len(result.mean_cosine) - 1)


def counts(row: dict[str, str]) -> list[int]:
    return [int(cell) for name, cell in row.items() if name.startswith("pairs_from_")]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that were saved, still whole."""
    figures: list[Any] = []
    save = canvas.save

    def keep(figure: Any, *others: Any) -> list[Path]:
        figures.append(figure)
        return save(figure, *others)

    monkeypatch.setattr(canvas, "save", keep)
    return figures


def visible(figure: Any) -> list[Any]:
    return [axes for axes in figure.axes if axes.get_visible()]


def heatmaps_of(figure: Any) -> list[Any]:
    return [axes for axes in visible(figure) if axes.images]


def panel(figure: Any, y_label: str) -> Any:
    [found] = [axes for axes in visible(figure) if axes.get_ylabel().startswith(y_label)]
    return found


def check_axes(figure: Any) -> None:
    """The paper's: cosine from -1 to 1 in bins over the whole height, density from 0 to 10, depth from 0 to 1."""
    for axes in heatmaps_of(figure):
        [image] = axes.images
        assert image.get_clim() == (0, 10)
        assert axes.get_ylim() == (-1, 1)
        assert image.get_extent()[2:] == [-1, 1]
        bins, layers = image.get_array().shape
        assert bins == 128
        half = 0.5 / (layers - 1)  # columns are centred on their layers
        assert axes.get_xlim() == tuple(image.get_extent()[:2]) == pytest.approx((-half, 1 + half))


def test_a_family_stands_in_the_order_of_size(results: list[Any], tmp_path: Path, drawn: list[Any]) -> None:
    family(results, SIZES, TITLES, tmp_path / "family", formats=["png"])
    [figure] = drawn
    check_axes(figure)
    assert [axes.get_title() for axes in heatmaps_of(figure)] == ["small", "medium", "xl"]
    assert len(visible(figure)) == 3 + 1 + 1  # heatmaps, the bar of colours, the correlations
    for axes, result in zip(heatmaps_of(figure), (results[1], results[2], results[0]), strict=True):
        expected = result.histogram / result.histogram.sum(1, keepdims=True) * 64
        numpy.testing.assert_allclose(axes.images[0].get_array(), expected.T, rtol=1e-12)
        assert f"ρ {style.number(result.spearman)}" in axes.texts[0].get_text()

    axes = panel(figure, "rank correlation")
    rho, tau = axes.lines
    assert axes.get_xscale() == "log" and axes.get_ylim() == (-1, 1)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["124M", "355M", "1.5B"]
    assert list(rho.get_xdata()) == list(tau.get_xdata()) == sorted(SIZES)
    assert list(rho.get_ydata()) == [results[index].spearman for index in (1, 2, 0)]
    assert list(tau.get_ydata()) == [results[index].kendall for index in (1, 2, 0)]
    assert rho.get_marker() != tau.get_marker()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["Spearman's ρ", "Kendall's τ"]


def test_the_familys_csv_holds_sizes_counts_and_correlations(results: list[Any], tmp_path: Path) -> None:
    intervals: list[Any] = [
        {"spearman": (-0.5, 0.5), "kendall": None},
        {},
        {"kendall": (NAN, NAN), "spearman": (None, None)},
    ]
    family(results, SIZES, TITLES, tmp_path / "family", ["png"], intervals=intervals)
    rows = iter(read(tmp_path / "family.csv"))
    for index in (1, 2, 0):
        for layer, expected in enumerate(results[index].histogram):
            row = next(rows)
            assert (row["title"], row["model"]) == (TITLES[index], results[index].model)
            assert (int(row["parameters"]), int(row["layer"])) == (SIZES[index], layer)
            assert float(row["mean_cosine"]) == results[index].mean_cosine[layer]
            assert (float(row["spearman"]), float(row["kendall"])) == (results[index].spearman, results[index].kendall)
            assert counts(row) == expected.tolist()
            assert (row["spearman_low"], row["spearman_high"]) == (("-0.5", "0.5") if index == 0 else ("", ""))
            assert (row["kendall_low"], row["kendall_high"]) == ("", "")
    assert next(rows, None) is None


def test_a_correlation_that_is_not_defined_is_a_gap(results: list[Any], tmp_path: Path, drawn: list[Any]) -> None:
    results[2].spearman = NAN
    family(results, SIZES, TITLES, tmp_path / "family", formats=["png"])
    rho, tau = panel(drawn[0], "rank correlation").lines
    assert numpy.isnan(rho.get_ydata()).tolist() == [False, True, False]
    assert not numpy.any(numpy.isnan(tau.get_ydata()))
    assert "ρ –" in heatmaps_of(drawn[0])[1].texts[0].get_text()
    rows = read(tmp_path / "family.csv")
    assert {row["title"] for row in rows if row["spearman"] == ""} == {"medium"}
    assert all(row["kendall"] for row in rows)


def test_intervals_are_bars_over_their_model(results: list[Any], tmp_path: Path, drawn: list[Any]) -> None:
    intervals: list[Any] = [{"spearman": (0.25, 0.75)}, {"spearman": [-1, 0], "kendall": numpy.array([0, 0.5])}, {}]
    family(results, SIZES, TITLES, tmp_path / "family", ["png"], intervals=intervals)
    bars = [line for line in panel(drawn[0], "rank correlation").lines if len(line.get_xdata()) == 2]
    found = {(line.get_xdata()[0], tuple(line.get_ydata()), line.get_color()) for line in bars}
    rho, tau = (look.light for look in style.PALETTE[:2])
    assert found == {(SIZES[0], (0.25, 0.75), rho), (SIZES[1], (-1, 0), rho), (SIZES[1], (0, 0.5), tau)}
    # Two bars of one model would hide one another: they are drawn apart.
    places = sorted(line.get_window_extent().x0 for line in bars if line.get_xdata()[0] == SIZES[1])
    assert places[1] - places[0] > 5


def test_models_of_one_size_are_drawn(results: list[Any], tmp_path: Path, drawn: list[Any]) -> None:
    family(results, [7, 7, 7], TITLES, tmp_path / "equal", formats=["png"])
    family(results[:1], [7], TITLES[:1], tmp_path / "one", formats=["png"])
    assert [axes.get_title() for axes in heatmaps_of(drawn[0])] == TITLES
    assert [len(heatmaps_of(figure)) for figure in drawn] == [3, 1]
    assert all(panel(figure, "rank").get_xticks().tolist() == [7] for figure in drawn)


def test_many_sizes_have_ticks_that_do_not_run_into_one_another(
    make_measurement: Make, tmp_path: Path, drawn: list[Any]
) -> None:
    results = [make_measurement("m", seed, 2) for seed in range(9)]
    family(results, [100, 101, 102, 103, 200, 205, 999, 1000, 1001], list("abcdefghi"), tmp_path / "many", ["png"])
    ticks = panel(drawn[0], "rank").get_xticks()
    assert len(ticks) >= 3 and (ticks[0], ticks[-1]) == (100, 1001)
    assert numpy.diff(numpy.log10(ticks)).min() > 0.1


def test_pairs_stand_side_by_side_with_their_lines(results: list[Any], tmp_path: Path, drawn: list[Any]) -> None:
    pairs = [(results[0], results[1]), (results[2], results[0])]
    titles = [("base", "distilled"), ("other base", "other distilled")]
    paired(pairs, titles, tmp_path / "paired", formats=["png"])
    [figure] = drawn
    check_axes(figure)
    assert [axes.get_title() for axes in heatmaps_of(figure)] == ["base", "distilled", "other base", "other distilled"]
    assert len(visible(figure)) == 2 * 3 + 1
    lines = [axes for axes in visible(figure) if axes.get_ylabel() == "mean cosine"]
    for axes, pair, row in zip(lines, pairs, (0, 2), strict=True):
        left, right = axes.lines
        for line, result in zip((left, right), pair, strict=True):
            numpy.testing.assert_array_equal(line.get_ydata(), result.mean_cosine)
            numpy.testing.assert_array_equal(line.get_xdata(), fractions(result))
        assert left.get_linestyle() != right.get_linestyle()
        for place, result in zip((row, row + 1), pair, strict=True):
            assert style.number(result.spearman) in heatmaps_of(figure)[place].texts[0].get_text()
    rows = read(tmp_path / "paired.csv")
    for index, (pair, names) in enumerate(zip(pairs, titles, strict=True)):
        for side, result, title in zip(("first", "second"), pair, names, strict=True):
            mine = [row for row in rows if (row["pair"], row["side"]) == (str(index), side)]
            assert {(row["title"], row["model"]) for row in mine} == {(title, result.model)}
            assert [counts(row) for row in mine] == result.histogram.tolist()
    assert len(rows) == sum(len(result.mean_cosine) for pair in pairs for result in pair)


@pytest.fixture
def checkpoints(make_measurement: Make) -> list[Any]:
    return [make_measurement("olmo", seed, 5) for seed in range(12)]


def test_many_checkpoints_have_eight_heatmaps_and_all_are_in_the_lines(
    checkpoints: list[Any], tmp_path: Path, drawn: list[Any]
) -> None:
    titles = [f"at {index}" for index in range(12)]
    revisions(checkpoints, TOKENS, titles, tmp_path / "training", formats=["png"])
    [figure] = drawn
    check_axes(figure)
    picked = [int(axes.get_title().split()[1]) for axes in heatmaps_of(figure)]
    assert (len(picked), picked[0], picked[-1]) == (8, 0, 11)
    assert set(numpy.diff(picked)) == {1, 2}
    for axes, index in zip(heatmaps_of(figure), picked, strict=True):
        assert axes.texts[0].get_text().startswith(f"{style.short_count(TOKENS[index])} tokens\n")
    axes = panel(figure, "mean cosine")
    assert axes.get_xlabel() == "tokens seen"
    assert len(axes.lines) == 5
    for layer, line in enumerate(axes.lines):
        assert list(line.get_xdata()) == TOKENS
        assert list(line.get_ydata()) == [result.mean_cosine[layer] for result in checkpoints]
    rows = read(tmp_path / "training.csv")
    assert [row["title"] for row in rows[::5]] == titles
    assert [float(row["tokens_seen"]) for row in rows[::5]] == TOKENS
    assert [counts(row) for row in rows] == [line for one in checkpoints for line in one.histogram.tolist()]


def test_the_axis_of_what_was_seen_shows_zero_and_spends_no_room_before_the_first_checkpoint(
    checkpoints: list[Any], tmp_path: Path, drawn: list[Any]
) -> None:
    revisions(checkpoints, TOKENS, [""] * 12, tmp_path / "training", formats=["png"])
    axes = panel(drawn[0], "mean cosine")
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "1B", "10B", "100B", "1T"]
    places = axes.transAxes.inverted().transform(axes.transData.transform([(value, 0.5) for value in TOKENS]))[:, 0]
    assert numpy.all(numpy.diff(places) > 0) and places[0] > 0 and places[-1] < 1
    assert places[1] - places[0] < 0.25
    # Logarithmic after it: factors of 10 are equal steps, but for the 1 in log10(1 + x): at 1e11 / 1e9 that is 0.4 %.
    assert places[7] - places[4] == pytest.approx(
        (math.log10(1e12) - 11) * (places[10] - places[4]) / math.log10(50), 0.01
    )


def test_few_checkpoints_are_counted_in_steps(checkpoints: list[Any], tmp_path: Path, drawn: list[Any]) -> None:
    revisions(checkpoints[:3], numpy.array([1, 10, 2000]), ["a", "b", "c"], tmp_path / "steps", ["png"], unit="steps")
    assert [axes.texts[0].get_text().split("\n")[0] for axes in heatmaps_of(drawn[0])] == [
        "1 steps",
        "10 steps",
        "2k steps",
    ]
    assert panel(drawn[0], "mean cosine").get_xlabel() == "steps seen"
    assert [float(row["steps_seen"]) for row in read(tmp_path / "steps.csv")[::5]] == [1, 10, 2000]
    revisions(checkpoints[:1], [0], ["a"], tmp_path / "start", ["png"])
    assert len(heatmaps_of(drawn[1])) == 1


def test_a_grid_has_models_down_and_texts_across(make_measurement: Make, tmp_path: Path, drawn: list[Any]) -> None:
    results = [[make_measurement(f"m{row}", 3 * row + column, 4 + row) for column in range(3)] for row in range(2)]
    texts_grid(results, ["small", "large"], ["wiki", "imdb", "squad"], tmp_path / "grid", formats=["png"])
    [figure] = drawn
    check_axes(figure)
    assert len(visible(figure)) == 2 * 3 + 1
    flat = [one for row in results for one in row]
    for axes, result in zip(heatmaps_of(figure), flat, strict=True):
        numpy.testing.assert_array_equal(axes.lines[0].get_ydata(), result.mean_cosine)
        assert len(axes.texts) == 0
    assert [axes.get_title() for axes in heatmaps_of(figure)] == ["wiki", "imdb", "squad", "", "", ""]
    assert [axes.get_ylabel() for axes in heatmaps_of(figure)] == ["small", "", "", "large", "", ""]
    rows = read(tmp_path / "grid.csv")
    assert [counts(row) for row in rows] == [line for one in flat for line in one.histogram.tolist()]
    assert [(row["row"], row["column"]) for row in rows if row["layer"] == "0"] == [
        (row, column) for row in ("small", "large") for column in ("wiki", "imdb", "squad")
    ]


def test_lines_of_layers_need_no_histogram_and_have_bands_where_given(
    results: list[Any], tmp_path: Path, drawn: list[Any]
) -> None:
    shown = [*results[:2], WithoutHistogram()]
    band = numpy.array([[0.0, 0.2], [0.4, NAN], [0.8, 1.0]])
    layer_lines(shown, ["one", "two", "three"], tmp_path / "lines", ["png"], intervals=[None, None, band])
    [axes] = visible(drawn[0])
    assert len(axes.collections) == 1
    for line, result in zip(axes.lines, shown, strict=True):
        numpy.testing.assert_array_equal(line.get_ydata(), result.mean_cosine)
        numpy.testing.assert_array_equal(line.get_xdata(), fractions(result))
    rows = read(tmp_path / "lines.csv")
    assert [float(row["mean_cosine"]) for row in rows] == [value for one in shown for value in one.mean_cosine]
    assert [(row["title"], row["low"], row["high"]) for row in rows[-3:]] == [
        ("three", "0.0", "0.2"),
        ("three", "0.4", ""),
        ("three", "0.8", "1.0"),
    ]
    assert all(row["low"] == row["high"] == "" for row in rows[:-3])
    assert [(row["layer"], row["fraction_of_depth"]) for row in rows[-3:]] == [("0", "0.0"), ("1", "0.5"), ("2", "1.0")]


def test_more_lines_than_colours_are_told_apart(make_measurement: Make, tmp_path: Path, drawn: list[Any]) -> None:
    names = [*"abcdefghijklm", "dispersion"]
    layer_lines([make_measurement(name, 1) for name in names], names, tmp_path / "lines", ["png"])
    looks = {
        (line.get_color(), line.get_marker(), str(line._unscaled_dash_pattern)) for line in visible(drawn[0])[0].lines
    }
    assert len(looks) == len(names)


def test_positions_without_a_text_are_blank_and_the_first_are_seen(tmp_path: Path, drawn: list[Any]) -> None:
    profile = numpy.random.default_rng(0).uniform(-0.1, 1, (4, 200))
    texts = numpy.where(numpy.arange(200) < 150, 9, 0)
    texts[7] = 0
    positions(profile, texts, tmp_path / "positions", formats=["png"])
    axes, _ = visible(drawn[0])
    [mesh] = axes.collections
    assert mesh.get_clim() == (0, 1)
    shown = numpy.ma.filled(numpy.ma.masked_invalid(mesh.get_array()).reshape(4, 200), NAN)
    numpy.testing.assert_array_equal(shown, numpy.where(texts > 0, profile, NAN))
    edges = axes.transAxes.inverted().transform(axes.transData.transform([(-0.5, 0), (0.5, 0), (9.5, 0), (199.5, 0)]))
    first, ten, whole = edges[1:, 0]
    assert (edges[0, 0], whole) == (pytest.approx(0), pytest.approx(1))
    assert first > 0.1 and ten > 0.4
    rows = read(tmp_path / "positions.csv")
    assert [(int(row["layer"]), int(row["position"])) for row in rows] == [(x, y) for x in range(4) for y in range(200)]
    cells = [row["mean_cosine"] for row in rows]
    assert [cell == "" for cell in cells] == [count == 0 for count in texts.tolist()] * 4
    assert [float(cell) for cell in cells if cell] == profile[:, texts > 0].ravel().tolist()
    assert [int(row["texts"]) for row in rows] == texts.tolist() * 4


@pytest.mark.parametrize(("layers", "numbered"), [(1, True), (12, True), (13, False), (33, False)])
def test_a_similarity_is_a_square_with_numbers_where_they_fit(
    layers: int, numbered: bool, tmp_path: Path, drawn: list[Any]
) -> None:
    matrix = numpy.random.default_rng(layers).random((layers, layers))
    similarity(matrix, tmp_path / "cka", formats=["png"])
    axes, _ = visible(drawn[0])
    [image] = axes.images
    assert image.get_clim() == (0, 1)
    assert axes.get_aspect() == 1
    numpy.testing.assert_array_equal(image.get_array(), matrix)
    expected = [f"{value:.2f}".removeprefix("0") for value in matrix.ravel()] if numbered else []
    assert [text.get_text() for text in axes.texts] == expected
    assert len(axes.get_xticks()) <= 12
    rows = read(tmp_path / "cka.csv")
    assert [float(row["similarity"]) for row in rows] == matrix.ravel().tolist()
    assert [(int(row["layer"]), int(row["other_layer"])) for row in rows[:layers]] == [(0, x) for x in range(layers)]


def test_a_similarity_that_is_not_defined_is_blank(tmp_path: Path, drawn: list[Any]) -> None:
    # Float32 sums leave a similarity a little above 1.
    similarity([[1 + 1e-7, NAN], [NAN, -1e-8]], tmp_path / "cka", formats=["png"])
    assert [text.get_text() for text in visible(drawn[0])[0].texts] == ["1.00", ".00"]
    assert [row["similarity"] for row in read(tmp_path / "cka.csv")][1:3] == ["", ""]


def test_the_last_n_layers_are_averaged(results: list[Any]) -> None:
    table = last_n_table(results, TITLES)
    assert [column.name for column in table.columns] == ["last n layers", *TITLES]
    assert [row[0] for row in table.rows] == list(range(1, 10))  # the deepest has nine
    for place, result in enumerate(results, start=1):
        means = result.mean_cosine
        for n, row in enumerate(table.rows, start=1):
            # Sums of nine numbers in another order.
            expected = pytest.approx(float(means[-n:].mean()), rel=1e-14) if n <= len(means) else None
            assert row[place] == expected
    assert table.plain().splitlines()[-1].split()[1:3] == ["-", "-"]


DRAW: dict[str, Callable[[Make, Path, list[str]], list[Path]]] = {
    "family": lambda make, path, formats: family(
        [make("a", 0), make("b", 1)], [10**6, 10**9], ["a", "b"], path, formats, [{"kendall": (0.1, 0.2)}, {}]
    ),
    "paired": lambda make, path, formats: paired([(make("a", 0), make("b", 1))], [("a", "b")], path, formats),
    "revisions": lambda make, path, formats: revisions(
        [make("a", 0), make("a", 1)], [0, 100], ["0", "1"], path, formats, unit="steps"
    ),
    "texts_grid": lambda make, path, formats: texts_grid([[make("a", 0)], [make("b", 1)]], "ab", "c", path, formats),
    "layer_lines": lambda make, path, formats: layer_lines(
        [make("a", 0)], ["a"], path, formats, [numpy.tile([0.0, 1.0], (7, 1))]
    ),
    "positions": lambda make, path, formats: positions([[0.1, 0.9]], [2, 1], path, formats),
    "similarity": lambda make, path, formats: similarity([[1.0, 0.5], [0.5, 1.0]], path, formats),
}


@pytest.mark.parametrize("name", DRAW)
def test_the_same_numbers_give_the_same_whole_files(name: str, make_measurement: Make, tmp_path: Path) -> None:
    formats = ["png", "svg", "pdf"]
    first, second = (DRAW[name](make_measurement, tmp_path / stem, formats) for stem in ("first", "second-0.5"))
    assert [path.name for path in second] == [f"second-0.5.{suffix}" for suffix in [*formats, "csv"]]
    assert sorted(tmp_path.iterdir()) == sorted([*first, *second])
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.suffix
    with Image.open(first[0]) as image:
        assert image.width <= style.FIGURE_WIDTH_INCHES * style.DOTS_PER_INCH
        # Something is drawn, and nothing at the edge, where it would be cut.
        pixels = numpy.asarray(image.convert("L"))
    assert pixels.min() < 60
    edge = numpy.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert edge.min() == 255
    assert b"<svg" in first[1].read_bytes()[:1000]
    assert first[2].read_bytes().startswith(b"%PDF-")


@pytest.mark.parametrize("name", DRAW)
def test_an_unknown_format_is_refused(name: str, make_measurement: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"format 'jpg' is not known"):
        DRAW[name](make_measurement, tmp_path / "figure", ["png", "jpg"])
    assert list(tmp_path.iterdir()) == []


def flat(layers: int = 7, bins: int = 128) -> Any:
    return SimpleNamespace(
        model="m",
        mean_cosine=numpy.full(layers, 0.5),
        spearman=0.5,
        kendall=0.5,
        histogram=numpy.ones((layers, bins), dtype=numpy.int64),
        histogram_of_mean=None,
    )


ONE, TWO, DEEP, COARSE = flat(), flat(), flat(layers=9), flat(bins=64)
LACKING: Any = WithoutHistogram()
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "family: none": (lambda path: family([], [], [], path), "at least one"),
    "family: titles": (lambda path: family([ONE], [1], ["a", "b"], path), "given 1 and 2"),
    "family: sizes": (lambda path: family([ONE], [1, 2], ["a"], path), "one size for each of 1 results .* given 2"),
    "family: size 0": (lambda path: family([ONE, TWO], [0, 2], ["a", "b"], path), r"sizes=\[0, 2\].*above 0"),
    "family: no histogram": (
        lambda path: family([ONE, LACKING], [1, 2], ["a", "b"], path),
        "^b: the histogram was not measured",
    ),
    "family: bins": (lambda path: family([ONE, COARSE], [1, 2], ["a", "b"], path), "number of bins"),
    "family: intervals": (lambda path: family([ONE], [1], ["a"], path, intervals=[{}, {}]), "one mapping of intervals"),
    "family: name": (
        lambda path: family([ONE], [1], ["a"], path, intervals=[{"spearmann": (0, 1)}]),
        "did you mean 'spearman'",
    ),
    "family: swapped": (lambda path: family([ONE], [1], ["a"], path, intervals=[{"kendall": (1, 0)}]), "swapped"),
    "family: three ends": (
        lambda path: family([ONE], [1], ["a"], path, intervals=[{"kendall": (0, 1, 2)}]),
        r"\(low, high\) expected",
    ),
    "family: kind": (lambda path: family([ONE], [1], ["a"], path, kind="histogramm"), "did you mean 'histogram'"),
    "family: of mean": (
        lambda path: family([ONE], [1], ["a"], path, kind="histogram_of_mean"),
        "a: no histogram of the averaged matrix",
    ),
    "paired: none": (lambda path: paired([], [], path), "at least one"),
    "paired: titles": (lambda path: paired([(ONE, TWO)], [], path), "one pair of titles for each of 1 results"),
    "paired: no histogram": (lambda path: paired([(ONE, LACKING)], [("a", "b")], path), "^b: the histogram was not"),
    "revisions: none": (lambda path: revisions([], [], [], path), "at least one"),
    "revisions: seen": (
        lambda path: revisions([ONE, TWO], [0], ["a", "b"], path),
        "one number of tokens seen for each",
    ),
    "revisions: falling": (lambda path: revisions([ONE, TWO], [2, 1], ["a", "b"], path), "tokens seen must rise"),
    "revisions: equal": (lambda path: revisions([ONE, TWO], [2, 2], ["a", "b"], path), "tokens seen must rise"),
    "revisions: infinite": (lambda path: revisions([ONE], [math.inf], ["a"], path), "tokens seen must .* be finite"),
    "revisions: negative": (lambda path: revisions([ONE], [-1], ["a"], path), "tokens seen begin at -1"),
    "revisions: unit": (lambda path: revisions([ONE], [0], ["a"], path, unit="token"), "did you mean 'tokens'"),
    "revisions: layers": (lambda path: revisions([ONE, DEEP], [0, 1], ["a", "b"], path), "given 7, 9"),
    "texts_grid: none": (lambda path: texts_grid([], [], [], path), "at least one"),
    "texts_grid: rows": (lambda path: texts_grid([[ONE]], ["a", "b"], ["c"], path), "title of a row for each of 1"),
    "texts_grid: columns": (
        lambda path: texts_grid([[ONE, TWO], [ONE]], ["a", "b"], ["c", "d"], path),
        "^b: a result for each of 2 columns expected, given 1",
    ),
    "texts_grid: no histogram": (lambda path: texts_grid([[LACKING]], ["a"], ["c"], path), "^a, c: the histogram"),
    "layer_lines: none": (lambda path: layer_lines([], [], path), "no result"),
    "layer_lines: titles": (lambda path: layer_lines([ONE], [], path), "one title for each of 1"),
    "layer_lines: intervals": (
        lambda path: layer_lines([ONE], ["a"], path, intervals=[]),
        "one interval for each of 1",
    ),
    "layer_lines: shape": (
        lambda path: layer_lines([ONE], ["a"], path, intervals=[numpy.zeros((2, 7))]),
        r"^a: interval of shape \[7 layers, 2\] expected, given \[2, 7\]",
    ),
    "positions: shapes": (lambda path: positions([[0.1, 0.2]], [1], path), r"given \[1, 2\] and \[1\]"),
    "positions: flat": (lambda path: positions([0.1, 0.2], [1, 1], path), r"given \[2\] and \[2\]"),
    "positions: no text": (lambda path: positions([[0.1, 0.2]], [0, 0], path), "nothing to draw"),
    "similarity: oblong": (lambda path: similarity([[1.0, 0.5]], path), r"given \[1, 2\]"),
    "similarity: empty": (lambda path: similarity(numpy.zeros((0, 0)), path), r"given \[0, 0\]"),
    "similarity: range": (lambda path: similarity([[1.5]], path), "given 1.5 to 1.5"),
    "similarity: none": (lambda path: similarity([[NAN]], path), "nothing to draw"),
    "last_n_table: none": (lambda path: last_n_table([], []), "at least one"),
    "last_n_table: titles": (lambda path: last_n_table([ONE], ["a", "b"]), "given 1 and 2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_shown_is_refused_in_one_line_and_nothing_is_written(case: str, tmp_path: Path) -> None:
    act, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as caught:
        act(tmp_path / "figure")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_condensation_is_drawn_and_says_what_it_lacks(tmp_path: Path) -> None:
    means = numpy.random.default_rng(0).random((4, 5))
    whole, lacking = (
        Condensation(
            model="tiny",
            max_length=8,
            tokens=numpy.full(4, 8),
            text_metrics={"mean_cosine": means, "mean_cosine_off_diagonal": means},
            pair_counts=counted,
        )
        for counted in (numpy.ones((5, 128), dtype=numpy.int64), None)
    )
    family([whole], [10**6], ["Tiny"], tmp_path / "family", ["png"])
    layer_lines([lacking], ["Tiny"], tmp_path / "lines", ["png"], intervals=[lacking.mean_cosine_interval])
    [*_, first] = [row[1] for row in last_n_table([lacking], ["Tiny"]).rows]
    assert first == pytest.approx(means.mean(), rel=1e-14)
    with pytest.raises(UserError, match="^Lacking: the histogram was not measured: ask for it"):
        family([whole, lacking], [10**6, 10**7], ["Tiny", "Lacking"], tmp_path / "refused", ["png"])
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["family", "family", "lines", "lines"]
