"""Where a result comes from: the commit, the packages, the machine, so that a number in `results/` can be had again."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import torch

from decondense import __version__
from decondense.studies.workers import available_cores


def provenance() -> dict[str, str | int | None]:
    """Version and commit of decondense (None outside a checkout), versions of Python and torch, kind of processor and number of cores."""
    return {
        "decondense": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "cores": available_cores(),
    }


def _commit() -> str | None:
    folder = Path(__file__).parent
    try:
        asked = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None  # installed from a wheel, or no git here
    return asked.stdout.strip()
