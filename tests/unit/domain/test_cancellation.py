"""A claim's cancellation breaks off the calls in progress once, from whichever thread and however often it is told."""

from __future__ import annotations

import pytest

from llm_server.orchestration.domain.cancellation import Cancellation
from llm_server.orchestration.domain.errors import TaskCancelled


def test_a_cancellation_that_is_told_twice_breaks_a_call_off_once() -> None:
    """The caller may cancel while a save is refused for the same reason; a call can be ended only once."""
    cancellation, broken_off = Cancellation(), list[str]()

    with cancellation.breaking_off(lambda: broken_off.append("call")):
        cancellation.tell()
        cancellation.tell()

    assert broken_off == ["call"]


def test_a_cancelled_claim_starts_no_further_call() -> None:
    cancellation = Cancellation()
    cancellation.tell()

    with pytest.raises(TaskCancelled), cancellation.breaking_off(lambda: None):
        raise AssertionError("a call began")
