"""A name, a file or a folder gives its records; the hub, where it is absent, is an error that names the way out."""

import gzip
from pathlib import Path
from typing import Any

import pytest

from decondense import hub
from decondense.errors import UserError
from decondense.texts import embedded, sources
from decondense.texts.sampling import draw
from decondense.texts.sources import HUB, Records, load


def test_the_embedded_corpus_is_given_by_paragraphs() -> None:
    records = load("embedded")
    assert records.name == "embedded"
    # In their order, with nothing but blank lines lost.
    whole = "".join(document.text for document in embedded.documents())
    assert "".join("".join(records).split()) == "".join(whole.split())
    assert all(record.strip() for record in records)
    assert len(records) > 10 * len(embedded.documents())


def test_a_file_is_its_records(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\n\ntwo\n")
    records = load(str(path))
    assert (records.name, list(records), records[1], records[:1]) == (str(path), ["one", "two"], "two", ["one"])


def test_a_folder_is_the_records_of_its_files_by_name(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("three\n")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"one\ntwo\n"))
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "c.jsonl").write_text('{"text": "four"}\n')
    (tmp_path / "README").write_text("not a text")
    (tmp_path / "notes.md").write_text("not a text")
    (tmp_path / ".hidden.txt").write_text("not a text")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "d.txt").write_text("not a text")
    assert list(load(str(tmp_path))) == ["one", "two", "three", "four"]


def test_a_fault_in_a_file_of_a_folder_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("")
    with pytest.raises(UserError, match=r"b\.txt is empty"):
        load(str(tmp_path))


def test_a_folder_without_texts_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"holds no file that ends in \.txt, "):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("wikitxt", "did you mean 'wikitext'"),
        ("./imdb", "no such file"),
        ("", "no such file"),
        ("c4.txt", "no such file"),
    ],
)
def test_a_source_that_is_not_there_is_an_error_that_lists_the_names(source: str, hint: str) -> None:
    with pytest.raises(UserError, match="embedded, wikitext, pubmed, imdb, squad") as raised:
        load(source)
    assert hint in str(raised.value)


REAL = {
    "wikitext2/valid.txt": 2461,
    "wikitext2": 2461 + 2891,
    "pubmed/pubmedqa.jsonl.gz": 1000,
    "squad/squad.json": 240,
    "imdb/imdb.jsonl.gz": 2000,
    "tinystories/tinystories_train_1000.jsonl": 1000,
    "tinystories/tinystories_val_794k.txt": 4356,
}


@pytest.mark.parametrize("name", REAL)
def test_real_texts_of_each_layout_give_all_their_records(data: Path, name: str) -> None:
    records = load(str(data / "texts" / name))
    assert len(records) == REAL[name]
    assert all(1024 <= len(text.split()) <= 1280 for text in draw(records, 20, seed=0))


def test_real_records_are_what_the_paper_takes(data: Path) -> None:
    # Not its `context`, which comes before in the file.
    assert load(str(data / "texts" / "pubmed"))[0].startswith("Results depicted mitochondrial dynamics in vivo")
    assert load(str(data / "texts" / "squad"))[0].startswith("The Panthers defense gave up just 308 points")


def test_a_folder_of_books_is_read(data: Path) -> None:
    records = load(str(data / "texts" / "books"))
    assert sum(len(record.split()) for record in records) > 4_000_000


@pytest.fixture
def lent_hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A hub that is there and gives one small data set for any name; the requests made to it."""
    datasets = pytest.importorskip("datasets")
    asked: list[tuple[Any, ...]] = []
    rows = datasets.Dataset.from_dict(
        {name: ["one two", "", "three"] for name in ("text", "long_answer", "context")} | {"label": [0, 1, 2]}
    )

    def load_dataset(*arguments: Any, **options: Any) -> Any:
        asked.append((*arguments, options["split"]))
        return rows

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(hub, "reachable", lambda: True)
    return asked


@pytest.mark.parametrize("name", HUB)
def test_a_data_set_of_the_hub_is_the_paper_s(lent_hub: list[tuple[Any, ...]], name: str) -> None:
    records = load(name)
    assert list(records) == ["one two", "", "three"]
    assert lent_hub == [(HUB[name][0], HUB[name][1], "train")]
    assert sorted(draw(records, 2, seed=0, words=(3, 3))) == ["one two\nthree", "three\none two"]


def test_a_field_of_a_data_set_can_be_chosen_where_it_holds_text(lent_hub: list[tuple[Any, ...]]) -> None:
    assert load("imdb", field="context")[0] == "one two"
    with pytest.raises(UserError, match="has no field 'txt': its fields are text, long_answer, context, label"):
        load("imdb", field="txt")
    with pytest.raises(UserError, match="its field 'label' holds no text; 'text' does"):
        load("imdb", field="label")


@pytest.mark.parametrize("name", HUB)
def test_without_the_hub_the_error_names_local_files(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        UserError, match="the hub cannot be reached and its cache does not hold it; --texts PATH"
    ) as raised:
        load(name)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr().err == ""


def test_a_folder_called_like_a_data_set_is_pointed_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imdb").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"\./imdb is what is here"):
        load("imdb")


def test_records_show_their_name_and_number_not_their_text() -> None:
    assert repr(Records("a", ["x"] * 1000)) == "Records('a', 1000 texts)"
    assert sources.NAMES == ("embedded", "wikitext", "pubmed", "imdb", "squad", "tinystories")
