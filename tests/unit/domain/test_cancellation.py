"""The ear of a claim: told once or twice, from any thread, what is under way is broken off once."""

from __future__ import annotations

import pytest

from llm_server.orchestration.domain.cancellation import Cancellation
from llm_server.orchestration.domain.errors import TaskCancelled


def test_who_is_told_twice_breaks_off_once() -> None:
    """Its caller cancels again, or a save is refused meanwhile: a call's end can be set but once."""
    cancellation, broken_off = Cancellation(), list[str]()

    with cancellation.on_cancel(lambda: broken_off.append("call")):
        cancellation.cancel()
        cancellation.cancel()

    assert broken_off == ["call"]


def test_once_told_nothing_new_begins() -> None:
    cancellation = Cancellation()
    cancellation.cancel()

    with pytest.raises(TaskCancelled), cancellation.on_cancel(lambda: None):
        raise AssertionError("a call began")
