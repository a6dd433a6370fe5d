"""The watch over logs and answers can fail: each way to leak is seen."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

import asgi
import canaries
from builders import a_request
from canaries import LISTENER, TEXTS, found_in
from scripted import ScriptedEngine, a_completion

_log = logging.getLogger("llm_server.orchestration.worker")


def test_the_canaries_are_what_the_builders_say() -> None:
    """Else the whole suite would watch for something nobody says."""
    said = (a_request().prompt, a_completion().text, ScriptedEngine()._answers[0])

    assert set(said) <= set(TEXTS)


@pytest.mark.parametrize("level", [logging.DEBUG, logging.ERROR])
@pytest.mark.parametrize("secret", ["Say hello.", "llms_0123456789ab_" + "ab" * 32, "sk-live-0123"])
def test_a_leak_is_heard_wherever_it_stands(level: int, secret: str) -> None:
    _log.log(level, "asked: %s", secret)
    _log.log(level, "asked", extra={"prompt": secret})
    try:
        raise ValueError(secret)
    except ValueError:
        _log.log(level, "failed", exc_info=True)
    heard = list(LISTENER.leaks)
    LISTENER.leaks.clear()

    assert len(heard) == 3


def test_an_error_that_repeats_a_prompt_is_caught() -> None:
    async def leaks(_scope: object, _receive: object, send) -> None:  # type: ignore[no-untyped-def]
        await send({"type": "http.response.start", "status": 422, "headers": []})
        await send({"type": "http.response.body", "body": b'{"detail": "No role can do: Say hello."}'})

    with pytest.raises(AssertionError, match="holds"):
        asgi.call(leaks, "POST", "/")


def test_what_a_server_prints_is_looked_through(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("WARNING task failed: Why is the sky blue?")

    with pytest.raises(AssertionError, match="holds"):
        canaries.check(log.read_text())


def test_what_is_no_secret_is_let_through() -> None:
    assert found_in("Key 0123456789ab is revoked; task 0197-77 says hello, sky.") == []
