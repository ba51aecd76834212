"""Pictures are whole, the same each time, free of others' settings, and their csv holds exactly what was given."""

from __future__ import annotations

import csv
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from decondense.errors import UserError
from decondense.report import Series, Trajectory, curves, heatmaps, style, trajectory

ARMS = ("cross_entropy", "dispersion", "effective_rank")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_heatmaps_csv_holds_the_counts_and_means(results: list[Any], tmp_path: Path) -> None:
    heatmaps(results, ARMS, tmp_path / "heatmap", formats=["png"])
    rows = iter(read(tmp_path / "heatmap.csv"))
    for title, result in zip(ARMS, results, strict=True):
        for layer, counts in enumerate(result.histogram):
            row = next(rows)
            assert (row["title"], row["model"], int(row["layer"])) == (title, result.model, layer)
            assert float(row["fraction_of_depth"]) == layer / (len(result.histogram) - 1)
            assert float(row["mean_cosine"]) == result.mean_cosine[layer]
            assert (float(row["spearman"]), float(row["kendall"])) == (result.spearman, result.kendall)
            bins = {
                float(name.removeprefix("pairs_from_")): int(count)
                for name, count in row.items()
                if name.startswith("pairs")
            }
            assert list(bins.values()) == counts.tolist()
            # The names have six decimals; edges are multiples of 1/64, which have exactly six.
            assert list(bins) == [-1 + index / 64 for index in range(128)]
    assert next(rows, None) is None


def test_the_curves_csv_holds_the_points(series: list[Series], tmp_path: Path) -> None:
    curves(series, tmp_path / "curves", "step", "perplexity", x_scale="steps", y_scale="log", formats=["png"])
    rows = read(tmp_path / "curves.csv")
    for one in series:
        mine = [row for row in rows if row["series"] == one.name]
        for axis in ("x", "y", "low", "high"):
            given = getattr(one, axis)
            if given is None:
                assert [row[axis] for row in mine] == [""] * one.points
            else:
                numpy.testing.assert_array_equal([float(row[axis]) for row in mine], given)
    assert len(rows) == sum(one.points for one in series)


def test_the_trajectory_csv_holds_every_layer_at_every_step(arms: list[Trajectory], tmp_path: Path) -> None:
    trajectory(arms, tmp_path / "trajectory", formats=["png"])
    rows = read(tmp_path / "trajectory.csv")
    for arm in arms:
        mine = [row for row in rows if row["arm"] == arm.name]
        numpy.testing.assert_array_equal([float(row["mean_cosine"]) for row in mine], numpy.ravel(arm.mean_cosine))
        assert [(float(row["step"]), int(row["layer"])) for row in mine[:8]] == [(0, layer) for layer in range(7)] + [
            (5, 0)
        ]
    assert len(rows) == 3 * 5 * 7


@pytest.fixture(params=["heatmaps", "curves", "trajectory"])
def draw(
    request: pytest.FixtureRequest, results: list[Any], series: list[Series], arms: list[Trajectory]
) -> Callable[..., list[Path]]:
    drawers: dict[str, Callable[..., list[Path]]] = {
        "heatmaps": lambda path, **options: heatmaps(results, ARMS, path, **options),
        "curves": lambda path, **options: curves(series, path, "step", "perplexity", **options),
        "trajectory": lambda path, **options: trajectory(arms, path, **options),
    }
    return drawers[request.param]


def test_every_format_is_a_whole_file_of_its_kind(draw: Callable[..., list[Path]], tmp_path: Path) -> None:
    written = draw(tmp_path / "run-0.5", formats=["png", "svg", "pdf"])
    # A dot in the name is part of the name.
    assert [path.name for path in written] == [f"run-0.5.{suffix}" for suffix in ("png", "svg", "pdf", "csv")]
    assert sorted(tmp_path.iterdir()) == sorted(written)
    with Image.open(written[0]) as image:
        image.load()
        assert image.info["dpi"] == pytest.approx(
            (style.DOTS_PER_INCH, style.DOTS_PER_INCH), abs=0.1
        )  # PNG counts dots a metre
        # No wider than two columns of a paper, and something is drawn.
        assert image.width <= style.FIGURE_WIDTH_INCHES * style.DOTS_PER_INCH
        assert (
            len(
                set(
                    image.convert("L").getdata()
                    if not hasattr(image, "get_flattened_data")
                    else image.convert("L").get_flattened_data()
                )
            )
            > 20
        )
    drawing = ElementTree.parse(written[1]).getroot()
    assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
    # Letters are outlines, so that no font is needed.
    assert drawing.findall(".//{http://www.w3.org/2000/svg}text") == []
    assert len(drawing.findall(".//{http://www.w3.org/2000/svg}path")) > 20
    content = written[2].read_bytes()
    assert content.startswith(b"%PDF-")
    assert content.rstrip().endswith(b"%%EOF")


def test_the_same_numbers_give_the_same_files(draw: Callable[..., list[Path]], tmp_path: Path) -> None:
    first, second = (draw(tmp_path / name, formats=["png", "svg", "pdf"]) for name in ("first", "second"))
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.suffix


