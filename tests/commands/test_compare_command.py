"""`decondense compare` from the command line: what it prints and writes, and what it says of bad input."""

import csv
import json

import numpy
import pytest
from run_files import evaluation, training

from decondense.cli import main
from decondense.commands.compare_report import decimals, write_p
from decondense.evaluate.comparing import compare_runs


def compare(*words):
    return main(["compare", *map(str, words), "--formats", "svg"])


@pytest.fixture
def trained(tmp_path):
    for seed in range(3):
        training(tmp_path / "runs" / f"a{seed}", "cross_entropy", seed, 50.0 + seed)
        training(tmp_path / "runs" / f"b{seed}", "dispersion", seed, 40.0 + seed + 0.5 * (seed == 1))
        training(tmp_path / "runs" / f"c{seed}", "effective_rank", seed, 50.0 + 2 * (seed - 0.9))
    return tmp_path / "runs"


@pytest.fixture
def evaluated(tmp_path):
    random = numpy.random.default_rng(0)
    for seed in range(3):
        for arm, shift in (("cross_entropy", 0.0), ("dispersion", 1.5), ("other", 0.0)):
            tasks = {f"task_{place}": (random.normal(shift, 1.0, 50) > 0).astype(float).tolist() for place in range(4)}
            evaluation(tmp_path / "runs" / f"{arm}-{seed}", arm, seed, tasks)
    return tmp_path / "runs"


def test_what_it_prints_and_writes(trained, tmp_path, capsys):
    out = tmp_path / "out"
    assert compare(trained, "--out", out) == 0
    printed = capsys.readouterr().out
    assert (
        "dispersion: perplexity on held-out text is better than that of cross_entropy (-9.8, 19.3%; 95 % interval"
        in printed
    )
    assert "effective_rank: perplexity on held-out text is within noise (" in printed
    assert "3 seeds see differences from" in printed and "one of this size, if it is real, needs" in printed
    content = json.loads((out / "results.json").read_text())
    assert (content["kind"], content["baseline"], content["provenance"].keys() >= {"commit"}) == (
        "comparison",
        "cross_entropy",
        True,
    )
    assert content["command"] == f"decondense compare {trained} --out {out}"
    metrics = ("perplexity", "bits_per_byte", "mean_cosine", "mean_cosine_last")
    figures = [f"forest-{metric}.{ending}" for metric in metrics for ending in ("csv", "svg")]
    names = ["comparison.csv", "comparison.md", "comparison.tex", *figures, "results.json", "run.json"]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    # The numbers of the three tables and of the file are the same.
    rows = list(csv.DictReader((out / "comparison.csv").read_text().splitlines()))
    assert [float(row["mean"]) for row in rows] == [row["estimate"]["mean"] for row in content["rows"]]
    [dispersion] = [row for row in rows if row["arm"] == "dispersion" and row["metric"] == "perplexity"]
    assert float(dispersion["difference"]) == pytest.approx(-9.83, abs=0.01)
    assert (dispersion["verdict"], dispersion["test_over"], dispersion["p_items"]) == ("better", "seeds", "")
    assert "| -9.8 ±0.7 |" in " ".join((out / "comparison.md").read_text().split())
    assert r"$-$9.8 $\pm$0.7 &" in (out / "comparison.tex").read_text()


def test_the_same_command_again_and_another_one(trained, tmp_path, capsys):
    out = tmp_path / "out"
    assert compare(trained, "--out", out) == 0
    before = (out / "results.json").read_text()
    assert compare(trained, "--out", out) == 0
    assert (out / "results.json").read_text() == before
    capsys.readouterr()
    assert compare(trained, "--out", out, "--seeds", "0", "1") == 2
    assert "holds another run (seeds" in capsys.readouterr().err


def test_many_tasks_are_told_by_verdict(evaluated, tmp_path, capsys):
    assert compare(evaluated, "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "dispersion: better on " in printed
    assert "other: within noise on 4 of 4: task_0; task_1; task_2; task_3" in printed
    assert "average rank over 4 tasks: dispersion 1.00" in printed
    assert "Friedman p" in printed and "critical difference of Nemenyi" in printed
    assert "new seeds and new items" in printed
    sentences = json.loads((tmp_path / "out" / "results.json").read_text())["sentences"]
    assert sum("on task_" in one for one in sentences) == 8


def test_one_seed_is_told(trained, tmp_path, capsys):
    assert compare(trained, "--seeds", "1", "--out", tmp_path / "out", "--metrics", "perplexity") == 0
    printed = capsys.readouterr().out
    assert "1 seed: no interval" in printed
    assert "dispersion: perplexity on held-out text: -9.50, 18.6% by one seed: no interval and no test" in printed
    assert "±" not in printed and "differences are to cross_entropy\n" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "RUN"),
        (["nothing"], "nothing: is not there; give the folders of runs, or their results.json"),
        (["RUNS", "--baseline", "plain"], "--baseline 'plain' is not known"),
        (["RUNS", "--test", "seed"], "--test 'seed' is not known: did you mean 'seeds'?"),
        (["RUNS", "--formats", "gif"], "--formats 'gif' is not known"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(words, message, trained, tmp_path, capsys):
    given = [str(trained) if word == "RUNS" else word for word in words]
    formats = [] if "--formats" in words else ["--formats", "svg"]
    assert main(["compare", *given, *formats, "--out", str(tmp_path / "out")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


def test_decimals_follow_the_interval(trained):
    comparison = compare_runs([trained])
    digits = {row.metric: decimals(row, comparison) for row in comparison.rows}
    assert digits["perplexity"] == 1
    assert [write_p(p) for p in (0.0004, 0.0463, 1.0, None)] == ["<0.001", "0.046", "1.000", None]


def test_the_numbers_of_the_demo(root, tmp_path, capsys):
    # Those that README.md gives of five seeds.
    assert compare(root / "results" / "demo-300-tiny.json", "--out", tmp_path / "out") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "perplexity dispersion" not in printed.split("held-out")[0]
    for numbers in ("118.4 ±5.1", "85.8 ±1.3", "-32.7 ±4.9", "77.1 ±1.2", "-41.3 ±5.3"):
        assert numbers in printed
