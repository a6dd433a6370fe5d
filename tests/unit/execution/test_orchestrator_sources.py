"""A task that is limited to local engines: no hosted engine is asked, whatever the call is for and however it fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from msgspec.structs import replace

from llm_server.orchestration.domain.engines.catalog import Sources
from llm_server.orchestration.domain.errors import EngineUnavailable
from llm_server.orchestration.domain.snapshot import Limits, Snapshot
from llm_server.orchestration.domain.status import Mode, Status
from support.deliveries import Deliveries, a_plan, accepted
from support.scripted_engine import (
    Answer,
    Clock,
    ScriptedEngine,
    WatchedStore,
    a_catalog,
    a_completion,
    a_local_engine,
    an_engine,
)

PLAN = a_plan({"a": ""})
FOUND = '{"verdict": "fail", "findings": ["Too short."]}'
FAILURES: dict[str, Answer] = {
    "busy": EngineUnavailable("The engine is busy."),
    "away": EngineUnavailable("The engine cannot be reached.", kind="unreachable"),
    "late": EngineUnavailable("The engine did not answer in time.", kind="timeout"),
    "empty": "",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A call of a task: its purpose, the answers of the local engine before it, and how the task is done."""

    purpose: str
    before: Sequence[str] = ()
    mode: Mode = Mode.PLAN
    role: str = "Planner-Agent"
    profile: str = "Developer"
    is_gated: bool = False
    """Whether the answer gate reads the answer."""


CASES = {
    "chat": Case(purpose="answer", mode=Mode.CHAT, role="Chat-Agent", profile="General", is_gated=True),
    "agent": Case(purpose="answer", mode=Mode.AGENT, role="Deep-Coder-Agent", is_gated=True),
    "plan": Case(purpose="plan"),
    "plan repair": Case(purpose="plan", before=["No plan."]),
    "answer without a plan": Case(purpose="answer", before=["No plan.", "Still none."], is_gated=True),
    "step": Case(purpose="step a", before=[PLAN], profile="General", is_gated=True),
    "draft": Case(purpose="step a", before=[PLAN], is_gated=True),
    "verdict": Case(purpose="verdict a", before=[PLAN, "Draft."]),
    "fix": Case(purpose="fix a", before=[PLAN, "Draft.", FOUND]),
    "verdict on the fix": Case(purpose="verdict a", before=[PLAN, "Draft.", FOUND, "Fixed."]),
    "synthesis": Case(purpose="synthesis", before=[PLAN, "did a"], profile="General", is_gated=True),
}
CALLS = [(name, failure) for name in CASES for failure in FAILURES]
GATED = [name for name, case in CASES.items() if case.is_gated]


class Two:
    """A local engine that fails at the call of a case, and a hosted one that always answers."""

    def __init__(self, watched: WatchedStore, clock: Clock, case: Case, failure: Answer) -> None:
        self.clock = clock
        self.case = case
        self.local = ScriptedEngine(*case.before, failure)
        self.hosted = ScriptedEngine("Hello from afar.")
        hosted = an_engine(tier="strong")
        catalog = a_catalog({"only": a_local_engine(tier="fast"), "hosted": hosted}, parallel_steps=1)
        self._deliveries = Deliveries(watched, clock, self.local, catalog=catalog, hosted=(hosted, self.hosted))

    def done(self, sources: Sources | None) -> Snapshot:
        """Deliver a task with this limit until it ends, at most 4 times; each delivery finds the rests ended."""
        asked = accepted(self.case.mode, self.case.role, limits=Limits(sources=sources))
        task = replace(asked, task=replace(asked.task, profile=self.case.profile))
        for _ in range(4):
            task = self._deliveries.deliver(task)
            if task.task.status.is_final:
                break
            self.clock.pass_s(600)
        return task


@pytest.mark.parametrize(("name", "failure"), CALLS)
def test_no_failure_of_a_local_engine_leads_to_a_hosted_one(
    name: str, failure: str, watched: WatchedStore, clock: Clock
) -> None:
    """The engine rests, is probed, and fails again: the task fails or waits, and every attempt is local."""
    two = Two(watched, clock, CASES[name], FAILURES[failure])

    ended = two.done(("local",))

    assert two.hosted.calls == []
    assert {attempt.source for attempt in ended.attempts} == {"local"}
    assert CASES[name].purpose in {attempt.purpose for attempt in ended.attempts if not attempt.answered}
    assert len(two.local.calls) == len(ended.attempts)


@pytest.mark.parametrize(("name", "failure"), CALLS)
def test_without_the_limit_the_hosted_engine_is_asked(
    name: str, failure: str, watched: WatchedStore, clock: Clock
) -> None:
    """So the tests above would notice if a call left the limit out."""
    two = Two(watched, clock, CASES[name], FAILURES[failure])

    ended = two.done(None)

    assert two.hosted.calls
    assert "api" in {attempt.source for attempt in ended.attempts}


