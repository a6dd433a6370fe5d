"""A process remembers decisions for an hour, and which engines gave no usable answers."""

from __future__ import annotations

import pytest

from llm_server.orchestration.domain.status import Mode
from llm_server.orchestration.execution.triage_memory import (
    KEPT_MS,
    MAX_DECISIONS,
    MAX_UNUSABLE,
    PAUSE_MS,
    TriageMemory,
)
from llm_server.orchestration.execution.triage_question import Choice
from support.scripted_engine import Clock

CHOICE = Choice(Mode.AGENT, "Writing-Agent", 0.25)
KEY = TriageMemory.key("acme", "Say hello.", ("role",), "General")


@pytest.fixture
def memory(clock: Clock) -> TriageMemory:
    memory = TriageMemory(clock)
    memory.remember(KEY, "mini", CHOICE)
    return memory


def test_a_decision_is_remembered_for_an_hour(memory: TriageMemory, clock: Clock) -> None:
    clock.now_ms += KEPT_MS - 1
    before = memory.decision(KEY)
    clock.now_ms += 1

    assert before == ("mini", CHOICE)
    assert memory.decision(KEY) is None


def test_an_old_decision_is_gone_when_another_one_is_looked_for(memory: TriageMemory, clock: Clock) -> None:
    """It takes no memory until 2,000 newer ones come."""
    clock.now_ms += KEPT_MS

    assert memory.decision(TriageMemory.key("acme", "Another prompt.")) is None
    assert not memory._decisions


def test_a_clock_that_was_set_back_makes_no_decision_last_longer(memory: TriageMemory, clock: Clock) -> None:
    clock.now_ms -= 1

    assert memory.decision(KEY) is None


@pytest.mark.parametrize(
    "other",
    [
        ("umbrella", "Say hello.", ("role",), "General"),
        ("acme", "Say hello", ("role",), "General"),
        ("acme", "Say hello.", ("role", "mode"), "General"),
        ("acme", "Say hello.", ("role",), "Developer"),
        ("acmeSay", " hello.", ("role",), "General"),
    ],
)
def test_a_decision_holds_for_one_tenant_and_one_question(memory: TriageMemory, other: tuple[str, str, object]) -> None:
    assert memory.decision(TriageMemory.key(*other)) is None


def test_neither_tenant_nor_prompt_is_kept(memory: TriageMemory) -> None:
    """So nothing of a deleted tenant can be read from a process that still runs."""
    kept = repr(vars(memory))

    assert CHOICE.role in kept
    assert "acme" not in kept
    assert "hello" not in kept


def test_the_oldest_decisions_are_forgotten(memory: TriageMemory) -> None:
    for number in range(MAX_DECISIONS):
        memory.remember(TriageMemory.key("acme", str(number)), "mini", CHOICE)

    assert memory.decision(KEY) is None
    assert memory.decision(TriageMemory.key("acme", "0")) == ("mini", CHOICE)
    assert len(memory._decisions) == MAX_DECISIONS


def test_an_engine_rests_after_several_unusable_answers_in_a_row(memory: TriageMemory, clock: Clock) -> None:
    """A reasoning model may use its 60 tokens for thinking, each time."""
    counted = [memory.count("mini", usable=False) for _ in range(MAX_UNUSABLE)]

    assert counted == [False] * (MAX_UNUSABLE - 1) + [True]
    assert (memory.is_paused("mini"), memory.is_paused("other")) == (True, False)
    clock.now_ms += PAUSE_MS
    assert not memory.is_paused("mini")


def test_a_usable_answer_begins_the_count_again(memory: TriageMemory) -> None:
    for usable in [False] * (MAX_UNUSABLE - 1) + [True] + [False] * (MAX_UNUSABLE - 1):
        memory.count("mini", usable=usable)

    assert not memory.is_paused("mini")
