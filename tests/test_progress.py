"""A bar shows on a terminal and nowhere else, and counts what is told of it."""

import sys

import pytest

from decondense.progress import progress_bar


@pytest.mark.parametrize(("terminal", "shown"), [(True, True), (True, False), (False, True)])
def test_a_bar_shows_on_a_terminal_alone(capsys, monkeypatch, terminal: bool, shown: bool) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with progress_bar("sawing", "plank", 5, shown, mininterval=0, miniters=1) as bar:
        bar.add()
        bar.add(2)
        bar.reach(4)
        bar.say("a line")
    seen = capsys.readouterr()
    assert "a line\n" in seen.out
    if terminal and shown:
        assert "sawing" in seen.err
        assert "4/5" in seen.err and "6/5" not in seen.err
    else:
        assert not seen.err


def test_a_bar_is_closed_when_its_work_fails(capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with pytest.raises(ValueError, match="broken"), progress_bar("sawing", "plank", 5, leave=False) as bar:
        raise ValueError("broken")
    assert bar._bar.disable
