"""The folder of a run stands for its models, which know their arm and seed."""

import json
from pathlib import Path

import pytest

from decondense.errors import UserError
from decondense.evaluate.runs import Candidate, find_models


def arm(folder: Path, record: str, content: dict[str, object], model: bool = True) -> Path:
    folder.mkdir(parents=True)
    (folder / record).write_text(json.dumps(content))
    if model:
        (folder / "config.json").write_text("{}")
    return folder


def test_a_run_of_train_and_one_of_demo_tell_arm_and_seed(tmp_path: Path) -> None:
    trained = arm(tmp_path / "trained", "results.json", {"kind": "training", "arm": "dispersion", "seed": 3})
    shown = arm(tmp_path / "shown", "arm.json", {"name": "cross_entropy", "seed": 0})
    assert find_models([str(trained), str(shown)]) == [
        Candidate(str(trained), "dispersion", 3),
        Candidate(str(shown), "cross_entropy", 0),
    ]


def test_a_folder_of_runs_stands_for_each_that_is_finished(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "results.json").write_text('{"kind": "trainings"}')
    for seed in (0, 1):
        arm(tmp_path / f"dispersion-seed{seed}", "results.json", {"arm": "dispersion", "seed": seed})
    (tmp_path / "dispersion-seed2").mkdir()
    assert find_models([str(tmp_path)]) == [
        Candidate(str(tmp_path / f"dispersion-seed{seed}"), "dispersion", seed) for seed in (0, 1)
    ]


def test_other_models_have_no_arm(tmp_path: Path) -> None:
    plain = arm(tmp_path / "plain", "config.json", {}, model=False)
    assert find_models(["gpt2", str(plain)]) == [Candidate("gpt2"), Candidate(str(plain))]


def test_a_run_that_is_not_finished_and_a_model_given_twice_are_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "dispersion-seed0").mkdir()
    with pytest.raises(UserError, match="is a run without a finished model"):
        find_models([str(tmp_path)])
    with pytest.raises(UserError, match="MODEL gpt2 was given twice"):
        find_models(["gpt2", "gpt2"])


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    folder = arm(tmp_path / "trained", "results.json", {})
    (folder / "results.json").write_text("{")
    with pytest.raises(UserError, match=r"results.json is damaged"):
        find_models([str(folder)])
