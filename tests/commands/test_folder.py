"""A run's folder tells what is finished, belongs to one run, and keeps no trace of a run that finished nothing."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from decondense import __version__
from decondense.commands.folder import claimed, read_finished, write_results
from decondense.errors import UserError

CONFIG: Mapping[str, object] = {"models": ["b", "a"], "seed": 1}


def contents(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_what_was_written_is_read(tmp_path: Path) -> None:
    finished = [{"model": "b", "tokens": 2}, {"model": "a", "tokens": 1}]
    with claimed(tmp_path / "out", "kind", CONFIG):
        write_results(tmp_path / "out", "kind", CONFIG, finished, comparisons=[3])
    assert read_finished(tmp_path / "out") == finished
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == {
        "kind": "kind",
        "version": __version__,
        "config": CONFIG,
        "models": finished,
        "comparisons": [3],
    }


def test_a_run_that_finished_nothing_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"later: \['deep', 'deep/out', 'deep/out/run.json'\]"),
        claimed(tmp_path / "deep" / "out", "kind", CONFIG),
    ):
        raise UserError(f"later: {contents(tmp_path)}")
    assert contents(tmp_path) == []


def test_a_run_that_finished_something_keeps_it(tmp_path: Path) -> None:
    def interrupted() -> None:
        with claimed(tmp_path, "kind", CONFIG):
            write_results(tmp_path, "kind", CONFIG, [{"model": "a"}])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert contents(tmp_path) == ["results.json", "run.json"]


def test_a_folder_of_another_run_is_left_alone(tmp_path: Path) -> None:
    with claimed(tmp_path, "kind", CONFIG):
        pass
    before = (tmp_path / "run.json").read_text()
    for kind, config in (("kind", {**CONFIG, "seed": 2}), ("other", CONFIG)):
        with pytest.raises(UserError, match="another run"), claimed(tmp_path, kind, config):
            pytest.fail("not reached")
    assert (tmp_path / "run.json").read_text() == before
    assert contents(tmp_path) == ["run.json"]


def test_the_same_run_may_come_back(tmp_path: Path) -> None:
    for _ in range(2):
        with claimed(tmp_path, "kind", CONFIG):
            pass
    assert read_finished(tmp_path) == []


@pytest.mark.parametrize("content", ["", "[]", '{"models": 3}', '{"models": [{}]}'])
def test_damaged_results_are_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(UserError, match="damaged"):
        read_finished(tmp_path)
