"""What is true of a result: it equals the golden numbers, its file gives it back, and merged parts are the whole."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from clouds import collect
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from decondense.condensation import Condensation
from decondense.errors import UserError
from decondense.files import write_json
from decondense.geometry import LayerStatistics, choose_metrics


def finish(hidden: Tensor, metrics: str | list[str] = "all", model: str = "a", max_length: int = 512) -> Condensation:
    """Measure hidden states [texts, layers, tokens, features], in batches of two texts."""
    return Condensation.from_statistics(collect(hidden, metrics), choose_metrics(metrics), model, max_length)


def draw(seed: int, texts: int = 5, layers: int = 3, tokens: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(texts, layers, tokens, 6, generator=generator, dtype=torch.float64) + 0.5


def assert_equal(one: Condensation, two: Condensation) -> None:
    """All that a result says; counts and what texts gave exactly, sums over texts up to rounding."""
    assert (one.model, one.max_length, one.samples, one.layers) == (two.model, two.max_length, two.samples, two.layers)
    np.testing.assert_array_equal(one.tokens, two.tokens)
    assert list(one.text_metrics) == list(two.text_metrics)
    for name, values in one.text_metrics.items():
        np.testing.assert_allclose(values, two.text_metrics[name], rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(one.histogram, two.histogram)
    np.testing.assert_equal(one.histogram_of_mean, two.histogram_of_mean)
    np.testing.assert_allclose(one.mean_cosine_interval, two.mean_cosine_interval, rtol=1e-9)
    np.testing.assert_allclose([one.spearman, one.kendall], [two.spearman, two.kendall], rtol=1e-12)


def test_equals_the_golden_statistics(golden: Path) -> None:
    expected = np.load(golden / "condensation.npz")
    found = finish(torch.from_numpy(expected["hidden"]))
    np.testing.assert_allclose(found.mean_cosine, expected["mean_cosine"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.mean_cosine_off_diagonal, expected["mean_cosine_off_diagonal"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.spearman, expected["spearman"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.kendall, expected["kendall"], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(found.histogram, expected["histogram"])
    np.testing.assert_array_equal(found.histogram_of_mean, expected["histogram_of_mean"])


def test_shapes_and_types_are_as_promised() -> None:
    found = finish(draw(0))
    assert (found.samples, found.layers) == (5, 3)
    assert found.tokens.dtype == np.int64
    for values, shape in [
        (found.mean_cosine, (3,)),
        (found.mean_cosine_off_diagonal, (3,)),
        (found.last_n, (3,)),
        (found.metrics["effective_rank"], (3,)),
        (found.mean_cosine_interval, (3, 2)),
        (found.per_text, (5, 3)),
        (found.per_text_off_diagonal, (5, 3)),
    ]:
        assert values.dtype == np.float64
        assert values.shape == shape
    for counts in (found.histogram, found.histogram_of_mean):
        assert counts.dtype == np.int64
        assert counts.shape == (3, 128)
    np.testing.assert_array_equal(found.histogram.sum(axis=1), 5 * 7**2)
    np.testing.assert_array_equal(found.histogram_of_mean.sum(axis=1), 7**2)


def test_the_last_n_layers_are_averaged() -> None:
    found = finish(draw(0))
    first, second, third = found.mean_cosine
    np.testing.assert_allclose(found.last_n, [third, (third + second) / 2, (third + second + first) / 3], rtol=1e-12)


def test_intervals_are_about_the_mean_and_of_the_metric_asked_for() -> None:
    found = finish(draw(0))
    for name in ("mean_cosine", "effective_rank"):
        interval = found.interval(name)
        assert (interval[:, 0] < found.metrics[name]).all()
        assert (found.metrics[name] < interval[:, 1]).all()
    assert found.mean_cosine_interval is found.mean_cosine_interval  # computed once
    with pytest.raises(UserError, match="no interval of 'kendall'"):
        found.interval("kendall")


def test_order_says_where_each_text_belongs() -> None:
    hidden = draw(0)
    seen = [3, 0, 4, 1, 2]
    statistics = [LayerStatistics() for _ in range(3)]
    for layer, collected in enumerate(statistics):
        collected.update(hidden[seen, layer])
    found = Condensation.from_statistics(statistics, ["mean_cosine"], "a", 512, order=seen)
    np.testing.assert_allclose(found.per_text, finish(hidden).per_text, rtol=1e-12)


@given(seed=st.integers(0, 2**31), cut=st.integers(1, 4))
def test_merging_parts_equals_measuring_the_whole(seed: int, cut: int) -> None:
    hidden = draw(seed)
    assert_equal(finish(hidden[:cut]).merge(finish(hidden[cut:])), finish(hidden))


def test_merging_three_parts_does_not_depend_on_the_bracketing() -> None:
    one, two, three = (finish(draw(seed, texts=2)) for seed in range(3))
    assert_equal(one.merge(two).merge(three), one.merge(two.merge(three)))


def test_merging_texts_of_other_lengths_drops_the_averaged_matrix_and_keeps_the_rest() -> None:
    merged = finish(draw(0, tokens=7)).merge(finish(draw(1, tokens=8)))
    assert merged.histogram_of_mean is None
    assert merged.tokens.tolist() == [7] * 5 + [8] * 5
    assert merged.histogram.sum() == 3 * 5 * (7**2 + 8**2)


def test_only_parts_of_one_measurement_merge() -> None:
    hidden = draw(0)
    whole = finish(hidden)
    with pytest.raises(UserError, match="model='a' with model='b'"):
        whole.merge(finish(hidden, model="b"))
    with pytest.raises(UserError, match="layers=3 with layers=2"):
        whole.merge(finish(hidden[:, :2]))
    with pytest.raises(UserError, match="max_length=512 with max_length=256"):
        whole.merge(finish(hidden, max_length=256))
    with pytest.raises(UserError, match="measure both parts with the same metrics"):
        whole.merge(finish(hidden, metrics=["mean_cosine", "effective_rank"]))


@pytest.mark.parametrize("metrics", ["all", "paper", ["histogram", "effective_rank"]])
def test_a_saved_result_comes_back_and_goes_on(tmp_path: Path, metrics: str | list[str]) -> None:
    hidden = draw(0)
    path = tmp_path / "a result"
    finish(hidden[:3], metrics).save(path)
    loaded = Condensation.load(path)
    assert_equal(loaded, finish(hidden[:3], metrics))
    assert_equal(loaded.merge(finish(hidden[3:], metrics)), finish(hidden, metrics))
    assert [file.name for file in tmp_path.iterdir()] == ["a result"]


def test_saving_replaces_a_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "result.npz"
    finish(draw(0)).save(path)
    finish(draw(1)).save(path)
    assert_equal(Condensation.load(path), finish(draw(1)))
    with pytest.raises(UserError, match="cannot write there"):
        finish(draw(0)).save(tmp_path / "absent" / "result.npz")


def test_a_damaged_file_is_an_error_of_one_line_wherever_it_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "result.npz"
    found = finish(draw(0))
    found.save(path)
    whole = path.read_bytes()
    cuts = [whole[: len(whole) * part // 8] for part in range(8)]
    # A wrong byte in the archive's own bookkeeping (a date, say) may do no harm; in what it holds it does.
    start = whole.index(found.per_text.tobytes())
    flips = [
        whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]
        for at in range(start, start + found.per_text.nbytes, 7)
    ]
    for content in cuts + flips:
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"^[^\n]*damaged[^\n]*$"):
            Condensation.load(path)


def test_no_wrong_byte_goes_unnoticed(tmp_path: Path) -> None:
    found = finish(draw(0, texts=2, layers=2, tokens=3))
    path = tmp_path / "result.npz"
    found.save(path)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for at in generator.integers(0, len(whole), 300):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with contextlib.suppress(UserError):
            assert_equal(Condensation.load(path), found)


@pytest.mark.parametrize("content", [b"", b"{}", b"not an archive"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "result.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"not a file that Condensation\.save wrote"):
        Condensation.load(path)


def test_archives_of_others_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", hidden=np.zeros(3))
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez(tmp_path / "pickle.npz", header=np.array([{}], dtype=object))
    np.savez(tmp_path / "header.npz", header=np.array('{"format": "other"}'))
    for name in ("other.npz", "array.npy", "pickle.npz", "header.npz"):
        with pytest.raises(UserError, match=r"not a file that Condensation\.save wrote"):
            Condensation.load(tmp_path / name)
    with pytest.raises(UserError, match="no such file"):
        Condensation.load(tmp_path / "absent.npz")
    with pytest.raises(UserError, match="cannot be read"):
        Condensation.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": np.zeros(4, dtype=np.int64)}, "do not fit together"),
        ({"tokens": np.zeros(5)}, "do not fit together"),
        ({"pair_counts": np.zeros((3, 64), dtype=np.int64)}, "do not fit together"),
        ({"text_metrics/mean_cosine": np.zeros((5, 2))}, "do not fit together"),
        ({"text_metrics/mean_cosine": None}, "do not fit together"),
        ({"matrix_sums": None}, "do not fit together"),
        ({"version": 3}, "format is version 3, this decondense reads 2"),
        ({"arrays": []}, "do not fit together"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "result.npz"
    finish(draw(0)).save(path)
    with np.load(path) as archive:
        arrays = dict(archive)
    header = json.loads(str(arrays.pop("header")))
    for name, value in change.items():
        if name in header:
            header[name] = value
        elif value is None:
            del arrays[name]
        else:
            arrays[name] = value
    np.savez(path, header=np.array(json.dumps(header)), **arrays)
    with pytest.raises(UserError, match=message):
        Condensation.load(path)


def test_the_summary_is_json_also_where_there_is_no_number(tmp_path: Path) -> None:
    summary = finish(draw(0, texts=1, layers=1)).summary()
    assert summary["spearman"] is None
    assert summary["mean_cosine_interval"] == [[None, None]]
    write_json(tmp_path / "results.json", summary)
    assert json.loads((tmp_path / "results.json").read_text()) == summary


def test_the_summary_says_what_was_measured() -> None:
    found = finish(draw(0))
    summary = found.summary()
    assert list(summary) == [
        "model",
        "mean_cosine",
        "mean_cosine_off_diagonal",
        "mean_cosine_interval",
        "spearman",
        "kendall",
        "spearman_interval",
        "kendall_interval",
        "samples",
        "tokens",
    ]
    assert summary["model"] == "a"
    assert summary["mean_cosine"] == found.mean_cosine.tolist()
    assert summary["mean_cosine_interval"] == found.mean_cosine_interval.tolist()
    assert (summary["samples"], summary["tokens"]) == (5, 35)
    assert summary["spearman"] == found.spearman


def test_what_was_not_measured_is_said_so() -> None:
    found = finish(draw(0), metrics=["mean_cosine"])
    assert found.histogram_of_mean is None
    with pytest.raises(UserError, match="the histogram was not measured"):
        _ = found.histogram


def test_one_text_and_one_layer_have_neither_interval_nor_trend() -> None:
    found = finish(draw(0, texts=1, layers=1))
    assert np.isnan(found.mean_cosine_interval).all()
    assert math.isnan(found.spearman)
    assert math.isnan(found.kendall)


def test_it_prints_in_one_line() -> None:
    assert repr(finish(draw(0, layers=2))).startswith("Condensation('a', 5 texts, mean_cosine=[0.")
