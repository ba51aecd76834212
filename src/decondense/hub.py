"""The Hugging Face hub: is it there, do without it, say in a line why it refused. Knows no model and no text.

Left alone, huggingface_hub asks an unreachable hub six times over 23 seconds, for every file; one short question says
as much, and the cache serves the rest.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from decondense.errors import require

PATIENCE_SECONDS = 5.0
UNREACHABLE = "the hub cannot be reached and its cache does not hold it"


def reachable(seconds: float = PATIENCE_SECONDS) -> bool:
    """Ask the hub once whether it is there: False after `seconds`, without a network, or where HF_HUB_OFFLINE is set.

    Raises `MissingExtra` where the packages of the extra `hf` are not installed.
    """
    constants = require("huggingface_hub.constants", extra="hf")
    utils = require("huggingface_hub.utils", extra="hf")
    # Of httpx or requests, whichever this huggingface_hub is built on. Its own refusal to go online is an OSError.
    http_error = require("huggingface_hub.errors", extra="hf").HTTPError
    try:
        # huggingface_hub's own session: its proxies, certificates and mirror (HF_ENDPOINT) are what must work.
        utils.get_session().head(constants.ENDPOINT, timeout=seconds)
    except (OSError, http_error):
        return False
    return True


@contextmanager
def asked_once() -> Iterator[bool]:
    """Ask the hub whether it is there; where it is not, let all that follows read the cache only. Gives the answer."""
    there = reachable()
    switches: list[Any] = [require("huggingface_hub.constants", extra="hf")]
    if "datasets" in sys.modules:
        switches.append(sys.modules["datasets"].config)
    before = [switch.HF_HUB_OFFLINE for switch in switches]
    for switch in switches:
        switch.HF_HUB_OFFLINE = switch.HF_HUB_OFFLINE or not there
    try:
        yield there
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.HF_HUB_OFFLINE = value


def failures() -> tuple[type[Exception], ...]:
    """What transformers and datasets raise where something of the hub or of a folder cannot be had."""
    http_error: type[Exception] = require("huggingface_hub.errors", extra="hf").HTTPError
    return (OSError, ValueError, LookupError, RuntimeError, ImportError, http_error)


def refusal(error: BaseException) -> str | None:
    """Why the hub gave nothing, in a line, where `error` or what caused it comes from the hub; None elsewhere."""
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # The more special kinds first: a gated repository is a kind of one that is not found.
    reasons: tuple[tuple[type[BaseException], str], ...] = (
        (GatedRepoError, "its authors ask for their terms to be accepted: do so on the hub, then run `hf auth login`"),
        (RevisionNotFoundError, "the hub has no such revision of it"),
        (RepositoryNotFoundError, "nothing public of that name is on the hub; something private needs `hf auth login`"),
        (LocalEntryNotFoundError, UNREACHABLE),
        (OfflineModeIsEnabled, UNREACHABLE),
    )
    cause: BaseException | None = error
    while cause is not None:
        for kind, reason in reasons:
            if isinstance(cause, kind):
                return reason
        cause = cause.__cause__ or cause.__context__
    return None
