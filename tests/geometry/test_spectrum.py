"""What does not add up over texts: closed forms, the packages of the papers, and that samples do not depend on batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from clouds import marks_of
from torch import Tensor

from decondense.draws import token_keys
from decondense.geometry import METRICS, Cloud, LayerStatistics, similarity
from decondense.geometry.sample import TokenSample


def draw(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def of_sample(name: str, vectors: Tensor) -> float:
    return METRICS[name].of_sample(Cloud(vectors))


@pytest.mark.parametrize("shape", [(40, 12), (12, 40)], ids=["tall", "wide"])
def test_spectral_metrics_are_those_of_numpys_singular_values(shape: tuple[int, int]) -> None:
    vectors = draw(0, *shape) + 0.5
    values = np.linalg.svd(vectors.numpy(), compute_uv=False)
    shares = values / values.sum()
    assert of_sample("maximum_explainable_variance", vectors) == pytest.approx(
        values[0] ** 2 / (values**2).sum(), rel=1e-9
    )
    assert of_sample("singular_value_entropy", vectors) == pytest.approx(-(shares * np.log(shares)).sum(), rel=1e-7)
    of_units = np.linalg.svd(torch.nn.functional.normalize(vectors, dim=1).numpy(), compute_uv=False)
    shares = of_units / of_units.sum()
    assert of_sample("effective_rank_entropy", vectors) == pytest.approx(
        math.exp(-(shares * np.log(shares)).sum()), rel=1e-7
    )
    mean = np.broadcast_to(vectors.numpy().mean(axis=0), shape)
    expected = np.linalg.norm(vectors.numpy() - mean, 2) / np.linalg.norm(mean, 2)
    assert of_sample("high_low_ratio_spectral", vectors) == pytest.approx(expected, rel=1e-9)


def test_known_spectra() -> None:
    assert of_sample("effective_rank_entropy", 3 * torch.eye(7)) == pytest.approx(7)
    assert of_sample("singular_value_entropy", torch.eye(7)) == pytest.approx(math.log(7))
    parallel = torch.arange(1.0, 6)[:, None] * torch.tensor([1.0, 2.0, 2.0])
    assert of_sample("maximum_explainable_variance", parallel) == pytest.approx(1)
    assert of_sample("effective_rank_entropy", parallel) == pytest.approx(1, abs=1e-6)
    for name in ("maximum_explainable_variance", "singular_value_entropy", "isoscore"):
        assert math.isnan(of_sample(name, torch.zeros(5, 3)))


@pytest.mark.parametrize("spread", [1.0, 5.0])
def test_isoscore_is_that_of_its_package(spread: float) -> None:
    package = pytest.importorskip("IsoScore.IsoScore")
    vectors = draw(1, 300, 10) * torch.linspace(1, spread, 10)
    assert of_sample("isoscore", vectors) == pytest.approx(float(package.IsoScore(vectors.numpy())), abs=1e-6)


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_the_intrinsic_dimension_is_that_of_the_manifold(dimension: int) -> None:
    # A flat patch of this dimension, turned into thirty features: TwoNN's estimate over 2000 points is right to about a tenth.
    patch = torch.rand(2000, dimension, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    turned = torch.linalg.qr(draw(4, 30, 30)).Q[:dimension]
    found = of_sample("intrinsic_dimension", patch @ turned)
    assert found == pytest.approx(dimension, rel=0.12)


def test_coinciding_tokens_do_not_break_the_intrinsic_dimension() -> None:
    patch = torch.rand(800, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    assert of_sample("intrinsic_dimension", torch.cat([patch, patch[:300]])) == pytest.approx(
        of_sample("intrinsic_dimension", patch), rel=1e-9
    )
    assert math.isnan(of_sample("intrinsic_dimension", torch.ones(50, 4)))


def test_likeness_of_layers() -> None:
    one = draw(6, 100, 40)
    turned = 3 * one @ torch.linalg.qr(draw(7, 40, 40)).Q + 5
    # More features than tokens: the biased CKA of independent layers is 0.9 there.
    independent = draw(8, 100, 1000)
    found = similarity([Cloud(one), Cloud(turned), Cloud(independent)])
    np.testing.assert_allclose(found.diagonal(), 1, rtol=1e-9)
    assert found[0, 1] == pytest.approx(1, rel=1e-9)
    assert abs(found[0, 2]) < 0.1
    assert torch.equal(found, found.T)
    assert similarity([Cloud(one[:3])]).isnan().all()


def test_unbiased_hsic_by_hand() -> None:
    """Song et al. 2012, eq. 5: the sums over different indices, written out."""
    one, two = draw(9, 6, 3), draw(10, 6, 4)

    def hsic(first: Tensor, second: Tensor) -> Tensor:
        k, l = (matrix @ matrix.T for matrix in (first, second))  # noqa: E741
        k.fill_diagonal_(0), l.fill_diagonal_(0)
        n = len(k)
        return ((k * l).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ l).sum()) / (n * (n - 3))

    expected = hsic(one, two) / (hsic(one, one) * hsic(two, two)).sqrt()
    assert similarity([Cloud(one), Cloud(two)])[0, 1] == pytest.approx(float(expected), rel=1e-9)


# --- the sample ---------------------------------------------------------------------------------------------------------------------


def sampled(hidden: Tensor, batch: int, size: int = 20) -> TokenSample:
    sample = TokenSample(size)
    for start in range(0, len(hidden), batch):
        part = hidden[start : start + batch]
        keys = token_keys(torch.arange(start, start + len(part)), hidden.shape[1], seed=0)
        sample.update(part, torch.full((len(part),), hidden.shape[1]), keys)
    return sample


def test_a_sample_depends_neither_on_batches_nor_on_parts() -> None:
    hidden = draw(11, 9, 30, 4)
    whole = sampled(hidden, batch=9)
    assert whole.vectors.shape == (20, 4)
    for batch in (1, 2, 4):
        assert torch.equal(sampled(hidden, batch).vectors, whole.vectors)
    first, second = TokenSample(20), TokenSample(20)
    for sample, texts in ((first, range(0, 9, 2)), (second, range(1, 9, 2))):
        numbers = torch.tensor(list(texts))
        sample.update(hidden[numbers], torch.full((len(numbers),), 30), token_keys(numbers, 30, seed=0))
    assert torch.equal(first.merge(second).vectors, whole.vectors)
    assert torch.equal(second.merge(first).vectors, whole.vectors)


def test_a_sample_takes_all_texts_alike_and_no_padding() -> None:
    hidden = torch.arange(200.0)[:, None, None].expand(200, 10, 1)
    sample = TokenSample(500)
    sample.update(hidden, torch.full((200,), 5), token_keys(torch.arange(200), 10, seed=1))
    per_text = torch.bincount(sample.vectors[:, 0].long(), minlength=200)
    assert per_text.max() <= 5
    assert abs(float(sample.vectors.mean()) - 99.5) < 4 * 58 / math.sqrt(500)


def test_all_layers_keep_the_same_tokens() -> None:
    hidden = draw(12, 5, 40, 3)
    layers = [LayerStatistics(sample=16) for _ in range(2)]
    for layer, statistics in enumerate(layers):
        statistics.update(hidden * (layer + 1), marks=marks_of(hidden))
    assert torch.equal(layers[1].sample.vectors, 2 * layers[0].sample.vectors)


def test_fewer_tokens_than_the_sample_are_all_taken() -> None:
    hidden = draw(13, 1, 12, 3)
    statistics = LayerStatistics(sample=512)
    statistics.update(hidden, marks=marks_of(hidden))
    assert sorted(map(tuple, statistics.sample.vectors.tolist())) == sorted(map(tuple, hidden[0].tolist()))
