"""Passages cover documents without overlap; a blank is told by what stood before it and by nothing else."""

from collections import Counter

import pytest

from decondense.errors import UserError
from decondense.evaluate.probe_items import CHOICES, EARLIEST, NEAREST, clozes, labelled, passages
from decondense.texts.embedded import Document, documents

FOUND = passages(documents())


def test_passages_are_the_text_without_its_rest():
    given = Document("numbers", " ".join(map(str, range(25))))
    found = passages([given], words=10)
    assert [one.text for one in found] == [" ".join(map(str, range(start, start + 10))) for start in (0, 10)]
    assert found[0].first.split() == list("01234")
    with pytest.raises(UserError, match="words=1"):
        passages([given], words=1)


def test_labelled_passages_are_as_many_of_each_document():
    counts = Counter(one.document for one in labelled(FOUND, per_document=8))
    assert len(counts) > 10 and set(counts.values()) == {8}
    assert len(labelled(FOUND, per_document=10_000)) == 0


def test_a_blank_stood_before_and_no_other_candidate_did():
    found = clozes(FOUND)
    assert len(found) > 300
    for item in found:
        words = item.context.split()
        answer = item.candidates[item.answer]
        assert len(item.candidates) == len(set(item.candidates)) == CHOICES
        assert len(words) >= EARLIEST
        assert answer in words[:-NEAREST]
        others = set(item.candidates) - {answer}
        assert not {word.lower() for word in words} & {word.lower() for word in others}
        assert all(word.isalpha() and len(word) >= 5 for word in item.candidates)


def test_neither_frequency_nor_place_tells_the_word():
    found = clozes(FOUND, seed=1)
    counts = Counter(word for one in FOUND for word in one.text.split())
    most = sum(max(item.candidates, key=counts.get) == item.candidates[item.answer] for item in found) / len(found)
    first = sum(item.answer == 0 for item in found) / len(found)
    # Chance is 1/4 with a standard error below 0.025; frequent answers have fewer neighbours above them.
    assert most < 0.45
    assert first == pytest.approx(1 / CHOICES, abs=0.1)


def test_blanks_are_a_function_of_the_seed():
    assert clozes(FOUND, seed=2) == clozes(FOUND, seed=2) != clozes(FOUND, seed=3)
