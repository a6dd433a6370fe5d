"""The attempt: what a call leaves on the receipt for programs."""

from __future__ import annotations

import pytest

from llm_server.orchestration.dispatch import attempts
from llm_server.orchestration.dispatch.attempts import EngineFailure
from llm_server.orchestration.domain.engines.call import Completion, EngineCall
from llm_server.orchestration.domain.engines.message import user
from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused, TaskCancelled
from support.builders import an_attempt
from support.scripted_engine import a_completion

CALL = EngineCall(system="Be brief.", messages=user("Is it so?"), max_output_tokens=50)


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (EngineUnavailable("No."), "busy"),
        (EngineUnavailable("No.", kind="timeout"), "timeout"),
        (EngineUnavailable("No.", kind="unreachable"), "unreachable"),
        (EngineUnavailable("No.", kind="credentials"), "credentials"),
        (EngineUnavailable("No.", kind="garbage"), "garbage"),
        (PromptRefused("No."), "refused"),
        (TaskCancelled(), "cancelled"),
        (a_completion(" "), "empty"),
        (a_completion("Yes."), None),
    ],
)
def test_an_attempt_has_the_kind_of_its_failure(answer: Completion | EngineFailure, failure: str | None) -> None:
    """A word that never changes, beside the sentence for people."""
    ended = attempts.finish(an_attempt(), CALL, answer, took_ms=1, price=lambda _: 0, reserved_microusd=0)

    assert (ended.failure, ended.error is None) == (failure, failure is None)
