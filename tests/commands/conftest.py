"""What tests of several commands are given."""

from pathlib import Path

import pytest
from saved import save_tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
