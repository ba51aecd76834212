"""A row of a data set's own file in, the row that the hub's copy of it has out: one entry a data set. Knows no folder and no prompt.

lm-eval's tasks are written for the hub's field names; the authors' files have others. What is in the hub's form already passes unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from decondense.errors import UserError
from decondense.evaluate.benchmarks import prompts
from decondense.evaluate.benchmarks.files import Row, read_lines, read_rows

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Schema:
    """How the files of a data set are found and read.

    Attributes:
        folders: names that its folder may have, with _ for - and in small letters; {name} stands for the configuration's.
        convert: a row of a file to the hub's.
        belongs: whether a file (its path inside the folder) holds rows of the configuration; all do where it is None.
        read: a file's rows in the hub's form, where more than one row is needed for that; (file, configuration) -> rows.
        splits: the name that the hub gives to a split, by that which files have; {name: ...}, others keep theirs.
    """

    folders: tuple[str, ...]
    convert: Callable[[Row], dict[str, Any]] = lambda row: dict(row.fields)
    belongs: Callable[[Path, str], bool] | None = None
    read: Callable[[Path, str], Rows] | None = None
    splits: Callable[[Path, str], str] = field(default=lambda file, split: split)

    def rows(self, file: Path, name: str) -> Rows:
        """The rows of one file in the hub's form."""
        return [self.convert(row) for row in read_rows(file)] if self.read is None else self.read(file, name)


def plain(text: str) -> str:
    """A name as folders and files are compared: small letters, with _ between."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def _blimp(row: Row) -> dict[str, Any]:
    row.take("sentence_good"), row.take("sentence_bad")
    return dict(row.fields)


def _text(row: Row) -> dict[str, Any]:
    return {"text": row.take("text")}


def _piqa(file: Path, name: str) -> Rows:
    """Questions and, in a file beside them, a label a line."""
    rows = read_rows(file)
    if rows and "label" in rows[0].fields:
        return [dict(row.fields) for row in rows]
    labels_file = file.with_name(file.name.removesuffix(".gz").rsplit(".", 1)[0] + "-labels.lst")
    if not labels_file.is_file():
        raise UserError(f"{file} has no labels: put {labels_file.name} beside it")
    labels = read_lines(labels_file)
    wrong = [where for where, label in labels if label not in ("0", "1")]
    if wrong:
        raise UserError(f"{wrong[0]}: a label is 0 or 1")
    if len(labels) != len(rows):
        raise UserError(
            f"{labels_file} has {len(labels)} labels, {file.name} {len(rows)} questions: they do not belong together"
        )
    return [
        {"goal": row.take("goal"), "sol1": row.take("sol1"), "sol2": row.take("sol2"), "label": int(label)}
        for row, (_, label) in zip(rows, labels, strict=True)
    ]


def _question(row: Row) -> dict[str, Any]:
    """ARC and OpenBookQA: {"question": {"stem", "choices": [{"text", "label"}]}, "answerKey"} in the authors' files."""
    if prompts.is_prompt(row):
        return prompts.read_question(row)
    if isinstance(row.fields.get("question"), dict):
        inner = Row(row.where, row.take("question", dict))
        choices = [Row(row.where, choice) for choice in inner.take("choices", list)]
        listed = {name: [choice.take(name) for choice in choices] for name in ("text", "label")}
        found = {"id": row.fields.get("id", ""), "question": inner.take("stem"), "choices": listed}
    else:
        found = dict(row.fields)
        row.take("choices", dict)
    found["answerKey"] = row.take("answerKey")
    if found["answerKey"].strip() not in found["choices"]["label"]:
        raise UserError(
            f"{row.where}: its key {found['answerKey']!r} is none of {', '.join(found['choices']['label'])}"
        )
    return found


def _openbookqa(row: Row) -> dict[str, Any]:
    found = _question(row)
    if "question_stem" not in found:
        found["question_stem"] = found.pop("question")
    return found


