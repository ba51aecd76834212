"""Items that were written as prompts in, the fields of the data set that they were made from out.

The form is that of the commonsense sets of LLM-Adapters: `instruction` holds question and answers in one string, `answer` which is right.
"""

from __future__ import annotations

import re
from typing import Any

from decondense.errors import UserError
from decondense.evaluate.benchmarks.files import Row

LETTERS = "ABCDEFGH"
_QUESTION = "Please choose the correct answer to the question: "
_SENTENCE = "Please choose the correct answer to fill in the blank to complete the given sentence: "


def is_prompt(row: Row) -> bool:
    """Whether a row is an item in this form."""
    return {"instruction", "answer"} <= set(row.fields)


def read_question(row: Row) -> dict[str, Any]:
    """Question, choices and key of a multiple-choice item; the labels, which the form does not keep, are A, B, C in order.

    Raises:
        UserError: the strings are not in this form; names the line.
    """
    text, answer = row.take("instruction"), row.take("answer")
    names = _names(row, text, "answer")
    question, answers = _split(row, text, _QUESTION, names, "\n\n")
    labels = list(LETTERS[: len(answers)])
    return {
        "question": question,
        "choices": {"text": answers, "label": labels},
        "answerKey": labels[_index(row, answer, names)],
    }


def read_blank(row: Row) -> dict[str, Any]:
    """Sentence with its blank `_`, two options and the number of the right one.

    Raises:
        UserError: the strings are not in this form; names the line.
    """
    text, answer = row.take("instruction"), row.take("answer")
    names = _names(row, text, "option")
    sentence, options = _split(row, text, _SENTENCE, names, " ")
    if len(options) != 2 or "_" not in sentence:
        raise UserError(f"{row.where}: a sentence with a blank _ and two options is expected: {text[:80]!r}")
    return {
        "sentence": sentence,
        "option1": options[0],
        "option2": options[1],
        "answer": str(_index(row, answer, names) + 1),
    }


def _names(row: Row, text: str, word: str) -> list[str]:
    """The names of the answers, from the end of the prompt: "answer1/answer2/answer3"."""
    found = re.search(rf"Answer format: ((?:{word}\d/?)+)\Z", text.rstrip())
    if found is None:
        raise UserError(f"{row.where} does not end in 'Answer format: {word}1/{word}2': {text[-80:]!r}")
    return found[1].split("/")


def _split(row: Row, text: str, start: str, names: list[str], end: str) -> tuple[str, list[str]]:
    marks = [f"{name.capitalize()}: " for name in names]
    pattern = re.escape(start) + r"(.*?)\n\n" + " ".join(re.escape(mark) + "(.*?)" for mark in marks)
    found = re.fullmatch(pattern + re.escape(end) + "Answer format: .*", text, re.DOTALL)
    if found is None or not all(part.strip() for part in found.groups()):
        raise UserError(f"{row.where} is not '{start}... {' ... '.join(marks)}...': {text[:100]!r}")
    question, *answers = found.groups()
    return question, answers


def _index(row: Row, answer: str, names: list[str]) -> int:
    if answer not in names:
        raise UserError(f"{row.where}: its answer {answer!r} is none of {', '.join(names)}")
    return names.index(answer)
