"""The folder of a run stands for its models, which know their arm and seed."""

import json
from pathlib import Path

import pytest

from decondense.errors import UserError
from decondense.evaluate.runs import Candidate, find_models, read_run, runs_in


def arm(folder: Path, record: str, content: dict[str, object], model: bool = True) -> Path:
    folder.mkdir(parents=True)
    (folder / record).write_text(json.dumps(content))
    if model:
        (folder / "config.json").write_text("{}")
    return folder


def told(*names: str) -> list[tuple[str, str | None, int | None]]:
    return [(found.name, found.arm, found.seed) for found in find_models(names)]


def test_a_run_of_train_and_one_of_demo_tell_arm_and_seed(tmp_path: Path) -> None:
    trained = arm(tmp_path / "trained", "results.json", {"kind": "training", "arm": "dispersion", "seed": 3})
    shown = arm(tmp_path / "shown", "arm.json", {"name": "cross_entropy", "seed": 0})
    assert told(str(trained), str(shown)) == [(str(trained), "dispersion", 3), (str(shown), "cross_entropy", 0)]
    assert read_run(trained).is_training and not read_run(shown).is_training


def test_a_folder_of_runs_stands_for_each_that_is_finished(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "results.json").write_text('{"kind": "trainings"}')
    for seed in (0, 1):
        arm(tmp_path / f"dispersion-seed{seed}", "results.json", {"arm": "dispersion", "seed": seed})
    (tmp_path / "dispersion-seed2").mkdir()
    models = [(str(tmp_path / f"dispersion-seed{seed}"), "dispersion", seed) for seed in (0, 1)]
    assert told(str(tmp_path)) == models
    runs = [{"folder": f"somewhere/dispersion-seed{seed}"} for seed in (1, 0)]
    (tmp_path / "results.json").write_text(json.dumps({"kind": "trainings", "runs": runs}))
    assert told(str(tmp_path)) == models[::-1]


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


def test_runs_that_are_gone_are_missed(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps({"kind": "trainings", "runs": [{"folder": "koleo-seed0"}]}))
    with pytest.raises(UserError, match="the runs that its results.json tells of are not there any more"):
        find_models([str(tmp_path)])


def test_a_folder_that_is_no_run_has_none(tmp_path: Path) -> None:
    assert runs_in(tmp_path) == runs_in(tmp_path / "nowhere") == []
    (tmp_path / "results.json").write_text(json.dumps({"kind": "condensation"}))
    assert read_run(tmp_path) is None


def test_the_run_itself_is_what_its_folder_holds(tmp_path: Path) -> None:
    content = {"kind": "training", "arm": "koleo", "seed": 1, "config": {"steps": 7}}
    [run] = runs_in(arm(tmp_path / "run", "results.json", content, model=False))
    assert (run.arm, run.seed, run.config) == ("koleo", 1, {"steps": 7})


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    folder = arm(tmp_path / "trained", "results.json", {})
    (folder / "results.json").write_text("{")
    with pytest.raises(UserError, match=r"results.json is damaged"):
        find_models([str(folder)])
