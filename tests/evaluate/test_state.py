"""A finished task is found again under the same key, and under no other."""

import json
from pathlib import Path

import pytest
from saved import save_tiny_model

from decondense.evaluate.state import State, digest_model

KEY = {"limit": None, "version": 1.0}
ENTRY = {"metrics": {"acc": {"value": 0.5, "stderr": None}}}


def test_what_was_written_is_read_under_its_key_alone(tmp_path: Path) -> None:
    state = State(tmp_path / "model")
    state.write("piqa", KEY, ENTRY, None)
    assert state.read("piqa", KEY, samples=False) == ENTRY
    assert state.read("piqa", {**KEY, "limit": 5}, samples=False) is None
    assert state.read("arc", KEY, samples=False) is None
    # Samples that were not kept are to be had by running again.
    assert state.read("piqa", KEY, samples=True) is None


def test_samples_are_lines_that_name_their_task(tmp_path: Path) -> None:
    state = State(tmp_path / "model")
    tasks = ["piqa", "perplexity:a/b", "perplexity:a-b"]
    for number, task in enumerate(tasks):
        state.write(task, KEY, ENTRY, [{"doc_id": number}])
        assert state.read(task, KEY, samples=True) == ENTRY
    state.join_samples(tasks, tmp_path / "samples.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert lines == [{"task": task, "doc_id": number} for number, task in enumerate(tasks)]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"key": {}}'])
def test_a_damaged_file_is_no_result(tmp_path: Path, damage: str) -> None:
    state = State(tmp_path)
    state.write("piqa", KEY, ENTRY, None)
    (tmp_path / "piqa.json").write_text(damage)
    assert state.read("piqa", KEY, samples=False) is None


def test_the_digest_of_a_model_follows_its_weights_and_not_its_results(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "tiny")
    before = digest_model(folder)
    (folder / "results.json").write_text("{}")
    assert digest_model(folder) == before
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert digest_model(folder) != before
