"""Each planted cause of a high mean cosine is named, a real cone is not taken for one, and what is removed is removed exactly."""

from __future__ import annotations

import math
import re

import pytest
import torch
from clouds import collect, marks_of, sums_of
from torch import Tensor

from decondense.condensation import Condensation
from decondense.errors import UserError
from decondense.geometry import LayerStatistics, choose_metrics
from decondense.geometry.causes import MASSIVE, ROGUE
from decondense.geometry.diagnosis import CAUSES, diagnose

TEXTS, TOKENS, FEATURES = 6, 120, 64


def noise(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(TEXTS, TOKENS, FEATURES, generator=generator, dtype=torch.float64)


def ids_of(seed: int = 1) -> Tensor:
    """Ids of tokens: even ones are frequent, 0 is a separator; few tokens repeat."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 4 * TOKENS, (TEXTS, TOKENS), generator=generator)


def direction(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(FEATURES, generator=generator, dtype=torch.float64), dim=0)


def spread() -> tuple[Tensor, Tensor]:
    return noise(), ids_of()


def cone() -> tuple[Tensor, Tensor]:
    return noise() + 6 * direction(0), ids_of()


def cone_of_each_text() -> tuple[Tensor, Tensor]:
    return noise() + 6 * torch.stack([direction(text) for text in range(TEXTS)])[:, None], ids_of()


def rogue() -> tuple[Tensor, Tensor]:
    hidden = noise()
    hidden[..., [5, 40]] += 8
    return hidden, ids_of()


def massive() -> tuple[Tensor, Tensor]:
    hidden = noise()
    hidden[:, ::2][:, :55] = 100 * (direction(3) + 0.02 * noise(7)[:, ::2][:, :55])
    return hidden, ids_of()


def frequent() -> tuple[Tensor, Tensor]:
    hidden, ids = noise(), ids_of()
    hidden[ids % 2 == 0] += 12 * direction(4)
    return hidden, ids


def repeats() -> tuple[Tensor, Tensor]:
    ids = 2 * torch.randint(0, 3, (TEXTS, TOKENS), generator=torch.Generator().manual_seed(2)) + 1
    # Three orthogonal vectors, all of whose tokens coincide.
    return 8 * torch.eye(FEATURES, dtype=torch.float64)[ids] + 0.3 * noise(), ids


PLANTED = {
    "none": spread,
    "cone": cone,
    "rogue features": rogue,
    "sink tokens": massive,
    "frequent tokens": frequent,
    "repeated tokens": repeats,
}


def measured(hidden: Tensor, ids: Tensor) -> Condensation:
    statistics = LayerStatistics(causes=True)
    statistics.update(hidden, marks=marks_of(hidden, ids=ids))
    names = [name for name in choose_metrics("all") if name.startswith(("mean", "without", "rogue"))]
    return Condensation.from_statistics([statistics], names, "planted", TOKENS)


@pytest.mark.parametrize("cause", PLANTED)
def test_a_planted_cause_is_named_and_a_spread_model_cleared(cause: str) -> None:
    found = measured(*PLANTED[cause]()).diagnose()
    assert found.cause == cause, found
    assert "\n" not in found.sentence
    if cause == "none":
        assert re.fullmatch(
            r"Not condensed: layer 0 of 0 has mean cosine -?[\d.e-]+, which is below 0\.1\.", found.sentence
        )
    elif cause == "cone":
        assert found.shares["common direction"] > 0.9
        assert "common to all 6 texts" in found.sentence
    else:
        assert f"without {cause}" in found.sentence
        assert found.without[cause] < 0.5 * found.mean_cosine


@pytest.mark.parametrize("mean", [0.098, 0.0999, 0.1])
def test_a_mean_below_the_bound_is_written_as_a_number_below_it(mean: float) -> None:
    values = {"mean_cosine_off_diagonal": mean, **dict.fromkeys(CAUSES.values(), mean)}
    sentence = diagnose(1, 2, values, torch.ones(FEATURES), texts=1).sentence
    written = re.search(r"mean cosine (\d[\d.]*\d)", sentence)
    assert written is not None, sentence
    assert (float(written[1]) < 0.1) == ("is below 0.1" in sentence) == (mean < 0.1), sentence


def test_the_rogue_features_are_named_by_number() -> None:
    found = measured(*rogue()).diagnose()
    assert set(found.features[:2]) == {5, 40}
    assert "rogue features (" in found.sentence


def test_texts_with_directions_of_their_own_share_none() -> None:
    found = measured(*cone_of_each_text()).diagnose()
    assert found.cause == "cone"
    assert abs(found.shares["common direction"]) < 0.2
    assert "each text has a direction of its own" in found.sentence


def test_one_text_does_not_tell_whether_its_direction_is_common() -> None:
    hidden, ids = cone()
    found = measured(hidden[:1], ids[:1])
    assert found.between_texts is None
    assert "takes more than one text to tell" in found.diagnose().sentence


def cosine_matrix(hidden: Tensor) -> Tensor:
    units = torch.nn.functional.normalize(hidden, dim=-1)
    return units @ units.T


def off_diagonal(matrix: Tensor) -> float:
    return float((matrix.sum() - matrix.trace()) / (len(matrix) * (len(matrix) - 1)))


def test_what_is_removed_is_removed_exactly() -> None:
    hidden, ids = noise() + direction(0), ids_of() % 9
    hidden[:, 11] *= 50
    sums = sums_of(hidden, marks_of(hidden, ids=ids))
    for text, (vectors, of_text) in enumerate(zip(hidden, ids, strict=True)):
        units = torch.nn.functional.normalize(vectors, dim=-1)
        contributions = units.sum(dim=0).square()
        largest = contributions.topk(ROGUE).indices
        assert sums.rogue[text] == pytest.approx(float(contributions[largest].sum() / contributions.sum()), rel=1e-9)
        stripped = vectors.clone()
        stripped[:, largest] = 0
        assert sums.without_rogue[text] == pytest.approx(off_diagonal(cosine_matrix(stripped)), abs=1e-10)
        lengths = vectors.norm(dim=1)
        sink = (of_text == 0) | (lengths > MASSIVE * lengths.median())
        sink[0] = True
        assert sink[11]
        assert sums.without_sinks[text] == pytest.approx(off_diagonal(cosine_matrix(vectors[~sink])), abs=1e-10)
        assert sums.without_frequent[text] == pytest.approx(
            off_diagonal(cosine_matrix(vectors[of_text % 2 == 1])), abs=1e-10
        )
        different = of_text[:, None] != of_text
        assert sums.without_repeats[text] == pytest.approx(float(cosine_matrix(vectors)[different].mean()), abs=1e-10)


def test_positions_average_to_the_mean_and_texts_to_what_they_share() -> None:
    hidden = (noise() + direction(0))[:, None].expand(-1, 2, -1, -1)
    result = Condensation.from_statistics(collect(hidden), choose_metrics("all"), "a", TOKENS)
    assert result.positions.shape == (2, TOKENS)
    assert result.positions[0].mean() == pytest.approx(result.mean_cosine_off_diagonal[0], rel=1e-9)
    third = cosine_matrix(hidden[2, 0])
    alone = Condensation.from_statistics(collect(hidden[2:3]), choose_metrics("all"), "a", TOKENS)
    assert alone.positions[0, 7] == pytest.approx(float((third[7].sum() - 1) / (TOKENS - 1)), rel=1e-9)
    means = torch.nn.functional.normalize(hidden[:, 0], dim=-1).mean(dim=1)
    assert result.between_texts[0] == pytest.approx(off_diagonal_of_products(means), rel=1e-9)


def off_diagonal_of_products(means: Tensor) -> float:
    products = means @ means.T
    return float((products.sum() - products.trace()) / (len(means) * (len(means) - 1)))


def test_without_marks_there_is_nothing_to_look_for() -> None:
    with pytest.raises(UserError, match="needs marks"):
        LayerStatistics(causes=True).update(noise())
    plain = LayerStatistics()
    plain.update(noise())
    with pytest.raises(UserError, match='metrics="all"'):
        Condensation.from_statistics([plain], ["mean_cosine"], "a", TOKENS).diagnose()


def test_a_text_of_nothing_but_sinks_has_no_rest() -> None:
    hidden = noise()[:1, :4]
    sums = sums_of(hidden, marks_of(hidden, ids=torch.zeros(1, 4, dtype=torch.int64)))
    assert math.isnan(sums.without_sinks[0])
    assert math.isnan(sums.without_frequent[0])
    assert math.isnan(sums.without_repeats[0])
