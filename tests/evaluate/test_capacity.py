"""The bits that are scored are those that a scorer of known knowledge holds."""

import math

import pytest
import torch
from torch import nn

from decondense.errors import UserError
from decondense.evaluate.biographies import FIELDS, NAME, VOCABULARY, WORKING_CITY, Biographies
from decondense.evaluate.capacity import field_losses, known_bits, model_scorer, score

PEOPLE = Biographies(400, seed=3)
NAMES = FIELDS[NAME].choices
VALUES = math.prod(field.choices for field in FIELDS[1:] if field.counted)


class Table:
    """Knows the first `known` of the people of `biographies` by heart, and guesses uniformly at the rest, given tokens alone.

    Names: with probability known / N one of those it knows, else any name there is. Facts: certain where the name is one that it knows.
    """

    def __init__(self, biographies, known):
        self.share = known / biographies.people
        written = biographies.write(torch.arange(biographies.people), torch.Generator().manual_seed(0))
        self.names = {tuple(row[1:7].tolist()) for row in written.tokens[:known]}
        self.total = biographies.people

    def __call__(self, tokens):
        return torch.tensor([self.row(row) for row in tokens.tolist()], dtype=torch.float64)

    def row(self, tokens):
        """Log-probabilities of one row: what stands in the biographies is read off its words, not off marks."""
        name = tuple(tokens[1:7])
        known = name in self.names
        probability = (1 - self.share) / NAMES + (1 / self.total if known else 0)
        found = [0.0] * len(tokens)
        found[1] = math.log(probability)  # of the whole name, at its first token: the rest then follows
        start = 7
        for place in range(7, len(tokens)):
            if VOCABULARY[tokens[place]] == ".":
                size = self.size_of(tokens[start:place])
                if not known and size is not None:
                    found[place - 1] = -math.log(size)  # of the whole value, at its last token
                start = place + 1
        return found

    @staticmethod
    def size_of(sentence):
        words = "".join(VOCABULARY[token] for token in sentence)
        last = VOCABULARY[sentence[-1]]
        if last.isdigit():
            return 12 * 28 * 200
        if any(verb in words for verb in ("studied at", "degree at", "learned at")) or (
            " went to" in words and "work" not in words
        ):
            return 300
        if any(verb in words for verb in (" studied", "degree in", "learned about", "focused")):
            return 100
        if any(verb in words for verb in ("worked for", "job at", "joined", "work for")):
            return 264
        if any(verb in words for verb in ("worked in", "job in", "office", "work in")):
            return None
        return 200


@pytest.mark.parametrize("known", [0, 100, 250, 400])
def test_a_table_that_knows_some_people_scores_the_bits_that_it_holds(known):
    found = score(Table(PEOPLE, known), PEOPLE, wordings=2)
    people, share = PEOPLE.people, known / PEOPLE.people
    names = sum(math.log2(NAMES - earlier) for earlier in range(people))
    if known:
        names += known * math.log2(1 / people + (1 - share) / NAMES)
    if known < people:
        names += (people - known) * math.log2((1 - share) / NAMES)
    facts = known * math.log2(VALUES)
    assert found.bits == pytest.approx(names + facts, abs=1e-6)
    assert sum(bits for name, bits in found.bits_by_field.items() if name != "name") == pytest.approx(facts, abs=1e-6)
    # Whoever knows everybody scores the most that there is; whoever knows nobody scores nothing.
    if known == people:
        assert found.bits == pytest.approx(found.most, abs=1e-6)
    if known == 0:
        assert found.bits == pytest.approx(0.0, abs=1e-3)


def test_each_field_is_scored_by_itself():
    found = score(Table(PEOPLE, 100), PEOPLE, wordings=1)
    for field in FIELDS[1:WORKING_CITY]:
        assert found.bits_by_field[field.name] == pytest.approx(100 * math.log2(field.choices), abs=1e-6)
    assert "working_city" not in found.bits_by_field and found.losses["working_city"] == 0.0


def test_a_guesser_of_tokens_that_knows_the_spelling_scores_zero():
    # Uniform over the tokens that may stand at each place of a value: unlike the table it knows of no person.
    sizes = [[len(part) for part in field.parts] for field in FIELDS]

    def scorer(tokens):
        generator = torch.Generator().manual_seed(7)
        fields = PEOPLE.write(torch.arange(400), generator).fields
        found = torch.zeros(tokens.shape)
        for row in range(len(tokens)):
            for number, parts in enumerate(sizes):
                found[row, fields[row] == number] = -torch.tensor(parts).float().log()
        return found

    found = score(scorer, PEOPLE, seed=7, wordings=1, batch_size=400)
    # float32 logarithms
    assert found.bits / PEOPLE.people == pytest.approx(0.0, abs=1e-4)


def test_a_worse_guesser_scores_below_zero():
    found = score(lambda tokens: torch.full(tokens.shape, -math.log(len(VOCABULARY))), PEOPLE, wordings=1)
    assert found.bits < 0 and max(found.bits_by_field.values()) < 0


def test_the_formula_is_the_papers_where_names_are_many():
    losses = {field.name: 0.3 * math.log(field.choices) for field in FIELDS}
    people = 2000
    values = sum(loss for name, loss in losses.items() if name not in ("name", "working_city"))
    paper = people * math.log2(NAMES / math.exp(losses["name"])) + people * math.log2(VALUES / math.exp(values))
    # Drawing without replacement takes N^2 / (2 N0 ln 2) bits: 0.02.
    assert known_bits(losses, people).bits == pytest.approx(paper - people**2 / (2 * NAMES * math.log(2)), abs=1e-3)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_refused(loss):
    losses = {field.name: 1.0 for field in FIELDS}
    with pytest.raises(UserError, match="the loss of major is"):
        known_bits({**losses, "major": loss}, 10)
    del losses["major"]
    with pytest.raises(UserError, match="the loss of major is None"):
        known_bits(losses, 10)


def test_tokens_outside_fields_never_count():
    fields = torch.tensor([[-1, 0, 0, -1, 2, -1]])
    rows = torch.tensor([[math.nan, -1.0, -2.0, -math.inf, -4.0, math.nan]])
    assert field_losses(rows, fields)[0].tolist() == [3.0, 0.0, 4.0, 0.0, 0.0, 0.0, 0.0]


def test_a_model_scores_as_its_own_loss_says():
    class Bigrams(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(len(VOCABULARY), len(VOCABULARY))

        def forward(self, input_ids):
            return type("Output", (), {"logits": self.table(input_ids)})()

    torch.manual_seed(0)
    model = Bigrams()
    written = PEOPLE.write(torch.arange(8), torch.Generator().manual_seed(1))
    given = model_scorer(model)(written.tokens)
    logits = model(written.tokens).logits[:, :-1]
    expected = nn.functional.cross_entropy(logits.transpose(1, 2), written.tokens[:, 1:], reduction="none")
    assert torch.allclose(given[:, 1:], -expected, atol=1e-5)
    assert model.training
