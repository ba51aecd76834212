"""Each data set's own files, and those of the shared data, give the rows that the hub's copy has."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from decondense.errors import UserError
from decondense.evaluate.benchmarks.local import AbsentData, read_splits

ARC_OWN = {
    "id": "Mercury_7",
    "question": {"stem": "Why?", "choices": [{"text": "a", "label": "A"}, {"text": "b", "label": "B"}]},
    "answerKey": "B",
}
ARC_HUB = {
    "id": "Mercury_7",
    "question": "Why?",
    "choices": {"text": ["a", "b"], "label": ["A", "B"]},
    "answerKey": "B",
}
PROMPT = (
    "Please choose the correct answer to the question: Why?\n\nAnswer1: a Answer2: b\n\nAnswer format: answer1/answer2"
)
BLANK = (
    "Please choose the correct answer to fill in the blank to complete the given sentence: A thanked B as _ did.\n\n"
    "Option1: A Option2: B Answer format: option1/option2"
)
WINO = {"sentence": "A thanked B as _ did.", "option1": "A", "option2": "B", "answer": "2"}
PIQA = {"goal": "open it", "sol1": "push", "sol2": "pull"}
MMLU = {"question": "1 + 1?", "subject": "astronomy", "choices": ["1", "2", "3", "4"], "answer": 1}
HELLASWAG = {"activity_label": "Cook", "ctx_a": "She", "ctx_b": "he", "endings": ["a", "b", "c", "d"], "label": 2}
CSV_HEADING = "Question,Best Answer,Correct Answers,Incorrect Answers"
MED = {"question": "Which?", "opa": "1", "opb": "2", "opc": "3", "opd": "4"}

# What is asked for: the data set on the hub, its configuration, lm-eval's task.
ASK_PIQA = ("baber/piqa", None, "piqa")
ASK_ARC = ("allenai/ai2_arc", "ARC-Easy", "arc_easy")
ASK_WINO = ("allenai/winogrande", "winogrande_xl", "winogrande")
ASK_MMLU = ("cais/mmlu", "astronomy", "mmlu_astronomy")
ASK_TRUTH = ("truthfulqa/truthful_qa", "multiple_choice", "x")
ASK_ANLI = ("facebook/anli", None, "anli_r1")
ASK_MED = ("openlifescienceai/medmcqa", None, "medmcqa")
ASK_BLIMP = ("nyu-mll/blimp", "wh_island", "x")


def lines(rows: Sequence[Any]) -> str:
    return "\n".join(map(json.dumps, rows)) + "\n"


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    return folder


CASES: dict[str, tuple[dict[str, str], tuple[str, str | None, str], dict[str, list[Any]]]] = {
    "blimp": (
        {"blimp/wh_island.jsonl.gz": lines([{"sentence_good": "g", "sentence_bad": "b"}])},
        ("nyu-mll/blimp", "wh_island", "blimp_wh_island"),
        {"train": [{"sentence_good": "g", "sentence_bad": "b"}]},
    ),
    "lambada": (
        {"lambada_openai/lambada_test.jsonl": lines([{"text": "the end"}])},
        ("EleutherAI/lambada_openai", "default", "lambada_openai"),
        {"test": [{"text": "the end"}]},
    ),
    "piqa": (
        {
            "piqa/train.jsonl": lines([PIQA]),
            "piqa/train-labels.lst": "1\n",
            "piqa/valid.jsonl": lines([PIQA, PIQA]),
            "piqa/valid-labels.lst": "0\n1\n",
        },
        ASK_PIQA,
        {"train": [{**PIQA, "label": 1}], "validation": [{**PIQA, "label": 0}, {**PIQA, "label": 1}]},
    ),
    "arc": (
        {f"ARC-V1-Feb2018-2/ARC-Easy/ARC-Easy-{split}.jsonl": lines([ARC_OWN]) for split in ("Train", "Dev", "Test")},
        ASK_ARC,
        {"train": [ARC_HUB], "validation": [ARC_HUB], "test": [ARC_HUB]},
    ),
    "arc, as the hub has it": ({"arc_easy/test.jsonl": lines([ARC_HUB])}, ASK_ARC, {"test": [ARC_HUB]}),
    "arc, as prompts": (
        {"arc-easy/test.json": json.dumps([{"instruction": PROMPT, "answer": "answer2"}])},
        ASK_ARC,
        {"test": [{name: value for name, value in ARC_HUB.items() if name != "id"}]},
    ),
    "openbookqa": (
        {"openbookqa/Data/Main/dev.jsonl": lines([ARC_OWN]), "openbookqa/Data/Additional/test_complete.jsonl": "{}"},
        ("allenai/openbookqa", "main", "openbookqa"),
        {"validation": [{**{name: ARC_HUB[name] for name in ("id", "choices", "answerKey")}, "question_stem": "Why?"}]},
    ),
    "winogrande": (
        {
            "winogrande_1.1/train_xl.jsonl": lines([{**WINO, "qID": "1"}]),
            "winogrande_1.1/train_xs.jsonl": "?",
            "winogrande_1.1/dev.jsonl": lines([WINO]),
            "winogrande_1.1/test.jsonl": "?",
        },
        ASK_WINO,
        {"train": [WINO], "validation": [WINO]},
    ),
    "winogrande, as prompts": (
        {"winogrande/test.json": json.dumps([{"instruction": BLANK, "answer": "option2"}])},
        ASK_WINO,
        {"validation": [WINO]},
    ),
    "mmlu, csv": (
        {
            "mmlu/data/dev/astronomy_dev.csv": "1 + 1?,1,2,3,4,B\n",
            "mmlu/data/test/astronomy_test.csv": "1 + 1?,1,2,3,4,B\n",
            "mmlu/data/test/anatomy_test.csv": "?",
        },
        ASK_MMLU,
        {"dev": [MMLU], "test": [MMLU]},
    ),
    "mmlu, one file": (
        {"mmlu/mmlu_dev.jsonl.gz": lines([MMLU, {**MMLU, "subject": "anatomy"}]), "mmlu/mmlu_test.jsonl": lines([{**MMLU, "answer": "B"}])},
        ASK_MMLU,
        {"dev": [MMLU], "test": [MMLU]},
    ),
    "truthfulqa, csv": (
        {"truthfulqa/TruthfulQA.csv": "Question,Best Answer,Correct Answers,Incorrect Answers\nWhy?,a,b; a,c; d\n"},
        ("truthfulqa/truthful_qa", "multiple_choice", "truthfulqa_mc2"),
        {
            "validation": [
                {
                    "question": "Why?",
                    "mc1_targets": {"choices": ["a", "c", "d"], "labels": [1, 0, 0]},
                    "mc2_targets": {"choices": ["b", "a", "c", "d"], "labels": [1, 1, 0, 0]},
                }
            ]
        },
    ),
    "truthfulqa, choices": (
        {"truthfulqa/mc_task.json": json.dumps([{"question": "Why?", "mc1_targets": {"a": 1, "c": 0}, "mc2_targets": {"a": 1, "b": 1, "c": 0}}])},
        ("truthfulqa/truthful_qa", "multiple_choice", "truthfulqa_mc1"),
        {
            "validation": [
                {
                    "question": "Why?",
                    "mc1_targets": {"choices": ["a", "c"], "labels": [1, 0]},
                    "mc2_targets": {"choices": ["a", "b", "c"], "labels": [1, 1, 0]},
                }
            ]
        },
    ),
    "hellaswag": (
        {"hellaswag/hellaswag_val.jsonl": lines([HELLASWAG])},
        ("Rowan/hellaswag", None, "hellaswag"),
        {"validation": [{**HELLASWAG, "label": "2"}]},
    ),
    "anli": (
        {f"anli_v1.0/R2/{split}.jsonl": lines([{"uid": "1", "context": "p", "hypothesis": "h", "label": "c"}]) for split in ("train", "dev", "test")},
        ("facebook/anli", None, "anli_r2"),
        {f"{split}_r2": [{"premise": "p", "hypothesis": "h", "label": 2}] for split in ("train", "dev", "test")},
    ),
    "medmcqa": (
        {"medmcqa/dev.json": lines([{**MED, "cop": 1}, {**MED, "cop": 4}]), "medmcqa/test.json": "?"},
        ASK_MED,
        {"validation": [{**MED, "cop": 0}, {**MED, "cop": 3}]},
    ),
    "paloma": (
        {"paloma/wikitext_103/val/val.jsonl.gz": lines([{"text": "a", "id": "1"}]), "paloma/c4_en/val/val.jsonl": "?"},
        ("allenai/paloma", "wikitext_103", "paloma_wikitext_103"),
        {"val": [{"text": "a"}]},
    ),
    "any other, as the hub has it": (
        {"sciq/train.jsonl": lines([{"question": "Why?"}]), "sciq/my_split.jsonl": lines([{"question": "How?"}])},
        ("allenai/sciq", None, "sciq"),
        {"train": [{"question": "Why?"}], "my_split": [{"question": "How?"}]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_files_give_the_rows_of_the_hub(tmp_path: Path, case: str) -> None:
    files, asked, expected = CASES[case]
    assert read_splits(write(tmp_path, files), *asked) == expected


@pytest.mark.parametrize(
    ("files", "asked", "message"),
    [
        ({"piqa/valid.jsonl": lines([PIQA])}, ASK_PIQA, "valid.jsonl has no labels: put valid-labels.lst beside it"),
        ({"piqa/valid.jsonl": lines([PIQA]), "piqa/valid-labels.lst": "0\n1\n"}, ASK_PIQA, "has 2 labels, valid.jsonl 1 questions"),
        ({"piqa/valid.jsonl": lines([PIQA]), "piqa/valid-labels.lst": "2\n"}, ASK_PIQA, "valid-labels.lst line 1: a label is 0 or 1"),
        ({"arc-easy/test.jsonl": lines([ARC_OWN, {**ARC_OWN, "answerKey": "E"}])}, ASK_ARC, "line 2: its key 'E' is none"),
        ({"arc-easy/test.json": json.dumps([{"instruction": "?", "answer": "answer1"}])}, ASK_ARC, "line 1 does not end in"),
        ({"winogrande/dev.jsonl": lines([{**WINO, "sentence": "No blank."}])}, ASK_WINO, "dev.jsonl line 1: a sentence with a blank"),
        ({"mmlu/astronomy_test.csv": "1 + 1?,1,2,3,4,E\n"}, ASK_MMLU, "astronomy_test.csv line 1: a question, four choices"),
        ({"mmlu/test.jsonl": lines([{**MMLU, "answer": 4}])}, ASK_MMLU, "test.jsonl line 1: four choices and an answer"),
        ({"anli/R1/test.jsonl": lines([{"context": "p", "hypothesis": "h", "label": "x"}])}, ASK_ANLI, "test.jsonl line 1: a label is one of"),
        ({"medmcqa/dev.json": lines([{**MED, "cop": 5}])}, ASK_MED, "dev.json line 1: its field 'cop' is 5"),
        ({"blimp/wh_island.jsonl": lines([{"sentence_good": "g"}])}, ASK_BLIMP, "wh_island.jsonl line 1 has no field 'sentence_bad'"),
        ({"truthfulqa/TruthfulQA.csv": f"{CSV_HEADING}\nWhy?,a,a,\n"}, ASK_TRUTH, "TruthfulQA.csv line 2: a best answer"),
    ],
)  # fmt: skip
def test_a_broken_line_is_named(
    tmp_path: Path, files: dict[str, str], asked: tuple[str, str | None, str], message: str
) -> None:
    with pytest.raises(UserError, match=message) as raised:
        read_splits(write(tmp_path, files), *asked)
    assert not isinstance(raised.value, AbsentData)


def test_absent_data_says_what_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(AbsentData, match="has no folder arc_challenge"):
        read_splits(tmp_path, "allenai/ai2_arc", "ARC-Challenge", "arc_challenge")
    write(tmp_path, {"blimp/wh_island.jsonl": lines([{"sentence_good": "g", "sentence_bad": "b"}])})
    with pytest.raises(AbsentData, match="blimp holds no file of adjunct_island"):
        read_splits(tmp_path, "nyu-mll/blimp", "adjunct_island", "blimp_adjunct_island")


def test_the_shared_data_is_read_whole(data: Path) -> None:
    """Numbers of items as its README states them."""
    folder = data / "benchmarks"
    counts = {
        ("EleutherAI/lambada_openai", "default", "lambada_openai"): {"test": 5153},
        ASK_PIQA: {"validation": 1838},
        ASK_ARC: {"test": 2376},
        ("allenai/openbookqa", "main", "openbookqa"): {"test": 500},
        ASK_WINO: {"validation": 1267},
        ("truthfulqa/truthful_qa", "multiple_choice", "truthfulqa_mc2"): {"validation": 817},
        ASK_MMLU: {"dev": 5, "test": 152},
        ("nyu-mll/blimp", "wh_island", "blimp_wh_island"): {"train": 1000},
    }
    for asked, expected in counts.items():
        assert {split: len(rows) for split, rows in read_splits(folder, *asked).items()} == expected
