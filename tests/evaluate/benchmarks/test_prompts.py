"""Items that were written as prompts give back the fields that they were made from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decondense.errors import UserError
from decondense.evaluate.benchmarks.files import Row
from decondense.evaluate.benchmarks.prompts import is_prompt, read_blank, read_question

WORDS = st.text("abc :?\n.-", min_size=1, max_size=20).filter(lambda text: text.strip() != "" and "\n\n" not in text)


def question_row(question: str, answers: list[str], right: int, word: str = "Answer") -> Row:
    listed = " ".join(f"{word}{number}: {answer}" for number, answer in enumerate(answers, 1))
    names = "/".join(f"answer{number}" for number in range(1, len(answers) + 1))
    text = f"Please choose the correct answer to the question: {question}\n\n{listed}\n\nAnswer format: {names}"
    return Row("file line 7", {"instruction": text, "input": "", "output": "", "answer": f"answer{right}"})


def blank_row(sentence: str, options: list[str], answer: str) -> Row:
    text = (
        f"Please choose the correct answer to fill in the blank to complete the given sentence: {sentence}\n\n"
        f"Option1: {options[0]} Option2: {options[1]} Answer format: option1/option2"
    )
    return Row("file line 7", {"instruction": text, "answer": answer})


@given(WORDS, st.lists(WORDS, min_size=2, max_size=5), st.data())
def test_a_question_comes_back(question: str, answers: list[str], data: st.DataObject) -> None:
    right = data.draw(st.integers(1, len(answers)))
    row = question_row(question, answers, right)
    assert is_prompt(row)
    assert read_question(row) == {
        "question": question,
        "choices": {"text": answers, "label": list("ABCDE"[: len(answers)])},
        "answerKey": "ABCDE"[right - 1],
    }


def test_a_sentence_with_its_blank_comes_back() -> None:
    row = blank_row("Sarah thanked Maria because _ helped.", ["Sarah", "Maria"], "option2")
    assert read_blank(row) == {
        "sentence": "Sarah thanked Maria because _ helped.",
        "option1": "Sarah",
        "option2": "Maria",
        "answer": "2",
    }


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (question_row("Why?", ["a", "b"], 3), "its answer 'answer3' is none of answer1, answer2"),
        (
            question_row("Why?", ["a", "b"], 1, word="Choice"),
            "is not 'Please choose the correct answer to the question",
        ),
        (question_row("Why?", ["a", " "], 1), "is not 'Please choose"),
        (
            Row("file line 7", {"instruction": "Why?", "answer": "answer1"}),
            "does not end in 'Answer format: answer1/answer2'",
        ),
        (Row("file line 7", {"instruction": 3, "answer": "answer1"}), "its field 'instruction' holds a int"),
    ],
)
def test_what_is_no_question_is_named_with_its_line(row: Row, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        read_question(row)
    assert str(raised.value).startswith("file line 7")


def test_a_sentence_without_a_blank_is_named_with_its_line() -> None:
    with pytest.raises(UserError, match="file line 7: a sentence with a blank _ and two options is expected"):
        read_blank(blank_row("Sarah helped.", ["Sarah", "Maria"], "option1"))
