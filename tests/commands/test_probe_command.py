"""`decondense probe` writes what each model's layers are good for, compares arms by seed, goes on where it stopped, and refuses what cannot be."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from decondense.cli import main
from decondense.commands import probe
from decondense.texts import tokenizer

ARMS = (("cross_entropy", 0), ("dispersion", 0))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders as `decondense train` leaves them: two arms of one seed, tiny and untrained."""
    words = tokenizer.train(["the statement raises an exception and the expression is evaluated"], 300)
    folders = []
    for arm, seed in ARMS:
        folder = tmp_path_factory.mktemp("runs") / f"{arm}-seed{seed}"
        torch.manual_seed(len(arm))
        config = GPT2Config(vocab_size=len(words), n_positions=48, n_embd=8, n_layer=2, n_head=1)
        GPT2LMHeadModel(config).save_pretrained(folder)
        words.save_pretrained(folder)
        (folder / "results.json").write_text(json.dumps({"kind": "training", "arm": arm, "seed": seed}))
        folders.append(str(folder))
    return folders


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    path = tmp_path_factory.mktemp("reviews") / "reviews.jsonl.gz"
    lines = [
        json.dumps({"text": f"a {'good' if k % 2 else 'bad'} film, number {k}", "label": k % 2}) for k in range(40)
    ]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


@pytest.fixture(scope="module")
def finished(models, reviews, tmp_path_factory):
    out = tmp_path_factory.mktemp("probe") / "out"
    words = ["probe", *models, "--part", "held_out", "--device", "cpu", "--out", str(out), "--sentiment", str(reviews)]
    assert main([*words, "--reviews", "40"]) == 0
    return words, out


def test_results_tell_each_layer_and_the_arms(finished):
    content = json.loads((finished[1] / "results.json").read_text())
    assert content["kind"] == "probes"
    assert [(one["arm"], one["seed"]) for one in content["models"]] == list(ARMS)
    for one in content["models"]:
        assert [layer["layer"] for layer in one["layers"]] == [0, 1, 2]
        for layer in one["layers"]:
            assert set(layer) == {"layer", "retrieval", "retrieval_centred", "recall", "recall_centred", "sentiment"}
            for kind in set(layer) - {"layer"}:
                assert layer[kind]["low"] <= layer[kind]["mean"] <= layer[kind]["high"]
        inner = [layer["retrieval"]["mean"] for layer in one["layers"][1:]]
        assert one["mean"]["retrieval"]["mean"] == pytest.approx(sum(inner) / 2)
        assert one["mean"]["cloze"]["items"] > 10
        assert one["layers"][0]["sentiment"]["items"] == 40
    base, other = content["summary"]
    expected = content["models"][1]["mean"]["cloze"]["mean"] - content["models"][0]["mean"]["cloze"]["mean"]
    assert other["cloze"]["difference"]["mean"] == pytest.approx(expected)
    assert "difference" not in base["cloze"] and other["cloze"]["difference"]["low"] is None


def test_finished_models_are_not_probed_again(finished, monkeypatch, capsys):
    monkeypatch.setattr(probe, "pooled_states", None)
    assert main([*finished[0], "--reviews", "40"]) == 0
    shown = capsys.readouterr().out
    assert "retrieval, centred" in shown and "filled in right (chance 0.25)" in shown


def test_a_folder_of_runs_stands_for_all_of_them(models, tmp_path):
    (tmp_path / "runs").mkdir()
    for folder in map(Path, models):
        (tmp_path / "runs" / folder.name).symlink_to(folder, target_is_directory=True)
    words = ["--part", "held_out", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main(["probe", str(tmp_path / "runs"), *words]) == 0
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert sorted((one["arm"], one["seed"]) for one in content["models"]) == sorted(ARMS)


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ([], "no MODEL was given"),
        (["{0}", "{0}"], "was given twice"),
        (["{0}", "--part", "heldout"], "did you mean 'held_out'"),
        (["{0}", "--sentiment", "nowhere.jsonl"], "--sentiment nowhere.jsonl: cannot be read"),
        (["{0}", "--batch-size", "0"], "--batch-size 0: must be at least 1"),
        (["no/such/folder"], "no/such/folder"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(models, tmp_path, capsys, words, wrong):
    given = [word.format(*models) for word in words]
    assert main(["probe", *given, "--out", str(tmp_path / "out")]) == 2
    assert wrong in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        (['{"text": "a", "label": 0}', '{"text": "a"'], "line 2: expected an object"),
        (['{"text": "a", "label": 0}', '{"text": "a", "label": "x"}'], "line 2: expected an object"),
        (['{"text": "a", "label": 0}'] * 3, "fewer than two labels"),
    ],
)
def test_broken_reviews_are_named_by_their_line(models, tmp_path, capsys, lines, wrong):
    path = tmp_path / "reviews.jsonl"
    path.write_text("\n".join(lines))
    assert main(["probe", models[0], "--sentiment", str(path), "--out", str(tmp_path / "out")]) == 2
    assert wrong in capsys.readouterr().err
