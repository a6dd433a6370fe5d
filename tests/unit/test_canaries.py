"""The watch over logs and answers can fail: each way to leak is seen."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from faults.engine import answer_to
from support import asgi, canaries
from support.aws_emulators import Substrate, look_through
from support.builders import a_request
from support.canaries import LISTENER, TEXTS, found_in
from support.scripted_engine import ScriptedEngine, a_completion

PRINTS = """
import subprocess, sys, pytest

CODE = "import sys; print('Say hello.', file=sys.STREAM)"

@pytest.fixture
def printing():
    yield
    exec(CODE)

def test_fixture(printing): pass
def test_itself(): exec(CODE)
def test_reader(capsys):
    assert capsys.readouterr().out == ""
    exec(CODE)
def test_process(): subprocess.run([sys.executable, "-c", CODE], check=True)
def test_quiet(capsys):
    print("Say hello.")
    assert capsys.readouterr().out
"""
_log = logging.getLogger("llm_server.orchestration.tasks.worker")


def test_the_canaries_are_what_the_builders_say() -> None:
    """Else the whole suite would watch for something nobody says."""
    said = (a_request().prompt, a_completion().text, ScriptedEngine()._answers[0])

    assert set(said) <= set(TEXTS)


@pytest.mark.parametrize("said", ["Say 3.", "Say 3, please", "Say 1 2 3.", answer_to("You are.", "Say 3.")])
def test_what_the_attack_asks_and_is_answered_is_watched_for(said: str) -> None:
    assert found_in(f"failed: {said}") != []


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

    with pytest.raises(AssertionError, match="contains a prompt"):
        asgi.call(leaks, "POST", "/")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("where", ["fixture", "itself", "reader", "process"])
def test_whoever_prints_a_prompt_fails(
    pytester: pytest.Pytester, capsys: pytest.CaptureFixture[str], stream: str, where: str
) -> None:
    """Also where a test reads what is printed; what it read itself it answers for itself."""
    file = pytester.makepyfile(PRINTS.replace("STREAM", stream))
    tests = [f"{file}::test_{name}" for name in (where, "quiet")]
    outcomes = pytester.runpytest_inprocess("-p", "support.canaries", *tests).parseoutcomes()
    capsys.readouterr()

    assert outcomes == ({"passed": 2, "errors": 1} if where == "fixture" else {"passed": 1, "failed": 1})


@pytest.mark.parametrize("queue", ["queue_url", "dead_letter_queue_url"])
def test_a_message_that_holds_a_prompt_is_caught(moto_substrate: Substrate, queue: str) -> None:
    """The fixture looks through both queues at the end of each test that has them."""
    made = moto_substrate.made
    moto_substrate.sqs.send_message(QueueUrl=getattr(made, queue), MessageBody='{"task": "x", "prompt": "Say hello."}')

    with pytest.raises(AssertionError, match="contains a prompt"):
        look_through(made, moto_substrate.sqs)


def test_figures_that_name_a_prompt_are_caught() -> None:
    async def leaks(_scope: object, _receive: object, send) -> None:  # type: ignore[no-untyped-def]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'{"last_prompt": "Say hello."}'})

    with pytest.raises(AssertionError, match="contains a prompt"):
        asgi.call(leaks, "GET", "/api/v1/metrics")


def test_what_a_server_prints_is_looked_through(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("WARNING task failed: Why is the sky blue?")

    with pytest.raises(AssertionError, match="contains a prompt"):
        canaries.check(log.read_text())


def test_what_is_no_secret_is_let_through() -> None:
    assert found_in("Key 0123456789ab is revoked; task 0197-77 says hello, sky.") == []
