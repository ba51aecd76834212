"""Biographies tell the facts that they are made of, all of them, once, in ever new words, and are a function of their seeds."""

import itertools

import pytest
import torch

from decondense.errors import UserError
from decondense.evaluate.biographies import EMPLOYER, FIELDS, NAME, PADDING, VOCABULARY, WORKING_CITY, Biographies

PEOPLE = Biographies(300, seed=5)


def write(seed=0, who=None):
    return PEOPLE.write(torch.arange(300) if who is None else who, torch.Generator().manual_seed(seed))


def values(tokens, fields):
    """The choice of each field as it is written in a row: read back without the tables that wrote it."""
    found = []
    for number, field in enumerate(FIELDS):
        spelled = [VOCABULARY[token] for token in tokens[fields == number].tolist()]
        choice = 0
        for part, token in zip(field.parts, spelled, strict=True):
            choice = choice * len(part) + part.index(token)
        found.append(choice)
    return found


def test_every_fact_is_told_once_and_as_it_is():
    written = write()
    assert [values(*row) for row in zip(written.tokens, written.fields, strict=True)] == PEOPLE.facts.tolist()


def test_names_are_unique_and_facts_are_spread_over_their_choices():
    everyone = Biographies(5000, seed=1).facts
    assert len(everyone[:, NAME].unique()) == 5000
    for number, field in enumerate(FIELDS[1:WORKING_CITY], 1):
        assert everyone[:, number].min() >= 0 and everyone[:, number].max() < field.choices
        # 5,000 draws from at most 300 choices leave none out (chance below 300 * exp(-16)).
        if field.choices <= 300:
            assert len(everyone[:, number].unique()) == field.choices


def test_the_working_city_follows_from_the_employer():
    everyone = Biographies(5000, seed=1).facts
    for employer in everyone[:, EMPLOYER].unique():
        assert len(everyone[everyone[:, EMPLOYER] == employer, WORKING_CITY].unique()) == 1


def test_the_name_comes_first_and_the_working_city_after_the_employer():
    fields = write().fields
    place = torch.stack([(fields == number).long().argmax(dim=1) for number in range(len(FIELDS))], dim=1)
    assert (place[:, NAME] == 1).all()
    assert (place[:, EMPLOYER] < place[:, WORKING_CITY]).all()
    # Every other order of two facts is seen.
    for one, other in itertools.permutations(range(1, len(FIELDS)), 2):
        assert (place[:, one] < place[:, other]).any() == ((one, other) != (WORKING_CITY, EMPLOYER))


def test_words_differ_between_readings_and_are_a_function_of_the_seed():
    assert torch.equal(write(1).tokens, write(1).tokens)
    first, second = write(1), write(2)
    width = min(first.tokens.shape[1], second.tokens.shape[1])
    same = (first.tokens[:, :width] == second.tokens[:, :width]).all(dim=1)
    # 4^6 wordings in 360 orders: two readings of one person are the same in less than one case of a million.
    assert not same.any()


def test_padding_stands_at_the_end_and_nowhere_else():
    written = write()
    padding = VOCABULARY.index(PADDING)
    assert torch.equal(written.mask, written.tokens != padding)
    assert (written.mask.long().diff(dim=1) <= 0).all() and written.mask[:, -1].any()
    assert (written.fields[~written.mask] == -1).all()


def test_text_reads_as_sentences():
    text = PEOPLE.text(write().tokens[0])
    assert text.count(".") == 6 and text.endswith(".") and text.count("They") == 5 and "<" not in text


def test_vocabulary_has_no_token_twice():
    assert len(set(VOCABULARY)) == len(VOCABULARY) < 200


@pytest.mark.parametrize("people", [0, 1, 160_000_001])
def test_a_number_of_people_that_cannot_be_is_refused(people):
    with pytest.raises(UserError, match=f"people {people}: expected from 2 to 160,000,000"):
        Biographies(people)