def _winogrande(row: Row) -> dict[str, Any]:
    if prompts.is_prompt(row):
        return prompts.read_blank(row)
    found = {name: row.take(name) for name in ("sentence", "option1", "option2", "answer")}
    if "_" not in found["sentence"] or found["answer"] not in ("1", "2"):
        raise UserError(f"{row.where}: a sentence with a blank _ and the answer 1 or 2 are expected")
    return found


def _mmlu(file: Path, name: str) -> Rows:
    """The authors' csv (a file a subject: question, four choices, letter), or rows that name their subject."""
    if ".csv" in file.name:
        return [_mmlu_cells(row, name) for row in read_rows(file, heading=False)]
    subjects = _by_subject(file)
    return [_mmlu_fields(row) for row in subjects.get(plain(name), subjects.get("", []))]


@lru_cache(maxsize=4)
def _by_subject(file: Path) -> dict[str, list[Row]]:
    """The rows of each subject, of "" where they name none."""
    found: dict[str, list[Row]] = {}
    names: dict[str, str] = {}
    for row in read_rows(file):
        subject = row.fields.get("subject", "")
        found.setdefault(names.setdefault(subject, plain(subject)), []).append(row)
    return found


def _mmlu_cells(row: Row, name: str) -> dict[str, Any]:
    if len(row.fields) != 6 or row.fields["5"] not in "ABCD":
        raise UserError(f"{row.where}: a question, four choices and one of A, B, C, D are expected")
    question, *choices, answer = row.fields.values()
    return {"question": question, "subject": name, "choices": choices, "answer": "ABCD".index(answer)}


def _mmlu_fields(row: Row) -> dict[str, Any]:
    answer = row.take("answer", (int, str))
    if isinstance(answer, str):
        answer = "ABCD".find(answer)
    if len(row.take("choices", list)) != 4 or answer not in range(4):
        raise UserError(f"{row.where}: four choices and an answer from 0 to 3, or A to D, are expected")
    return {**row.fields, "answer": answer}


def _truthfulqa(file: Path, name: str) -> Rows:
    """mc_task.json has the choices; from TruthfulQA.csv they are made as its authors made them: right answers, then wrong ones."""
    return [_truthful_row(row) if ".csv" in file.name else _truthful_choices(row) for row in read_rows(file)]


def _truthful_row(row: Row) -> dict[str, Any]:
    best = row.take("Best Answer").strip()
    right, wrong = (
        [part.strip() for part in row.take(name).split(";") if part.strip()]
        for name in ("Correct Answers", "Incorrect Answers")
    )
    if not (best and wrong):
        raise UserError(f"{row.where}: a best answer and at least one incorrect one are expected")
    right = right if best in right else [best, *right]
    first = [best, *wrong], [1] + [0] * len(wrong)
    second = [*right, *wrong], [1] * len(right) + [0] * len(wrong)
    targets = {
        f"mc{number}_targets": {"choices": texts, "labels": labels}
        for number, (texts, labels) in enumerate((first, second), 1)
    }
    return {"question": row.take("Question").strip(), **targets}


