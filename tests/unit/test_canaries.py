"""The watch over logs and answers detects every kind of leak."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from faults.engine import PIECE_CHARS, answer_to
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
A_HASH = answer_to("You are.", "Say 3.")
_log = logging.getLogger("llm_server.orchestration.tasks.worker")


def test_the_canaries_are_the_texts_of_the_builders() -> None:
    """Otherwise the suite would watch for texts that no test uses."""
    said = (a_request().prompt, a_completion().text, ScriptedEngine()._answers[0])

    assert set(said) <= set(TEXTS)


@pytest.mark.parametrize("said", ["Say 3.", "Say 3, please", "Say 1 2 3.", A_HASH, A_HASH[:PIECE_CHARS]])
def test_the_prompts_and_answers_of_the_attack_are_canaries(said: str) -> None:
    assert found_in(f"failed: {said}") != []


@pytest.mark.parametrize("level", [logging.DEBUG, logging.ERROR])
@pytest.mark.parametrize("secret", ["Say hello.", "llms_0123456789ab_" + "ab" * 32, "sk-live-0123"])
def test_a_leak_is_found_in_the_message_the_fields_and_the_traceback(level: int, secret: str) -> None:
    _log.log(level, "asked: %s", secret)
    _log.log(level, "asked", extra={"prompt": secret})
    try:
        raise ValueError(secret)
    except ValueError:
        _log.log(level, "failed", exc_info=True)
    heard = list(LISTENER.leaks)
    LISTENER.leaks.clear()

    assert len(heard) == 3


def test_an_error_body_with_a_prompt_is_caught() -> None:
    async def leaks(_scope: object, _receive: object, send) -> None:  # type: ignore[no-untyped-def]
        await send({"type": "http.response.start", "status": 422, "headers": []})
        await send({"type": "http.response.body", "body": b'{"detail": "No role can do: Say hello."}'})

    with pytest.raises(AssertionError, match="contains a prompt"):
        asgi.call(leaks, "POST", "/")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("where", ["fixture", "itself", "reader", "process"])
def test_a_test_that_prints_a_prompt_fails(
    pytester: pytest.Pytester, capsys: pytest.CaptureFixture[str], stream: str, where: str
) -> None:
    """Also if another test reads its own output; output that a test reads, it checks itself."""
    file = pytester.makepyfile(PRINTS.replace("STREAM", stream))
    tests = [f"{file}::test_{name}" for name in (where, "quiet")]
    outcomes = pytester.runpytest_inprocess("-p", "support.canaries", *tests).parseoutcomes()
    capsys.readouterr()

    assert outcomes == ({"passed": 2, "errors": 1} if where == "fixture" else {"passed": 1, "failed": 1})


@pytest.mark.parametrize("queue", ["queue_url", "dead_letter_queue_url"])
def test_a_queue_message_with_a_prompt_is_caught(moto_substrate: Substrate, queue: str) -> None:
    """The fixture checks both queues at the end of each test that uses them."""
    made = moto_substrate.made
    moto_substrate.sqs.send_message(QueueUrl=getattr(made, queue), MessageBody='{"task": "x", "prompt": "Say hello."}')

    with pytest.raises(AssertionError, match="contains a prompt"):
        look_through(made, moto_substrate.sqs)


def test_metrics_with_a_prompt_are_caught() -> None:
    async def leaks(_scope: object, _receive: object, send) -> None:  # type: ignore[no-untyped-def]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'{"last_prompt": "Say hello."}'})

    with pytest.raises(AssertionError, match="contains a prompt"):
        asgi.call(leaks, "GET", "/api/v1/metrics")


def test_the_log_of_a_server_is_checked(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("WARNING task failed: Why is the sky blue?")

    with pytest.raises(AssertionError, match="contains a prompt"):
        canaries.check(log.read_text())


def test_text_that_is_not_secret_passes() -> None:
    assert found_in("Key 0123456789ab is revoked; task 0197-77 says hello, sky.") == []
