"""lm-eval's tasks keep all that is theirs but the rows, and what has no data is told by name."""

from pathlib import Path

import pytest

pytest.importorskip("lm_eval")

from small_benchmarks import PARADIGMS, write_benchmarks

from decondense.errors import UserError
from decondense.evaluate.tasks import config_digest, load_tasks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmarks(tmp_path_factory.mktemp("benchmarks"))


def test_prompts_are_those_of_lm_eval(folder: Path) -> None:
    loaded = load_tasks({"piqa": 1}, folder)
    task = loaded.tasks["piqa"]
    assert (task.VERSION, loaded.shots) == (1.0, {"piqa": 1})
    task.set_fewshot_seed(1234)
    prompt = task.fewshot_context(task.eval_docs[0], 1)
    example, question = prompt.split("\n\n")
    assert example.startswith("Question: wake dog ") and "\nAnswer: the" in example
    assert question == "Question: wake dog 0\nAnswer:"
    assert len(task.eval_docs) == 6


def test_a_group_keeps_the_tasks_that_are_there(folder: Path) -> None:
    loaded = load_tasks({"blimp": None}, folder)
    assert (
        sorted(loaded.tasks) == sorted(f"blimp_{paradigm}" for paradigm in PARADIGMS) == sorted(loaded.members("blimp"))
    )
    assert loaded.sizes == {"blimp": 67}
    assert len(loaded.absent) == 65
    assert loaded.empty == []
    assert "blimp holds no file of wh_vs_that_no_gap" in loaded.absent["blimp_wh_vs_that_no_gap"]


def test_a_task_without_examples_runs_without_and_says_so(folder: Path) -> None:
    loaded = load_tasks({"arc_easy": 1, "blimp_wh_island": 3}, folder)
    assert loaded.shots == {"arc_easy": 0, "blimp_wh_island": 0}
    # BLiMP's configuration says 0, which lm-eval lets nothing change.
    assert loaded.notes == {"arc_easy": "0-shot in place of 1-shot: the data has no split 'train'"}


def test_shots_for_all_go_before_those_of_one(folder: Path) -> None:
    assert load_tasks({"piqa": 1}, folder, shots=2).shots == {"piqa": 2}


def test_names_without_data_are_told_apart_from_those_with_some(folder: Path) -> None:
    loaded = load_tasks({"hellaswag": None, "anli": None, "blimp": None}, folder)
    assert loaded.empty == ["hellaswag", "anli"]
    assert {"hellaswag", "anli_r1", "anli_r2", "anli_r3"} <= set(loaded.absent)


def test_data_without_the_split_that_is_evaluated_is_absent(tmp_path: Path) -> None:
    (tmp_path / "openbookqa").mkdir()
    row = '{"question_stem": "Why?", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "A"}'
    (tmp_path / "openbookqa" / "train.jsonl").write_text(row)
    assert load_tasks({"openbookqa": None}, tmp_path).absent == {
        "openbookqa": "its data has no split 'test', on which it is evaluated: there is train"
    }


def test_an_unknown_name_is_answered_with_the_nearest(folder: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"--tasks lambada_opena: lm-eval [\d.]+ has no such task, group or tag: did you mean lambada_openai",
    ):
        load_tasks({"lambada_opena": None}, folder)


def test_a_task_named_twice_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="blimp_wh_island is named twice"):
        load_tasks({"blimp": None, "blimp_wh_island": None}, folder)


def test_a_broken_file_is_named_with_its_line(tmp_path: Path) -> None:
    folder = write_benchmarks(tmp_path / "benchmarks")
    file = folder / "lambada_openai" / "test.jsonl"
    file.write_text('{"text": "one two"}\n{"text": 3}\n')
    with pytest.raises(UserError, match=f"{file} line 2: its field 'text' holds a int"):
        load_tasks({"lambada_openai": None}, folder)


def test_digests_follow_rows_and_configuration(folder: Path, tmp_path: Path) -> None:
    other = write_benchmarks(tmp_path / "benchmarks")
    (other / "piqa" / "valid-labels.lst").write_text("1\n1\n0\n1\n0\n1\n")
    first, second = (load_tasks({"piqa": 0, "arc_easy": 0}, one).tasks for one in (folder, other))
    assert first["piqa"].digest != second["piqa"].digest
    assert first["arc_easy"].digest == second["arc_easy"].digest
    assert config_digest(first["piqa"]) == config_digest(second["piqa"]) != config_digest(first["arc_easy"])


def test_without_a_folder_the_hub_is_asked_and_why_it_gave_nothing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    loaded = load_tasks({"piqa": None}, None)
    assert loaded.empty == ["piqa"]
    assert loaded.absent["piqa"].startswith("baber/piqa: ")
    assert "--data DIR reads local files" in loaded.absent["piqa"]
