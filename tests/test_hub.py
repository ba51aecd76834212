"""The hub is asked once, and where it is not there nothing waits for it."""

import subprocess
import sys
import time

import httpx
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

from decondense import hub


def test_an_unreachable_hub_is_known_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing listens on the discard port: the connection is refused. Left alone, huggingface_hub would ask for 23 s.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    begin = time.monotonic()
    assert not hub.reachable()
    assert time.monotonic() - begin < hub.PATIENCE_SECONDS


def test_a_hub_that_is_switched_off_is_not_asked() -> None:
    assert constants.HF_HUB_OFFLINE  # the tests' own setting
    assert not hub.reachable()


def test_what_follows_reads_the_cache_only_until_the_block_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for there in (False, True):
        monkeypatch.setattr(hub, "reachable", lambda there=there: there)
        with hub.asked_once() as answer:
            assert answer is there
            assert constants.HF_HUB_OFFLINE is not there
        assert constants.HF_HUB_OFFLINE is False


def test_a_switch_that_was_off_stays_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "reachable", lambda: True)
    with hub.asked_once():
        assert constants.HF_HUB_OFFLINE


def response(status: int) -> httpx.Response:
    return httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co"))


def test_a_refusal_is_told_by_its_most_special_cause() -> None:
    gated = OSError("cannot load")
    gated.__cause__ = GatedRepoError("gated", response=response(403))
    assert "terms" in (hub.refusal(gated) or "")
    assert "private" in (hub.refusal(RepositoryNotFoundError("none", response=response(404))) or "")
    assert hub.refusal(LocalEntryNotFoundError("none")) == hub.UNREACHABLE
    assert hub.refusal(OSError("disk full")) is None


def test_importing_it_costs_nothing() -> None:
    program = "import sys, decondense.hub; print('datasets' in sys.modules, 'transformers' in sys.modules)"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert finished.stdout.split() == ["False", "False"]
