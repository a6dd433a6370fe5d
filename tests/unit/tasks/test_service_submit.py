"""Acceptance of a task: it is checked, analysed, stored, and only then sent to the queue."""

from __future__ import annotations

from typing import Any

import pytest

from llm_server.orchestration.domain.errors import (
    EngineUnavailable,
    InvalidInput,
    PromptRefused,
    StorageUnavailable,
    UnknownName,
)
from llm_server.orchestration.domain.ports.queue import Message
from llm_server.orchestration.domain.snapshot import Limits
from llm_server.orchestration.domain.status import Mode, Priority, Status
from llm_server.orchestration.tasks.new_task import NewTask
from support.in_process_server import FailingStore
from support.scripted_engine import ScriptedEngine, a_catalog, an_engine
from support.scripted_service import SWEEP_S, Served

AWAY = StorageUnavailable("The database does not answer; try again.")


def test_a_task_is_stored_before_a_worker_is_woken(served: Served) -> None:
    """A worker would discard a wake-up for a task that is not stored yet."""
    seen: list[Status] = []
    served.queue.before_send = lambda ref: seen.append(served.store.peek(ref).status)

    ref = served.submit("  Why?  ", limits=Limits(max_output_tokens=9), metadata={"k": "v"})

    assert seen == [Status.QUEUED]
    asked = served.get(ref).request
    assert (asked.prompt, asked.limits.max_output_tokens, asked.metadata) == ("Why?", 9, {"k": "v"})


def test_each_message_of_a_task_has_its_priority(served: Served) -> None:
    """The first one, those of the sweep, of a release and of a retry."""
    served.engine = ScriptedEngine(EngineUnavailable("Busy."), PromptRefused("No."), "Hello.")
    served.use(a_catalog({"only": an_engine()}))
    ref = served.submit(priority=Priority.BATCH)
    messages = [served.queue.receive(0)]
    served.clock.pass_s(SWEEP_S)
    served.service.sweep()
    messages.append(served.queue.receive(0))
    served.service.process(ref, owner="w1")
    served.clock.pass_s(SWEEP_S)
    messages.append(served.queue.receive(0))
    served.service.process(ref, owner="w2")
    served.service.retry(ref)
    messages.append(served.queue.receive(0))
    served.service.process(ref, owner="w3")

    assert messages == [Message(ref, Priority.BATCH)] * 4
    assert served.get(ref).task.status is Status.COMPLETED


def test_a_task_whose_wake_up_was_not_sent_is_accepted(served: Served) -> None:
    """It is stored, so the sweep wakes it."""
    served.queue.down = True
    ref = served.submit()
    served.queue.down = False
    assert served.work() == 0

    served.clock.pass_s(SWEEP_S)
    assert served.service.sweep() == 1
    served.work()

    assert served.get(ref).task.status is Status.COMPLETED


def test_no_wake_up_is_sent_for_a_task_that_was_not_stored(served: Served) -> None:
    """The caller gets the storage error and can try again."""
    service = served.use(a_catalog({"only": an_engine()}), FailingStore(served.store, AWAY, "add"))

    with pytest.raises(StorageUnavailable):
        service.submit("local", NewTask(prompt="Why?"))
    assert served.queue.depth() == 0


@pytest.mark.parametrize(
    ("asked", "field", "error"),
    [
        ({"prompt": " \n\t"}, "prompt", InvalidInput),
        ({"prompt": "x" * 1_001}, "prompt", InvalidInput),
        ({"prompt": "x", "profile": "Missing"}, "profile", UnknownName),
        ({"prompt": "x", "role": "Missing-Agent"}, "role", UnknownName),
        ({"prompt": "x", "engine": "missing"}, "engine", UnknownName),
    ],
)
def test_an_invalid_field_is_refused_by_name(
    served: Served, asked: dict[str, Any], field: str, error: type[InvalidInput]
) -> None:
    """Nothing is stored, and a dry run gives the same error."""
    for call in (
        lambda: served.service.submit("local", NewTask(**asked)),
        lambda: served.service.quote("local", NewTask(**asked)).decision,
    ):
        with pytest.raises(error) as refused:
            call()
        assert refused.value.field == field
    assert served.service.counters().total == 0


def test_a_prompt_of_the_maximum_length_is_accepted(served: Served) -> None:
    """Leading and trailing white space does not count."""
    assert served.get(served.submit("  " + "x" * 1_000 + "\n")).request.prompt == "x" * 1_000


@pytest.mark.parametrize(("profile", "role"), [(None, "Chat-Agent"), ("Developer", "Fast-Coder-Agent")])
def test_an_analysis_below_the_confidence_threshold_falls_back_to_chat(
    served: Served, profile: str | None, role: str
) -> None:
    """The task gets its profile's default role, and the reasons mention the threshold."""
    served.use(a_catalog({"only": an_engine()}, confidence_threshold=1.01))

    snapshot = served.get(served.submit("Compare the two.", profile=profile))

    assert (snapshot.task.mode, snapshot.task.role) == (Mode.CHAT, role)
    assert "below 1.01" in snapshot.request.reasons[-1]


def test_the_callers_choice_stays_when_the_confidence_is_low(served: Served) -> None:
    """The analysis never replaces a mode or role that the caller chose."""
    served.use(a_catalog({"only": an_engine()}, confidence_threshold=1.01))

    by_role = served.get(served.submit(role="Teacher-Agent")).task
    by_mode = served.get(served.submit(mode=Mode.AGENT, profile="Developer")).task

    assert (by_role.role, by_role.profile) == ("Teacher-Agent", "General")
    assert (by_mode.mode, by_mode.profile) == (Mode.AGENT, "Developer")
    assert by_mode.role == "Fast-Coder-Agent"


@pytest.mark.parametrize(("state", "said"), [({"locked": True}, "locked"), ({"toggle": False}, "switched off")])
def test_a_locked_or_switched_off_engine_is_refused_at_once(served: Served, state: dict[str, bool], said: str) -> None:
    """If it were accepted, the task would wait for an engine that cannot answer."""
    served.use(a_catalog({"only": an_engine(**state)}))

    with pytest.raises(InvalidInput, match=f"Engine only is {said}"):
        served.submit(engine="only")
    assert served.service.counters().total == 0


def test_a_dry_run_names_the_first_engine_and_stores_nothing(served: Served) -> None:
    """The engine is None while no engine can accept work."""
    decided = served.service.quote("local", NewTask(prompt="Why?", role="Teacher-Agent")).decision
    served.use(a_catalog({"only": an_engine(toggle=False)}))

    assert (decided.analysis.role, decided.profile, decided.engine) == ("Teacher-Agent", "General", "only")
    assert served.service.quote("local", NewTask(prompt="Why?")).decision.engine is None
    assert (served.service.counters().total, served.queue.depth()) == (0, 0)


@pytest.mark.parametrize(("share", "tier"), [(1.0, "strong"), (0.0, "fast")])
def test_the_reasons_say_how_strong_share_chose_the_tier(served: Served, share: float, tier: str) -> None:
    """The engine shown is the first that this tier calls."""
    engines = {"cheap": an_engine(tier="fast"), "dear": an_engine(tier="strong")}
    decision = (
        served.use(a_catalog(engines, strong_share=share))
        .quote("local", NewTask(prompt="Why is the sky blue?"))
        .decision
    )

    assert f"strong_share is {share:g}: {tier} tier" in decision.analysis.reasons[-1]
    assert decision.engine == ("dear" if share else "cheap")
