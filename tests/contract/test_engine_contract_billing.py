"""Whether a call that failed may be on the engine's bill: what every adapter says of it, whatever its wire."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused
from support.engine_wires import Wired, pool, server, wired
from support.fake_engine import Fault, body, changed, reset, silence, status
from support.scripted_engine import a_usage

__all__ = ["pool", "server", "wired"]  # fixtures


def unasked(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    """A change of an answer that tells no usage either."""

    def changing(answer: dict[str, Any]) -> None:
        answer.pop("usage", None)
        change(answer)

    return changing


def without_completion(answer: dict[str, Any]) -> None:
    """In each wire's own form, with the usage that the engine reports."""
    for name in ("choices", "content", "output"):
        if name in answer:
            answer[name] = {} if name == "output" else None


@pytest.mark.parametrize(
    "fault",
    [
        silence,
        reset,
        body({}),
        body("no object"),
        status(504),
        status(524),
        changed(without_completion),
        changed(lambda answer: _texts(answer, "\ud83d")),
    ],
    ids=["silence", "reset", "empty", "a string", "gateway", "proxy", "no completion", "half a surrogate"],
)
def test_what_the_engine_may_bill_is_not_given_out_as_free(wired: Wired, fault: Fault) -> None:
    """It had the prompt, and may charge for it."""
    failure = wired.fails(fault, timeout_s=0.5 if fault is silence else 5.0)

    assert isinstance(failure, EngineUnavailable)
    assert failure.may_be_billed


@pytest.mark.parametrize("code", [401, 404, 429, 500, 503, 529])
def test_what_the_engine_said_no_to_is_free(wired: Wired, code: int) -> None:
    assert not wired.fails(status(code)).may_be_billed


def test_a_declined_prompt_is_billed_as_told_and_in_doubt_when_nothing_is(wired: Wired) -> None:
    told, untold = wired.fails(changed(wired.refused)), wired.fails(changed(unasked(wired.refused)))

    assert isinstance(told, PromptRefused)
    assert isinstance(untold, PromptRefused)
    assert (told.usage, told.may_be_billed) == (a_usage(11, 7), False)
    assert (untold.usage, untold.may_be_billed) == (a_usage(0, 0), True)


def _texts(answer: Any, text: str) -> None:
    """Put a text into the place of each text of an answer."""
    if isinstance(answer, list):
        for each in answer:
            _texts(each, text)
    if isinstance(answer, Mapping):
        for name, value in answer.items():
            if name in ("text", "content") and isinstance(value, str):
                answer[name] = text  # type: ignore[index]
            else:
                _texts(value, text)
