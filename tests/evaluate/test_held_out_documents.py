"""Documents for perplexity: what is held out of a source, and where local ones are looked for."""

import json
from pathlib import Path

import pytest
from small_benchmarks import write_benchmarks

from decondense.errors import UserError
from decondense.evaluate.benchmarks.local import AbsentData
from decondense.evaluate.held_out_documents import open_held_out
from decondense.texts import embedded


def test_articles_of_wikitext_are_documents_and_test_goes_before_valid(tmp_path: Path) -> None:
    found = open_held_out("wikitext", write_benchmarks(tmp_path / "data"))
    assert [Path(one).name for one in found.origin] == ["test.txt"]
    assert [text.splitlines()[0].strip() for text in found.documents] == ["= Dog 0 =", "= Dog 1 =", "= Dog 2 ="]
    assert all("= = Life = =" in text for text in found.documents)


@pytest.mark.parametrize("place", ["data/tinystories", "data/texts/tinystories", "texts/tinystories"])
def test_texts_are_found_among_the_benchmarks_and_beside_them(tmp_path: Path, place: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "stories_train.jsonl").write_text(json.dumps({"text": "seen"}))
    (tmp_path / place / "stories_val_1k.txt").write_text("one story\n<|endoftext|>\nanother\n\nof two paragraphs\n")
    found = open_held_out("tinystories", tmp_path / "data")
    assert found.documents == ("one story", "another\n\nof two paragraphs")


def test_a_path_is_read_whole_where_nothing_says_what_is_held_out(tmp_path: Path) -> None:
    (tmp_path / "novels").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "novels" / name).write_text(f"novel {name}\n\nends\n")
    found = open_held_out(str(tmp_path / "novels"), None)
    assert found.documents == ("novel a.txt\n\nends", "novel b.txt\n\nends")
    assert open_held_out(str(tmp_path / "novels"), tmp_path).digest == found.digest
    assert open_held_out(str(tmp_path / "novels" / "a.txt"), None).digest != found.digest


def test_of_the_embedded_corpus_what_training_does_not_see_is_taken() -> None:
    _, held_out = embedded.split(embedded.documents(), 0.1)
    assert open_held_out("embedded", None).documents == tuple(document.text for document in held_out)


def test_a_hub_that_cannot_be_reached_leaves_the_texts_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    with pytest.raises(AbsentData, match="texts 'tinystories'"):
        open_held_out("tinystories", None)


def test_what_is_not_there_is_absent_and_what_is_not_known_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AbsentData, match="have no folder or file 'wikitext'"):
        open_held_out("wikitext", tmp_path)
    with pytest.raises(UserError, match="'wikitex' is not known: did you mean 'wikitext'"):
        open_held_out("wikitex", None)
