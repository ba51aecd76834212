"""Runs of `decondense train`, gathered: rows, means, paired differences, and what is no one study."""

import json
from dataclasses import replace

import pytest

from decondense.errors import UserError
from decondense.studies.collected import CollectConfig, collect, main
from decondense.train.config import TrainConfig
from decondense.train.distill_config import DistillConfig

BITS = {("cross_entropy", 0): 2.0, ("cross_entropy", 1): 2.2, ("dispersion", 0): 1.9, ("dispersion", 1): 2.0}


def write_run(folder, arm, seed, bits, config=None, more=(), **changes):
    config = config or TrainConfig(texts="some/where/books", steps=7, **changes).filled(None)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    content = {
        **dict(more),
        "kind": "training",
        "commit": "abc",
        "provenance": {},
        "texts_digest": "d",
        "config": config.recorded(replace(config, arms=(arm,)).all_arms()[0], seed),
        "arm": arm.replace("=", "-"),
        "seed": seed,
        "steps": 7,
        "tokens": 7168,
        "parameters": 10,
        "seconds": 1.0,
        "perplexity": 2.0**bits,
        "bits_per_byte": bits,
        "mean_cosine": [0.1, 0.2, 0.3, 0.4],
        "effective_rank": [1.0, 2.0, 3.0, 4.0],
        "history": [{"step": 7, "perplexity": 2.0**bits, "mean_cosine": [0.1], "training": {}}],
    }
    (folder / "results.json").write_text(json.dumps(content))


@pytest.fixture
def runs(tmp_path):
    for (arm, seed), bits in BITS.items():
        write_run(tmp_path / f"seed{seed}" / f"{arm}-seed{seed}", arm, seed, bits)
    return tmp_path


def test_differences_are_paired_by_seed(runs):
    results = collect([runs / "seed1", runs / "seed0"], "novels")
    assert [(row["arm"], row["seed"], row["bits_per_byte"]) for row in results["rows"]] == [
        (*key, value) for key, value in BITS.items()
    ]
    base, dispersion = results["summary"]
    assert base["bits_per_byte"]["mean"] == pytest.approx(2.1)
    assert "bits_per_byte_difference" not in base
    assert dispersion["bits_per_byte_difference"]["mean"] == pytest.approx(-0.15)
    # t of one degree of freedom, 12.706, by half the distance of the two differences.
    assert dispersion["bits_per_byte_difference"]["high"] == pytest.approx(-0.15 + 12.7062 * 0.05, abs=1e-4)
    assert results["command"] == (
        "decondense train --texts books --steps 7 --arms cross_entropy dispersion --seed 0 --seeds 2"
    )


def test_a_distillation_is_told_with_its_teacher(tmp_path):
    options = {"from_scratch": True, "override": ("n_layer=2",), "texts": "stories", "steps": 7, "alpha": 0.9}
    config = DistillConfig("some/where/big", "tiny", **options).filled(None)
    teacher = {"model": "some/where/big", "perplexity": 3.0}
    for seed in (0, 1):
        write_run(tmp_path / str(seed), "distillation", seed, 2.0 + seed, config, {"teacher": teacher})
    results = collect([tmp_path], "distilled", "distillation")
    assert results["command"] == (
        "decondense distill big tiny --from-scratch --override n_layer=2 --alpha 0.9 --texts stories --steps 7 --arms distillation --seed 0 --seeds 2"
    )
    assert results["teacher"] == {"model": "big", "perplexity": 3.0}


def test_the_command_of_arms_with_values_gives_these_arms(tmp_path):
    for arm in ("cross_entropy", "dispersion=3", "dispersion=adaptive:0.05"):
        write_run(tmp_path / arm, arm, 0, 2.0)
    assert collect([tmp_path], "x")["command"].endswith(
        "--arms cross_entropy dispersion=3 dispersion=adaptive:0.05 --seed 0 --seeds 1"
    )


def test_the_file_and_its_table(runs, capsys):
    main(CollectConfig((runs / "seed0", runs / "seed1"), "novels", runs / "out" / "novels.json"))
    assert json.loads((runs / "out" / "novels.json").read_text())["study"] == "novels"
    assert "-0.1500 ±0.6353" in capsys.readouterr().out


def test_what_is_no_one_study_is_told(runs, tmp_path):
    with pytest.raises(UserError, match="holds no finished run"):
        collect([tmp_path / "nowhere"], "x")
    with pytest.raises(UserError, match="--baseline koleo: there is no such arm among cross_entropy, dispersion"):
        collect([runs / "seed0"], "x", "koleo")
    write_run(runs / "more" / "dispersion-seed2", "dispersion", 2, 1.0)
    with pytest.raises(UserError, match="arms cross_entropy and dispersion: only one of them has seed 2"):
        collect([runs / "seed0", runs / "seed1", runs / "more"], "x")
    write_run(runs / "other" / "dispersion-seed2", "dispersion", 2, 1.0, learning_rate=0.5)
    with pytest.raises(UserError, match="in learning_rate, embedding_learning_rate, so that they are no one study"):
        collect([runs / "seed0", runs / "other"], "x")