def test_settings_of_others_neither_reach_a_figure_nor_change(draw: Callable[..., list[Path]], tmp_path: Path) -> None:
    plain, *_ = draw(tmp_path / "plain", formats=["png"])
    with matplotlib.rc_context({"font.size": 40.0, "axes.facecolor": "red", "lines.linewidth": 9.0}):
        before = dict(matplotlib.rcParams)
        other, *_ = draw(tmp_path / "other", formats=["png"])
        assert dict(matplotlib.rcParams) == before
    assert plain.read_bytes() == other.read_bytes()


def test_nothing_is_written_when_drawing_fails(
    draw: Callable[..., list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "figure.png").write_text("an older figure")
    save = Figure.savefig

    def fail_on_svg(figure: Figure, file: Any, **options: Any) -> None:
        if options["format"] == "svg":
            raise OSError("no room")
        save(figure, file, **options)

    monkeypatch.setattr(Figure, "savefig", fail_on_svg)
    with pytest.raises(OSError, match="no room"):
        draw(tmp_path / "figure", formats=["png", "svg"])
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]
    assert (tmp_path / "figure.png").read_text() == "an older figure"


def test_an_unknown_format_is_refused_before_anything_is_written(
    draw: Callable[..., list[Path]], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"format 'jpg' is not known.*png, svg, pdf"):
        draw(tmp_path / "figure", formats=["png", "jpg"])
    assert list(tmp_path.iterdir()) == []


def test_a_heatmap_shows_density_at_its_cosine(tmp_path: Path, make_measurement: Callable[..., Any]) -> None:
    """All pairs of the one layer in one bin: a band of the darkest colour, at that cosine and over the whole width."""
    result = make_measurement("m", 0, layers=1)
    result.histogram = numpy.zeros((1, 128), dtype=numpy.int64)
    result.histogram[0, 96] = 5
    result.mean_cosine = numpy.array([-0.9])
    [picture, _] = heatmaps([result], ["m"], tmp_path / "one", formats=["png"])
    with Image.open(picture) as image:
        pixels = numpy.asarray(image.convert("RGB"))[:, : image.width * 3 // 4]  # without the bar of colours

    def colour(name: str) -> NDArray[numpy.bool_]:
        return numpy.all(pixels == [int(name[start : start + 2], 16) for start in (1, 3, 5)], axis=2)

    axis = colour(style.THEMES["light"]["muted"])
    left = axis[:, axis.sum(axis=0).argmax()].nonzero()[0]
    bottom, top = left.max(), left.min()
    rows, columns = colour(style.DENSITY_COLOURS["light"][-1]).nonzero()
    heights = (bottom - rows) / (bottom - top) * 2 - 1
    # The bin spans cosines from 0.5 to 0.515625; the panel is some 450 pixels high, so one of them is 0.005.
    assert heights.min() == pytest.approx(0.5, abs=0.01)
    assert heights.max() == pytest.approx(0.515625, abs=0.01)
    # The axes are lines of 0.8 points, 2.2 pixels, which reach over the ends of the panel.
    assert columns.max() - columns.min() + 1 == pytest.approx(axis.sum(axis=1).max(), abs=6)


def test_many_models_with_long_names_fit(tmp_path: Path, make_measurement: Callable[..., Any]) -> None:
    names = [f"organisation/a-rather-long-name-of-a-model-{size}B-instruct" for size in range(5)]
    results = [make_measurement(name, seed, layers=30) for seed, name in enumerate(names)]
    assert len(heatmaps(results, names, tmp_path / "many", formats=["png"])) == 2
    lines = [Series(name, [0, 1], [1, 2]) for name in [*names, "_hidden", "$x^2$", "<b>"]]
    assert len(curves(lines, tmp_path / "lines", "$x$", "y", formats=["png"])) == 2


def test_one_layer_one_step_one_point_are_drawn(tmp_path: Path, make_measurement: Callable[..., Any]) -> None:
    heatmaps([make_measurement("m", 0, layers=1)], ["m"], tmp_path / "heatmap")
    trajectory([Trajectory("m", [0], [[0.5]])], tmp_path / "trajectory")
    for x_scale, x in (("linear", 0), ("steps", 0), ("log", 1)):
        curves([Series("m", [x], [3])], tmp_path / x_scale, "x", "y", x_scale=x_scale, y_scale="log")
    assert len(list(tmp_path.iterdir())) == 5 * 3


def test_histograms_of_unlike_bins_are_refused(results: list[Any], tmp_path: Path) -> None:
    results[1].histogram = results[1].histogram[:, :64]
    with pytest.raises(UserError, match="draw them apart"):
        heatmaps(results, ARMS, tmp_path / "heatmap")


def test_pyplot_stays_out(tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from decondense.report import Series, curves
curves([Series("a", [0, 1], [1, 2])], Path({str(tmp_path / "figure")!r}), "x", "y")
assert "matplotlib.pyplot" not in sys.modules
assert "plotly" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
