"""A number of people and a seed in; their facts, and biographies that tell them in ever new words as rows of tokens, out. Knows no model.

The data set bioS(N) of Allen-Zhu & Li 2024 (Physics of Language Models, part 3.3), over a vocabulary of its own that is small enough
for models of ten thousand parameters. docs/capacity.md says what is kept and what is changed.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from decondense.errors import UserError
from decondense.shapes import Int

# Names of people and places are two syllables, so that a few tokens spell many of them; of each kind all pairs of its syllables are there, so
# that nothing need be learnt of which ones exist.
HEADS = tuple(f" {consonant}{vowel}" for consonant in "BDFGKLMN" for vowel in "aeiou")
TAILS = tuple(f"{consonant}{vowel}n" for consonant in "lrstv" for vowel in "aeiou")
MONTHS = (
    *(" January", " February", " March", " April", " May", " June"),
    *(" July", " August", " September", " October", " November", " December"),
)
DAYS = tuple(f" {day}" for day in range(1, 29))
DECADES = tuple(f" {decade}" for decade in range(180, 200))
DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Field:
    """A kind of fact: each choice is one token of every part.

    Attributes:
        name: of the field.
        parts: the tokens of each part.
        counted: whether a choice is free: the working city follows from the employer and holds no bits of its own.
    """

    name: str
    parts: tuple[tuple[str, ...], ...]
    counted: bool = True

    @property
    def choices(self) -> int:
        """Number of different values."""
        return math.prod(map(len, self.parts))


CITIES = (HEADS[:20], TAILS[:10])

# The sizes are the paper's, but for its 263 employers, which is no product.
FIELDS = (
    Field("name", (HEADS[:20], TAILS[:20], HEADS[20:], TAILS[5:], HEADS, TAILS)),  # first, middle, last: 400, 400, 1000
    Field("birth_date", (MONTHS, DAYS, DECADES, DIGITS)),  # 12 * 28 * 200
    Field("birth_city", CITIES),  # 200
    Field("university", (HEADS[10:30], TAILS[10:])),  # 300
    Field("major", (HEADS[30:], TAILS[15:])),  # 100
    Field("employer", (HEADS[8:32], TAILS[7:18])),  # 264
    Field("working_city", CITIES, counted=False),
)
NAME, EMPLOYER, WORKING_CITY = 0, 5, 6

# What follows the subject; {} is the value. One list a field of FIELDS[1:].
WORDINGS = (
    (" came to life on{}", " began life on{}", " first saw light on{}", " came to us on{}"),
    (" came from{}", " began life in{}", " first saw light in{}", " came to life in{}"),
    (" studied at{}", " took a degree at{}", " learned at{}", " went to{}"),
    (" studied{}", " took a degree in{}", " learned about{}", " focused on{}"),
    (" worked for{}", " took a job at{}", " joined{}", " went to work for{}"),
    (" worked in{}", " took a job in{}", " had an office in{}", " went to work in{}"),
)
PADDING, START, STOP, PRONOUN = "<padding>", "<start>", ".", " They"


def _words(wording: str) -> list[str]:
    return [f" {word}" for word in wording.removesuffix("{}").split()]


def _vocabulary() -> tuple[str, ...]:
    found = [PADDING, START, STOP, PRONOUN]
    found += [word for group in WORDINGS for wording in group for word in _words(wording)]
    found += [token for field in FIELDS for part in field.parts for token in part]
    return tuple(dict.fromkeys(found))


VOCABULARY = _vocabulary()
"""All tokens; their texts joined are the biography."""
_NUMBER = {token: number for number, token in enumerate(VOCABULARY)}


class Written(NamedTuple):
    """Biographies as tokens, each from its start token, padded at the end.

    Attributes:
        tokens: int64 [people, length].
        fields: int64 [people, length]: the number in `FIELDS` of the fact that a token is part of; -1 in between and at padding.
        mask: bool [people, length], false at padding.
    """

    tokens: Tensor
    fields: Tensor
    mask: Tensor


class Biographies:
    """People with different names and random facts, and their biographies.

    The full name comes first, then one sentence for each fact, in random order and each in one of four wordings; the working city
    comes after the employer, from which it follows.

    Args:
        people: how many.
        seed: of their facts, and of the city of each group of employers.

    Attributes:
        facts: int64 [people, 7], the number of the choice in each of `FIELDS`.

    Raises:
        UserError: fewer than two people, or more than there are names.

    >>> people = Biographies(500, seed=0)
    >>> for sentence in people.text(people.write(torch.tensor([0]), torch.Generator().manual_seed(3)).tokens[0]).split(". "):
    ...     print(sentence)
    Buton Misun Lelan came to life on May 12 1989
    They focused on Naven
    They joined Lasan
    They began life in Barun
    They took a degree at Kotan
    They went to work in Gulon.
    """

    def __init__(self, people: int, seed: int = 0) -> None:
        names = FIELDS[NAME].choices
        if not 2 <= people <= names:
            raise UserError(f"people {people}: expected from 2 to {names:,}, the number of different names")
        self.people = people
        generator = random.Random(seed)
        cities = [generator.randrange(FIELDS[WORKING_CITY].choices) for _ in FIELDS[EMPLOYER].parts[0]]
        rows = [
            [name, *(generator.randrange(field.choices) for field in FIELDS[1:WORKING_CITY])]
            for name in generator.sample(range(names), people)
        ]
        # Employers that share a first syllable share a city, so that this rule costs a model 24 facts and not 264.
        per_city = len(FIELDS[EMPLOYER].parts[1])
        self.facts = torch.tensor([[*row, cities[row[EMPLOYER] // per_city]] for row in rows])
        self._names = _spell(self.facts[:, NAME], FIELDS[NAME])
        self._tables = [self._table(number) for number in range(1, len(FIELDS))]

    def _table(self, number: int) -> tuple[Tensor, Tensor]:
        """Tokens and fields [people, wordings, length] of the sentences that tell field `number`; 0 is padding."""
        values = _spell(self.facts[:, number], FIELDS[number])
        longest = max(len(_words(wording)) for group in WORDINGS for wording in group) + 2
        longest += max(len(field.parts) for field in FIELDS[1:])
        group = WORDINGS[number - 1]
        tokens = torch.zeros(self.people, len(group), longest, dtype=torch.long)
        fields = torch.full_like(tokens, -1)
        for index, wording in enumerate(group):
            words = [_NUMBER[PRONOUN], *(_NUMBER[word] for word in _words(wording))]
            end = len(words) + values.shape[1]
            tokens[:, index, : len(words)] = torch.tensor(words)
            tokens[:, index, len(words) : end] = values
            fields[:, index, len(words) : end] = number
            tokens[:, index, end] = _NUMBER[STOP]
        return tokens, fields

    def write(self, who: Int[Tensor, " people"], generator: torch.Generator) -> Written:
        """Biographies of the people numbered `who`, each in an order and in wordings drawn from `generator`."""
        count, sentences = len(who), len(FIELDS) - 1
        keys = torch.rand(count, sentences, generator=generator)
        # The later of the two places is the working city's.
        pair = keys[:, EMPLOYER - 1 :].sort(dim=1).values
        order = torch.cat([keys[:, : EMPLOYER - 1], pair], dim=1).argsort(dim=1)
        wording = torch.randint(len(WORDINGS[0]), (count, sentences), generator=generator)
        told = [
            (tokens[who, wording[:, k]], fields[who, wording[:, k]]) for k, (tokens, fields) in enumerate(self._tables)
        ]
        pick = torch.arange(count)[:, None]
        body = torch.stack([tokens for tokens, _ in told], dim=1)[pick, order]
        marks = torch.stack([fields for _, fields in told], dim=1)[pick, order]
        body[:, 0, 0] = 0  # the first sentence has the name for its subject
        names = self._names[who]
        tokens = torch.cat([torch.full((count, 1), _NUMBER[START]), names, body.flatten(1)], dim=1)
        fields = torch.cat([torch.full((count, 1), -1), torch.full_like(names, NAME), marks.flatten(1)], dim=1)
        mask = tokens != _NUMBER[PADDING]
        places = (~mask).long().argsort(dim=1, stable=True)[:, : int(mask.sum(dim=1).max())]
        return Written(tokens.gather(1, places), fields.gather(1, places), mask.gather(1, places))

    def text(self, tokens: Int[Tensor, " length"]) -> str:
        """What a row of tokens reads as."""
        return "".join(VOCABULARY[token] for token in tokens.tolist() if token > _NUMBER[START]).strip()


def _spell(choices: Tensor, field: Field) -> Tensor:
    """Tokens [people, parts] of the choices [people] of a field: the digits of a number of mixed base, the last part's the fastest."""
    columns = []
    for part in reversed(field.parts):
        numbers = torch.tensor([_NUMBER[token] for token in part])
        columns.append(numbers[choices % len(part)])
        choices = choices // len(part)
    return torch.stack(columns[::-1], dim=1)
