"""What every test gets: shapes checked, one thread, no network, fixtures for data. Knows no test."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

# Read when the libraries are first imported, so they are set before that; processes that tests start inherit them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "agg"

import hypothesis
import jaxtyping
import pytest
import torch

# From here on each function of decondense that is called has its shapes and types checked.
jaxtyping.install_import_hook("decondense", "beartype.beartype")

# The tests run in one process a core: more threads than that only wait for one another.
torch.set_num_threads(1)

# A first call imports or allocates: how long one example takes says nothing. CI draws the same examples each time.
# A failed shape check is raised from a line made for it alone: to hypothesis each is another bug, and one is enough.
hypothesis.settings.register_profile(
    "local", deadline=None, max_examples=25, print_blob=True, report_multiple_bugs=False
)
hypothesis.settings.register_profile("ci", parent=hypothesis.settings.get_profile("local"), derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the project."""
    return ROOT


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of recorded numbers that our own must equal."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real texts, models and tokenizers, which is not part of the project."""
    folder = Path(os.environ.get("DECONDENSE_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data: {folder} is absent (DECONDENSE_DATA names the folder)")
    return folder


@pytest.fixture(scope="session")
def stories260K(data: Path) -> Path:
    """The folder of a trained llama of 260,032 parameters with its tokenizer."""
    folder = data / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip(f"no model: {folder} is absent")
    return folder


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a browser to open pages with."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found:
            return found
    pytest.skip("no browser: none of chromium, chromium-browser, google-chrome is on the PATH")