@pytest.mark.parametrize("name", GATED)
def test_a_faulty_answer_is_not_escalated_to_a_hosted_engine(name: str, watched: WatchedStore, clock: Clock) -> None:
    """The gate finds that the answer was cut off; without the limit the strong engine, which is hosted, is asked."""
    cut_off = a_completion("The first half of", truncated=True)
    limited = Two(watched, clock, CASES[name], cut_off)
    ended = limited.done(("local",))

    assert ended.task.status is Status.COMPLETED
    assert limited.hosted.calls == []
    assert "cut off by the output limit" in {attempt.fault for attempt in ended.attempts}

    free = Two(watched, clock, CASES[name], cut_off)
    free.done(None)
    assert free.hosted.calls


def test_a_limit_to_hosted_engines_holds_as_well(watched: WatchedStore, clock: Clock) -> None:
    """The local engine would be asked first."""
    two = Two(watched, clock, CASES["chat"], "Hello from here.")

    ended = two.done(("api",))

    assert (ended.result, two.local.calls) == ("Hello from afar.", [])


# Waiting


def waiting(watched: WatchedStore, clock: Clock, sources: Sources | None, *, hosted: Answer) -> Snapshot:
    """Return a task after one delivery, in which the local engine was away for 120 s."""
    away = EngineUnavailable("Busy.", retry_after_s=120, outage=True)
    two = Two(watched, clock, CASES["chat"], away)
    two.hosted = ScriptedEngine(hosted)
    catalog = a_catalog({"only": a_local_engine(tier="fast"), "hosted": an_engine(tier="strong")})
    deliveries = Deliveries(watched, clock, two.local, catalog=catalog, hosted=(catalog.engines["hosted"], two.hosted))
    ended = deliveries.deliver(accepted(limits=Limits(sources=sources)))
    assert deliveries.given[-1].delay_s == (ended.task.due_ms - clock()) // 1000 - 120
    return ended


def test_a_task_waits_only_for_engines_that_it_may_use(watched: WatchedStore, clock: Clock) -> None:
    """The hosted engine is well, or would be back sooner."""
    ended = waiting(watched, clock, ("local",), hosted="Hello.")

    assert (ended.task.status, ended.task.waiting_for) == (Status.QUEUED, "only")
    assert ended.task.due_ms - clock() == (120 + 120) * 1000


def test_a_task_without_a_limit_waits_for_the_first_engine_that_is_back(watched: WatchedStore, clock: Clock) -> None:
    soon = EngineUnavailable("Busy.", retry_after_s=30, outage=True)

    ended = waiting(watched, clock, None, hosted=soon)

    assert ended.task.waiting_for == "only, hosted"
    assert ended.task.due_ms - clock() == (30 + 120) * 1000


def test_a_task_says_which_kind_of_engine_must_be_switched_on(watched: WatchedStore, clock: Clock) -> None:
    catalog = a_catalog({"only": a_local_engine(toggle=False), "hosted": an_engine()})
    hosted = ScriptedEngine("Hello.")
    deliveries = Deliveries(watched, clock, ScriptedEngine(), catalog=catalog, hosted=(an_engine(), hosted))

    ended = deliveries.deliver(accepted(limits=Limits(sources=("local",))))

    assert ended.task.waiting_for == "an engine with the source local that is switched on and has credentials"
    assert hosted.calls == []


def test_a_task_for_which_no_engine_is_configured_any_more_fails_and_says_why(
    watched: WatchedStore, clock: Clock
) -> None:
    """As a task whose named engine was removed: it is tried again, in case the configuration is repaired."""
    catalog = a_catalog({"hosted": an_engine()})
    hosted = ScriptedEngine("Hello.")
    deliveries = Deliveries(watched, clock, ScriptedEngine(), catalog=catalog, hosted=(an_engine(), hosted))
    task = accepted(limits=Limits(sources=("local",)))

    while not task.task.status.is_final:
        task = deliveries.deliver(task)
        clock.pass_s(600)

    assert (task.task.status, task.task.deliveries) == (Status.FAILED, 3)
    assert task.task.error == "No configured engine has the source local; the configured sources are: api."
    assert hosted.calls == []


def test_a_named_engine_whose_source_has_changed_is_not_asked(watched: WatchedStore, clock: Clock) -> None:
    """The operator moved it to a hosted service after the task was accepted."""
    hosted = ScriptedEngine("Hello.")
    catalog = a_catalog({"only": an_engine(), "other": a_local_engine()})
    deliveries = Deliveries(watched, clock, hosted, catalog=catalog, other=(a_local_engine(), ScriptedEngine()))
    task = accepted(engine="only", limits=Limits(sources=("local",)))

    while not task.task.status.is_final:
        task = deliveries.deliver(task)
        clock.pass_s(600)

    assert task.task.error == "Engine only has the source api; the task may use local."
    assert hosted.calls == []
