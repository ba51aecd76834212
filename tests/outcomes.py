"""What tests of commands share: what a run wrote, the one line of an error, and a run of several processes. Knows no command."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from decondense.cli import main


def results(folder: Path) -> dict[str, Any]:
    """What `results.json` of a folder holds."""
    content: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return content


def contents(folder: Path) -> list[str]:
    """Names in a folder."""
    return sorted(path.name for path in folder.iterdir())


def refusal(capsys: pytest.CaptureFixture[str], *words: str | Path, alone: bool = True) -> str:
    """The last line on standard error of a command that must end with 2; `alone`: nothing else was printed."""
    assert main([*map(str, words)]) == 2
    printed = capsys.readouterr()
    *before, line = printed.err.splitlines()
    if alone:
        assert (printed.out, before) == ("", [])
    assert line.startswith("decondense: error: ")
    return line


def launch(*words: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Run a command by torchrun, which must end well."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "decondense"]
    finished = subprocess.run(
        [sys.executable, *launcher, *words], capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    return finished
