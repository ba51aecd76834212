"""Perplexity as a task: what stands in its entry, for one document and for several."""

import math
from typing import Any

import pytest

pytest.importorskip("lm_eval")

from saved import POSITIONS, WORDS, save_tiny_model

from decondense import models
from decondense.evaluate.held_out_documents import HeldOutDocuments
from decondense.evaluate.perplexity import by_document, by_window
from decondense.evaluate.scoring import Scorer
from decondense.evaluate.text_task import run_texts

LONG = f"{WORDS} " * 12


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return models.load(str(save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")))


def test_one_document_has_the_standard_error_of_its_windows(tiny: tuple[Any, Any]) -> None:
    entry, samples = run_texts(Scorer(*tiny, 4), HeldOutDocuments("novel", ("a/novel.txt",), (LONG,)), None, None, None)
    expected = by_window(*tiny, [LONG], batch_size=4)
    assert entry["metrics"] == expected.metrics()
    assert entry["metrics"]["perplexity"]["stderr"] > 0
    assert (entry["context"], entry["stride"], entry["files"]) == (POSITIONS, POSITIONS // 2, ["novel.txt"])
    assert math.exp(samples[0]["nats"] / samples[0]["tokens"]) == pytest.approx(expected.value, rel=1e-12)


def test_several_are_taken_together_and_one_by_one_and_the_limit_is_on_them(tiny: tuple[Any, Any]) -> None:
    texts = HeldOutDocuments("novels", ("a.txt",), (LONG, "", WORDS, "never read"))
    entry, samples = run_texts(Scorer(*tiny, 4), texts, 2, 20, 5)
    documents = [LONG, WORDS]
    single = by_document(*tiny, documents, 20, 5, 4)
    assert entry["metrics"] == {**by_window(*tiny, documents, 20, 5, 4).metrics(), **single.metrics("/document")}
    assert [sample["nats"] for sample in samples] == single.nats
    assert (entry["samples"], entry["context"], entry["stride"]) == (2, 20, 5)
