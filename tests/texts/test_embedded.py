"""The embedded corpus: what is in it, and that what is held out is nowhere in training."""

import random
from pydoc_data.topics import topics

import hypothesis.strategies as st
import pytest
from hypothesis import given

from decondense.errors import UserError
from decondense.texts.embedded import SHINGLE_WORDS, Document, documents, split, without_duplicates


def runs(text: str, length: int = SHINGLE_WORDS) -> set[str]:
    words = text.split()
    return {" ".join(words[start : start + length]) for start in range(len(words) - length + 1)}


def lines(text: str) -> set[str]:
    return {line for raw in text.splitlines() if len(line := " ".join(raw.split())) >= 60}


def test_the_corpus_is_the_reference_manual_in_the_order_of_its_topics() -> None:
    corpus = documents()
    names = [document.name for document in corpus]
    assert names == sorted(set(names))
    assert all(topics[document.name] == document.text for document in corpus)
    assert documents() == corpus
    # 465 kB with all its duplicates in Python 3.11; the bound leaves room for other versions.
    assert sum(len(document.text) for document in corpus) > 300_000


def test_what_was_left_out_is_contained_in_what_was_kept() -> None:
    kept = documents()
    names = {document.name for document in kept}
    known = set().union(*(runs(document.text) for document in kept))
    for name in topics.keys() - names:
        own = runs(topics[name])
        assert len(own & known) >= 0.75 * len(own), name


def test_no_document_contains_another() -> None:
    corpus = documents()
    own = {document.name: runs(document.text) for document in corpus}
    for one in own:
        for other in own.keys() - {one}:
            assert len(own[one] & own[other]) < 0.75 * len(own[one]), (one, other)


def test_equal_and_empty_documents_are_left_out_whatever_their_order() -> None:
    text = " ".join(str(number) for number in range(30))
    given = [Document("b", text), Document("a", text), Document("empty", " \n"), Document("c", text + " and more")]
    assert [document.name for document in without_duplicates(given)] == ["c"]
    assert [document.name for document in without_duplicates(given[1::-1])] == ["a"]


def test_held_out_text_appears_nowhere_in_training() -> None:
    training, held_out = split(documents())
    assert not set().union(*(runs(document.text) for document in training)) & set().union(
        *(runs(document.text) for document in held_out)
    )
    assert not set().union(*(lines(document.text) for document in training)) & set().union(
        *(lines(document.text) for document in held_out)
    )


def test_the_split_is_complete_and_holds_out_a_tenth() -> None:
    corpus = documents()
    training, held_out = split(corpus)
    assert sorted([*training, *held_out], key=lambda document: document.name) == corpus
    share = sum(len(document.text) for document in held_out) / sum(len(document.text) for document in corpus)
    assert 0.09 < share <= 0.1  # filled with whole documents, the smallest of 200 characters
    assert len(held_out) >= 5  # no single subject


def test_the_split_depends_on_neither_order_nor_chance() -> None:
    corpus = documents()
    held_out = set(split(corpus)[1])
    for seed in range(3):
        shuffled = random.Random(seed).sample(corpus, len(corpus))
        assert set(split(shuffled)[1]) == held_out


@given(st.lists(st.integers(0, 5), min_size=12, max_size=24))
def test_documents_that_quote_one_text_stay_on_one_side(quoted: list[int]) -> None:
    # Document n holds words of its own and quotes text number quoted[n], so documents of equal number belong together.
    def words(kind: str, number: int) -> str:
        return " ".join(f"{kind}{number}-{place}" for place in range(20))

    given = [Document(f"d{n}", f"{words('own', n)} {words('quote', number)}") for n, number in enumerate(quoted)]
    try:
        training, held_out = split(given, 0.4)
    except UserError:
        # Only where no group is small enough.
        assert min(quoted.count(number) for number in quoted) > 0.4 * len(quoted) * 0.9
        return
    numbers = [{quoted[given.index(document)] for document in side} for side in (training, held_out)]
    assert not numbers[0] & numbers[1]
    assert sum(len(document.text) for document in held_out) <= 0.4 * sum(len(document.text) for document in given)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_outside_of_0_and_1_is_an_error(share: float) -> None:
    with pytest.raises(UserError, match="held_out"):
        split(documents(), share)


def test_documents_that_cannot_be_split_are_an_error() -> None:
    with pytest.raises(UserError, match="1 documents cannot be split"):
        split(documents()[:1])
