"""The Hugging Face hub: whether it can be reached, and a spell without it. Knows no model, no text and no file format."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from decondense.errors import require

# huggingface_hub asks an unreachable hub six times over 23 seconds for every file; one short question answers the same.
PATIENCE_SECONDS = 5.0


def reachable(seconds: float = PATIENCE_SECONDS) -> bool:
    """Ask the hub once whether it is there; False after `seconds`, without a network, or where `HF_HUB_OFFLINE` is set.

    Raises `MissingExtra` where the packages of the extra `hf` are not installed.
    """
    require("huggingface_hub", extra="hf")
    import httpx
    from huggingface_hub import constants
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.utils import get_session

    try:
        # The session of huggingface_hub itself, so that its proxies, certificates and mirror (HF_ENDPOINT) are the ones that are tried.
        get_session().head(constants.ENDPOINT, timeout=seconds)
    except (httpx.HTTPError, OfflineModeIsEnabled):
        return False
    return True


@contextmanager
def offline() -> Iterator[None]:
    """For a while, let huggingface_hub and datasets read their caches only, so that what is not cached fails at once."""
    require("datasets", extra="hf")
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
