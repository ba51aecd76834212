"""`decondense capacity` trains twins of each size, tells what it costs first, goes on where it was stopped, and refuses what cannot be."""

import json

import pytest

from decondense.cli import main
from decondense.commands import capacity_report

SMALL = ["capacity", "--sizes", "1x8x1", "2x8x2", "--people", "20", "30", "--exposures", "3", "--device", "cpu"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("capacity") / "out"
    assert main([*SMALL, "--seeds", "2", "--out", str(out)]) == 0
    return out


def read(out):
    return json.loads((out / "results.json").read_text())


def test_results_are_as_the_design_says(finished):
    content = read(finished)
    assert content["kind"] == "capacity"
    assert "--seeds 2" in content["command"] and "--exposures 3" in content["command"]
    runs = content["runs"]
    fixed = {"parameters", "people", "exposures", "bits_per_parameter", "dispersion_weight", "seed"}
    assert all(fixed <= set(one) for one in runs)
    assert [(one["size"], one["people"], one["dispersion_weight"], one["seed"]) for one in runs] == [
        (size, people, weight, seed)
        for seed in (0, 1)
        for size, people in (("1x8x1", 20), ("2x8x2", 30))
        for weight in (0.0, 1.0)
    ]
    assert {one["exposures"] for one in runs} == {3}
    assert (finished / "capacity.png").stat().st_size > 10_000
    rows = (finished / "capacity.csv").read_text().splitlines()
    assert sum(row.startswith("dispersion,") for row in rows) == 2


def test_differences_are_paired_by_seed(finished):
    content = read(finished)
    of = {(one["size"], one["arm"], one["seed"]): one["bits_per_parameter"] for one in content["runs"]}
    row = next(row for row in content["summary"] if row["size"] == "2x8x2" and row["arm"] == "dispersion")
    expected = [of["2x8x2", "dispersion", seed] - of["2x8x2", "cross_entropy", seed] for seed in (0, 1)]
    assert row["difference"]["mean"] == pytest.approx(sum(expected) / 2)
    assert row["difference"]["count"] == 2


def test_more_seeds_go_on_from_those_there_are(tmp_path, capsys):
    words = [*SMALL, "--out", str(tmp_path / "out")]
    assert main(words) == 0
    first = read(tmp_path / "out")["runs"]
    shown = capsys.readouterr().out
    assert "4 of 4 runs to do" in shown and "about" in shown and "at one seed, which tells no interval" in shown
    assert main([*words, "--seeds", "2"]) == 0
    assert read(tmp_path / "out")["runs"][:4] == first
    assert "4 of 8 runs to do" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["--sizes", "12k"], "size '12k': expected LAYERSxWIDTHxHEADS"),
        (["--sizes", "1x8x1", "1x8x1", "--people", "20"], "none of them twice"),
        (["--people", "20"], None),
        (["--people", "20", "30", "40"], "one for each of 2 sizes, given 3"),
        (["--people", "1"], "people 1: expected from 2"),
        (["--weight", "0"], "--weight 0.0: expected a number above 0"),
        (["--formulation", "dispersal"], "did you mean 'dispersion'"),
        (["--seeds", "0"], "--seeds 0: must be at least 1"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(tmp_path, capsys, words, wrong):
    status = main([*SMALL, *words, "--out", str(tmp_path / "out")])
    if wrong is None:
        assert status == 0
        assert {one["people"] for one in read(tmp_path / "out")["runs"]} == {20}
        return
    assert status == 2
    assert wrong in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_another_configuration_is_refused(finished, capsys):
    assert main([*SMALL, "--exposures", "4", "--out", str(finished)]) == 2
    assert "exposures 3 there, 4 now" in capsys.readouterr().err


def test_a_damaged_result_is_named(finished, capsys):
    damaged = next(finished.glob("1x8x1-*-seed1")) / "capacity.json"
    whole = damaged.read_text()
    damaged.write_text(whole[: len(whole) // 2])
    try:
        assert main([*SMALL, "--seeds", "2", "--out", str(finished)]) == 2
        assert "is damaged: remove it to train that run again" in capsys.readouterr().err
    finally:
        damaged.write_text(whole)


def test_verdicts_say_no_more_than_the_seeds_tell():
    def one(arm, seed, bits):
        fixed = {"size": "1x8x1", "parameters": 10, "people": 5, "exposures": 1, "most_bits_per_parameter": 3.0}
        weight = 0.0 if arm == "cross_entropy" else 1.0
        return {
            **fixed,
            "arm": arm,
            "seed": seed,
            "dispersion_weight": weight,
            "bits_per_parameter": bits,
            "bits_per_parameter_without_embedding": bits,
            "mean_cosine": [0.1, 0.2],
        }

    base = [one("cross_entropy", seed, 1.0) for seed in (0, 1)]
    noise = capacity_report.verdicts([*base, one("dispersion", 0, 1.1), one("dispersion", 1, 0.95)])
    clear = capacity_report.verdicts([*base, one("dispersion", 0, 1.1), one("dispersion", 1, 1.101)])
    assert "within noise" in noise[0] and "within noise" not in clear[0]