def _truthful_choices(row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {"question": row.take("question")}
    for name in ("mc1_targets", "mc2_targets"):
        targets = row.take(name, dict)
        # The authors' file maps each choice to its label, the hub's copy has two lists.
        listed = "choices" in targets and isinstance(targets["choices"], list)
        found[name] = targets if listed else {"choices": list(targets), "labels": list(targets.values())}
    return found


def _hellaswag(row: Row) -> dict[str, Any]:
    found = {name: row.take(name) for name in ("activity_label", "ctx_a", "ctx_b")}
    return {**found, "endings": row.take("endings", list), "label": str(row.take("label", (int, str)))}


_ANLI = {"e": 0, "n": 1, "c": 2}


def _anli(row: Row) -> dict[str, Any]:
    label = row.take("label", (int, str))
    if label not in (*_ANLI, *_ANLI.values()):
        raise UserError(f"{row.where}: a label is one of e, n, c, or 0, 1, 2; it is {label!r}")
    premise = row.take("context" if "context" in row.fields else "premise")
    return {"premise": premise, "hypothesis": row.take("hypothesis"), "label": _ANLI.get(label, label)}


def _medmcqa(file: Path, name: str) -> Rows:
    """`cop`, the right option, counts from 1 in the authors' files and from 0 on the hub."""
    rows = read_rows(file)
    first = 0 if any(row.take("cop", int) == 0 for row in rows) else 1
    found = []
    for row in rows:
        right = row.take("cop", int) - first
        if right not in range(4):
            raise UserError(
                f"{row.where}: its field 'cop' is {right + first}: one of four options is expected, from {first}"
            )
        found.append(
            {**row.fields, **{one: row.take(one) for one in ("question", "opa", "opb", "opc", "opd")}, "cop": right}
        )
    return found


def _named(file: Path, name: str) -> bool:
    """Whether the file, or a folder that it is in, has the configuration's name."""
    return any(plain(part).startswith(plain(name)) for part in file.parts)


SCHEMAS: Mapping[str, Schema] = {
    "nyu-mll/blimp": Schema(
        ("blimp",), _blimp, lambda file, name: plain(file.name.split(".")[0]) == plain(name), splits=lambda *_: "train"
    ),
    "EleutherAI/lambada_openai": Schema(("lambada_openai", "lambada"), _text, splits=lambda *_: "test"),
    "baber/piqa": Schema(("piqa", "physicaliqa"), read=_piqa),
    "allenai/ai2_arc": Schema(("{name}",), _question),
    "allenai/openbookqa": Schema(
        ("openbookqa", "openbookqa_v1", "obqa"), _openbookqa, lambda file, name: "additional" not in str(file).lower()
    ),
    "allenai/winogrande": Schema(
        ("winogrande", "winogrande_1_1", "winogrande_xl"),
        _winogrande,
        # Training files come in five sizes, and the items without answers are in test.jsonl.
        lambda file, name: not re.search(r"_(xs|s|m|l|debiased)\.", file.name) and file.name != "test.jsonl",
        # The items with answers, which prompts are made from, are those for validation.
        splits=lambda file, split: "validation" if split == "test" else split,
    ),
    "cais/mmlu": Schema(
        ("mmlu", "hendrycks_test", "hendryckstest"),
        belongs=lambda file, name: ".csv" not in file.name or plain(file.name).startswith(plain(name)),
        read=_mmlu,
        splits=lambda file, split: "dev" if re.search(r"dev[._]", file.name.lower()) else split,
    ),
    "truthfulqa/truthful_qa": Schema(
        ("truthfulqa", "truthful_qa"),
        belongs=lambda file, name: file.name in ("TruthfulQA.csv", "mc_task.json") or "validation" in file.name,
        read=_truthfulqa,
        splits=lambda *_: "validation",
    ),
    "Rowan/hellaswag": Schema(("hellaswag",), _hellaswag),
    "facebook/anli": Schema(
        ("anli", "anli_v1_0"),
        _anli,
        splits=lambda file, split: f"{'dev' if split == 'validation' else split}_{_round(file)}",
    ),
    "openlifescienceai/medmcqa": Schema(
        ("medmcqa",), belongs=lambda file, name: "test" not in file.name.lower(), read=_medmcqa
    ),
    "allenai/paloma": Schema(
        ("paloma", "paloma_{name}"), _text, _named, splits=lambda file, split: "val" if split == "validation" else split
    ),
}


def _round(file: Path) -> str:
    found = re.search(r"r([123])\b", "/".join(plain(part) for part in file.parts[-2:]).replace("_", "/"))
    return f"r{found[1]}" if found else ""
