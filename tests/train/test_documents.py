"""Documents of every kind of source, joined or not, and the share that is held out."""

import json

import pytest

from decondense import UserError
from decondense.texts import embedded
from decondense.train.documents import open_documents


def opened(source, field=None, join="auto", streaming=False, held_out=0.2):
    return open_documents(str(source), field, join, streaming, held_out)


@pytest.fixture
def stories(tmp_path):
    path = tmp_path / "stories.jsonl"
    lines = [{"title": f"t{number}", "text": f"story {number} " + "word " * 20} for number in range(50)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture
def novel(tmp_path):
    path = tmp_path / "novel.txt"
    path.write_text("\n".join(f"line {number} of a long book" for number in range(1000)))
    return path


def test_the_embedded_corpus_is_split_so_that_no_run_of_words_is_on_both_sides():
    found = list(opened("embedded", held_out=0.1).read())
    training, held_out = embedded.split(embedded.documents(), 0.1)
    assert [text for text, held in found if held] == [document.text for document in held_out]
    assert [text for text, held in found if not held] == [document.text for document in training]


@pytest.mark.parametrize("streaming", [False, True])
def test_records_are_documents_and_a_share_is_held_out(stories, streaming):
    documents = opened(stories, streaming=streaming)
    found = list(documents.read())
    assert len(found) == 50
    assert list(documents.read()) == found
    assert 2 <= sum(held for _, held in found) <= 20
    if not streaming:
        assert sum(len(text) for text, held in found if held) <= 0.2 * sum(len(text) for text, _ in found)
    # The choice is by the text: it does not depend on the order.
    lines = stories.read_text().splitlines()
    stories.write_text("\n".join(lines[::-1]))
    assert sorted(opened(stories, streaming=streaming).read()) == sorted(found)


def test_equal_documents_are_on_one_side(tmp_path):
    path = tmp_path / "twice.jsonl"
    lines = [json.dumps({"text": f"story {number % 20} " + "word " * 9}) for number in range(60)]
    path.write_text("\n".join(lines))
    found = list(opened(path).read())
    assert {text for text, held in found if held}.isdisjoint(text for text, held in found if not held)
    assert any(held for _, held in found)


def test_each_file_is_a_document(tmp_path):
    for number in range(8):
        (tmp_path / f"{number}.txt").write_text("\n".join(f"line {line} of book {number}" for line in range(50)))
    found = list(opened(tmp_path, join="file").read())
    assert [text for text, _ in found] == [file.read_text() for file in sorted(tmp_path.iterdir())]
    assert [held for _, held in found].count(True) == 1


@pytest.mark.parametrize("streaming", [False, True])
def test_lines_of_a_text_are_joined_and_nothing_is_lost(novel, streaming):
    found = list(opened(novel, streaming=streaming).read())
    assert len(found) < 40
    assert "\n".join(text for text, _ in found) == novel.read_text()
    assert len(list(opened(novel, join="no", streaming=streaming).read())) == 1000


@pytest.mark.parametrize("streaming", [False, True])
def test_a_data_set_without_text_names_its_fields(tmp_path, streaming):
    path = tmp_path / "numbers.jsonl"
    path.write_text('{"title": 1, "body": "a"}\n{"title": 2, "body": "b"}')
    with pytest.raises(UserError, match=r"fields are title, body; choose one with --field NAME"):
        list(opened(path, streaming=streaming).read())
    with pytest.raises(UserError, match=r"has no field 'text'.*fields are title, body"):
        list(opened(path, field="text", streaming=streaming).read())


def test_a_changed_file_is_told_from_the_one_before(stories):
    before = opened(stories).identity
    assert opened(stories).identity == before
    assert opened(stories, held_out=0.3).identity != before
    stories.write_text(stories.read_text() + "\n" + json.dumps({"text": "one more"}))
    assert opened(stories).identity != before


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("embeded", {}, "did you mean 'embedded'"),
        ("./nowhere.txt", {}, "no such file or folder"),
        ("embedded", {"join": "yes"}, "leave --join and --streaming out"),
        ("embedded", {"held_out": 0.0}, "--held-out 0.0: a share of the text between 0 and 1"),
        (__file__, {"join": "file"}, "must be a folder"),
        ("embedded", {"join": "file"}, "leave --join and --streaming out"),
        ("embedded", {"join": "perhaps"}, "--join 'perhaps' is not known"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_read(source, options, message):
    with pytest.raises(UserError, match=message):
        opened(source, **options)


def test_a_data_set_of_the_hub_that_cannot_be_reached_is_one_line():
    for streaming in (False, True):
        with pytest.raises(UserError, match=r"texts 'someone/something': .*--texts PATH reads local files"):
            list(opened("someone/something", streaming=streaming).read())


def test_too_few_documents_to_hold_one_out(tmp_path):
    path = tmp_path / "one.jsonl"
    path.write_text('{"text": "all there is"}')
    with pytest.raises(UserError, match="none of its 1 documents is as small as the share"):
        opened(path).read()
