"""Drawn texts have the paper's length, start at random places and hold the records in their order."""

import warnings

import hypothesis.strategies as st
import pytest
from hypothesis import given

from decondense.errors import UserError
from decondense.texts.sampling import draw
from decondense.texts.sources import Records

RECORDS = [" ".join(f"r{record}w{word}" for word in range(record % 7)) for record in range(600)]


def test_texts_have_1024_to_1280_words_and_not_all_as_many() -> None:
    lengths = [len(text.split()) for text in draw(RECORDS, count=50, seed=0)]
    assert all(1024 <= length <= 1280 for length in lengths)
    assert len(set(lengths)) > 20


@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.integers(0, 9), st.integers(1, 40))
def test_a_text_is_a_piece_of_the_records_going_round(sizes: list[int], seed: int, words: int) -> None:
    records = [" ".join(f"{record}.{word}" for word in range(size)) for record, size in enumerate(sizes)]
    if not any(sizes):
        with pytest.raises(UserError, match="no text"):
            draw(records, 1, seed, (words, words))
        return
    [text] = draw(records, 1, seed, (words, words))
    drawn, once = text.split(), " ".join(records).split()
    # Going round once at most: no record is in a text twice.
    assert len(drawn) == min(words, len(once))
    place = once.index(drawn[0])
    assert (once[place:] + once[:place])[: len(drawn)] == drawn
    assert drawn[0].endswith(".0")  # a start is the beginning of a record


def test_the_white_space_inside_a_record_is_kept() -> None:
    [text] = draw(["  one\n    two   three four"], count=1, seed=0, words=(3, 3))
    assert text == "one\n    two   three"


def test_a_seed_gives_its_texts_and_more_of_them_where_more_are_asked_for() -> None:
    assert draw(RECORDS, 20, seed=3)[:5] == draw(RECORDS, 5, seed=3)
    assert draw(RECORDS, 5, seed=3) != draw(RECORDS, 5, seed=4)


def test_no_two_texts_start_at_one_record() -> None:
    filled = [record for record in RECORDS if record]
    starts = [text.split()[0] for text in draw(filled, len(filled), seed=0, words=(1, 1))]
    assert sorted(starts) == sorted(record.split()[0] for record in filled)


def test_starts_are_spread_over_the_records() -> None:
    starts = [int(text.split("w")[0][1:]) for text in draw(RECORDS, 100, seed=0, words=(1, 1))]
    # The mean of 100 of 600 places has a standard deviation of 600 / sqrt(12 * 100) = 17: six of them are allowed.
    assert abs(sum(starts) / len(starts) - 300) < 100


def test_fewer_records_than_texts_give_fewer_texts_and_a_warning() -> None:
    with pytest.warns(UserWarning, match="short has 2 records with text: as many texts are drawn, not 9"):
        texts = draw(Records("short", ["one", "", "two"]), count=9, seed=0, words=(2, 2))
    assert sorted(texts) == ["one\ntwo", "two\none"]


def test_as_many_records_as_texts_are_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(draw(["one", "two"], count=2, seed=0)) == 2


def test_what_cannot_be_drawn_is_an_error() -> None:
    with pytest.raises(UserError, match="at least 1"):
        draw(["one"], count=0, seed=0)
    with pytest.raises(UserError, match="smallest"):
        draw(["one"], count=1, seed=0, words=(5, 4))
    with pytest.raises(UserError, match="blank"):
        draw(["", " "], count=1, seed=0)
    with pytest.raises(UserError, match="blank"):
        draw([], count=1, seed=0)
