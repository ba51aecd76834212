"""Logged samples are read as lm-eval writes them, and a broken line is named."""

import gzip
import json

import pytest

from decondense.errors import UserError
from decondense.evaluate.samples import read_items
from decondense.evaluate.scores import direction, main_metric, read_scores

LINE = {
    "doc_id": 0,
    "doc": {"goal": "x"},
    "target": 1,
    "arguments": [["a", "b"]],
    "resps": [[[-1.0, False]]],
    "filtered_resps": [[-1.0, False]],
    "filter": "none",
    "metrics": ["acc", "word_perplexity"],
    "doc_hash": "d0",
    "acc": 1.0,
    "word_perplexity": [-50.0, 12],
}


def test_lines_of_lm_eval(tmp_path):
    path = tmp_path / "samples.jsonl"
    strict = {**LINE, "filter": "strict", "metrics": ["exact_match"], "exact_match": 0.0}
    path.write_text("\n".join(map(json.dumps, (LINE, strict, {**LINE, "doc_id": 1, "acc": False}))) + "\n\n")
    assert read_items(path, "piqa") == {
        "acc": {"0 d0": 1.0, "1 d0": 0.0},
        "exact_match/strict": {"0 d0": 0.0},
    }


def test_other_layouts(tmp_path):
    path = tmp_path / "samples.jsonl.gz"
    lines = [{"task": "a", "doc_id": 3, "metrics": {"acc": 0.5}}, {"task": "b", "doc_id": 3, "acc": 1}]
    with gzip.open(path, "wt") as out:
        out.write("\n".join(map(json.dumps, lines)))
    assert [read_items(path, task) for task in ("a", "b", "c")] == [{"acc": {"3": 0.5}}, {"acc": {"3": 1.0}}, {}]


def test_a_file_that_was_written_anew_is_read_anew(tmp_path):
    path = tmp_path / "samples.jsonl"
    for value in (0.0, 1.0):
        path.write_text(json.dumps({"doc_id": 0, "acc": value}))
        assert read_items(path, "a")["acc"]["0"] == value
        path.unlink()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"doc_id": 0, "acc": 1}\n{"doc_id": 1', "line 2: is no logged sample"),
        ('{"acc": 1}', "line 1: is no logged sample"),
        ("[1]", "line 1: is no logged sample"),
        ('{"doc_id": 0, "acc": 1}\n{"doc_id": 0, "acc": 0}', "line 2: has doc_id 0 a second time"),
    ],
)
def test_a_broken_line_is_named(text, message, tmp_path):
    path = tmp_path / "samples.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_items(path, "a")
    with pytest.raises(UserError, match=r"gone.jsonl: the samples cannot be read"):
        read_items(tmp_path / "gone.jsonl", "a")


@pytest.mark.parametrize(
    "given",
    [
        "logged",
        "logged/samples_piqa_2026-01-01T00-00-00.0.jsonl",
        {"piqa": "logged/samples_piqa_2026-01-01T00-00-00.0.jsonl"},
    ],
)
def test_where_samples_are(given, tmp_path):
    logged = tmp_path / "logged"
    logged.mkdir()
    for task in ("piqa", "piqa_more"):
        (logged / f"samples_{task}_2026-01-01T00-00-00.0.jsonl").write_text("")
    tasks = {
        "piqa": {"version": 1, "metrics": {"acc": {"value": 0.5}, "brier": {"value": 0.1, "higher_is_better": False}}}
    }
    content = {"kind": "evaluation", "models": [{"model": "a-seed3", "samples_file": given, "tasks": tasks}]}
    (tmp_path / "results.json").write_text(json.dumps(content))
    one, other = read_scores(tmp_path / "results.json")
    assert (one.arm, one.seed, one.direction, other.direction) == ("a", 3, 1, -1)
    assert one.samples == logged / "samples_piqa_2026-01-01T00-00-00.0.jsonl"


def test_which_side_is_better_and_which_metric_is_the_main_one():
    names = ("acc", "exact_match/strict", "rouge1_max", "perplexity", "brier_score", "bits_per_parameter", "tau")
    assert [direction(name) for name in names] == [1, 1, 1, -1, -1, 1, 0]
    assert main_metric(["acc_norm", "perplexity", "acc"]) == "acc"
    assert main_metric(["tau", "bits_per_byte"]) == "bits_per_byte"
    assert main_metric(["tau", "sigma"]) == "tau"
