"""Probes find what is there, give chance where nothing is, and say the same as a direct computation."""

import math

import pytest
import torch
from models import build, tokens

from decondense.errors import UserError
from decondense.evaluate.probe_items import Cloze
from decondense.evaluate.probes import centred, cloze_right, linear_probe, pooled_states, retrieval_ranks, scores


class Numbers:
    """A tokenizer whose texts are token ids in writing."""

    eos_token_id = None

    def __call__(self, text, truncation=False, max_length=None, verbose=True):
        return {"input_ids": [int(word) for word in text.split()][: max_length if truncation else None]}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_pooled_states_are_the_means_of_hidden_states_whatever_the_batch():
    model = build("llama").eval()
    rows = [tokens(1, length)[0] for length in (5, 9, 7, 12)]
    texts = [" ".join(map(str, row.tolist())) for row in rows]
    found = pooled_states(model, Numbers(), texts, max_length=10, batch_size=3)
    for index, row in enumerate(rows):
        with torch.no_grad():
            states = model(row[None, :10], output_hidden_states=True).hidden_states
        for layer, state in enumerate(states):
            # float32 sums in another order
            assert torch.allclose(found[layer][index], state[0].double().mean(dim=0), atol=1e-5)


def test_states_that_are_no_numbers_are_refused():
    model = build("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.fill_(math.nan)
    with pytest.raises(UserError, match="hold NaN or infinity"):
        pooled_states(model, Numbers(), ["1 2 3", "4 5 6"])


def test_ranks_are_those_of_sorting_by_cosine():
    first, second = random(20, 6), random(20, 6, seed=1)
    ranks = retrieval_ranks(first, second)
    cosines = torch.nn.functional.cosine_similarity(first[:, None], second[None], dim=2)
    for index in range(20):
        order = cosines[index].argsort(descending=True).tolist()
        assert ranks[index, 0] == order.index(index) + 1
        order = cosines[:, index].argsort(descending=True).tolist()
        assert ranks[index, 1] == order.index(index) + 1


def test_halves_that_are_alike_find_one_another_and_collapsed_ones_do_not():
    first = random(50, 8)
    assert (retrieval_ranks(first, 3 * first) == 1).all()
    same = torch.ones(50, 8, dtype=torch.float64)
    assert (retrieval_ranks(same, same) == 50).all()
    # Unrelated halves: any rank is as likely.
    assert retrieval_ranks(random(400, 64), random(400, 64, seed=1)).mean().item() == pytest.approx(200, rel=0.1)


def test_a_common_mean_hides_what_centring_brings_back():
    first = random(200, 16)
    second = 3 * first
    mean = 200 * random(1, 16, seed=2)
    assert (retrieval_ranks(first, second) == 1).all()
    # Far from the origin angles are distances, and a half thrice as long is far away.
    assert retrieval_ranks(first + mean, second + mean).mean() > 2
    moved, apart = (retrieval_ranks(*centred(first + shift, second + shift)) for shift in (mean, 0 * mean))
    assert torch.equal(moved, apart)


def test_a_linear_probe_finds_classes_and_ignores_a_common_mean():
    labels = torch.arange(120) % 3
    centres = 4 * random(3, 5, seed=3)
    states = centres[labels] + random(120, 5)
    test = torch.arange(120) >= 90
    right = linear_probe(states[~test], labels[~test], states[test], labels[test])
    assert right.double().mean() > 0.9
    moved = states + 50 * random(1, 5, seed=4)
    assert torch.equal(right, linear_probe(moved[~test], labels[~test], moved[test], labels[test]))


def test_a_linear_probe_of_noise_guesses():
    labels = torch.arange(800) % 2
    states = random(800, 40)
    right = linear_probe(states[:400], labels[:400], states[400:], labels[400:])
    # Standard error 0.025.
    assert right.double().mean().item() == pytest.approx(0.5, abs=0.08)


def test_a_linear_probe_with_more_features_than_items_does_not_fit_noise_alone():
    labels = torch.arange(60) % 2
    states = random(60, 200)
    states[:, 0] += 6 * (2 * labels - 1)
    right = linear_probe(states[:40], labels[:40], states[40:], labels[40:])
    assert right.double().mean() > 0.7


def test_labels_of_one_class_are_refused():
    one = torch.zeros(4, dtype=torch.long)
    with pytest.raises(UserError, match="one class"):
        linear_probe(random(4, 2), one, random(4, 2), one)


def test_blanks_are_filled_by_the_probability_of_all_tokens_of_a_word():
    model = build("llama").eval()
    # Candidates of several tokens, in texts of several lengths.
    items = [
        Cloze(" ".join(map(str, tokens(1, length)[0].tolist())), ("3 4", "5", "6 7 8"), answer)
        for length, answer in ((4, 0), (6, 1), (9, 2), (5, 1))
    ]
    expected = []
    for item in items:
        totals = []
        for candidate in item.candidates:
            before, own = (torch.tensor([int(word) for word in text.split()]) for text in (item.context, candidate))
            row = torch.cat([before, own])
            with torch.no_grad():
                found = model(row[None]).logits[0].log_softmax(dim=-1)
            totals.append(sum(found[place - 1, row[place]].item() for place in range(len(before), len(row))))
        expected.append(totals.index(max(totals)) == item.answer)
    assert cloze_right(model, Numbers(), items, batch_size=5).tolist() == expected


def test_scores_are_means_with_intervals_around_them():
    values = (random(300, 2) > 0).double()
    found = scores(values)
    for score, column in zip(found, values.T, strict=True):
        assert score.mean == pytest.approx(column.mean().item())
        assert score.items == 300
        # The normal approximation, 1.96 standard errors.
        assert score.high - score.low == pytest.approx(2 * 1.96 * column.std().item() / math.sqrt(300), rel=0.15)
        assert score.low < score.mean < score.high
