"""A task's history: what happened, when, and which actor did it."""

from __future__ import annotations

from typing import Any

from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused
from llm_server.orchestration.domain.plan import digest
from llm_server.orchestration.domain.snapshot import Limits
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.domain.task import MAX_NOTES, Note, TaskRef
from llm_server.orchestration.events.history import EVENT_NAMES, history
from support.builders import NOW_MS, a_failed_attempt, a_failure, a_snapshot, a_task, an_attempt, an_output, output_key
from support.deliveries import a_plan, planning
from support.scripted_engine import Answer, ScriptedEngine, a_catalog, a_local_engine, an_engine
from support.scripted_service import Served
from support.triage_answers import DECIDED

NO = PromptRefused("No.")
BUSY = EngineUnavailable("Busy.")


def use(served: Served, engine: ScriptedEngine, **more: Any) -> None:
    """Use an engine whose calls take one second each."""

    def slow(call: EngineCall) -> Answer:
        served.clock.pass_s(1)
        try:
            return engine.complete(call, timeout_s=1)
        except (EngineUnavailable, PromptRefused) as error:
            return error

    served.engine = ScriptedEngine(slow)
    served.use(a_catalog({"only": an_engine(), **more}))


def told(served: Served, ref: TaskRef) -> list[str]:
    """Return each event as "<seconds after acceptance> <name> (<actor>)"."""
    snapshot = served.get(ref)
    start_ms = snapshot.task.created_ms
    return [f"{(e.at_ms - start_ms) / 1000:g} {e.name} ({e.actor})" for e in history(snapshot)]


def names(served: Served, ref: TaskRef) -> list[str]:
    return [event.name for event in history(served.get(ref))]


def test_the_history_of_a_chat_task_lists_its_events(served: Served) -> None:
    use(served, ScriptedEngine(BUSY, "Hello."), other=a_local_engine())
    ref = served.submit(mode=Mode.CHAT)
    served.clock.pass_s(3)
    served.work()

    assert told(served, ref) == [
        "0 accepted (caller)", "0 routed (server)", "3 claimed (worker)", "4 attempt.failed (worker)",
        "5 completed (worker)",
    ]  # fmt: skip
    details = {event.name: event.detail for event in history(served.get(ref))}
    assert details["routed"].startswith("Chat mode, ")
    assert details["attempt.failed"] in ("only: busy", "other: busy")


def test_the_history_of_a_plan_lists_steps_failures_and_retries(served: Served) -> None:
    use(served, planning(a_plan({"a": "", "b": "a"}), b=[NO, "did b"]))
    ref = served.submit(mode=Mode.PLAN, profile="General", plan_approval=True)
    served.work()
    served.clock.pass_s(9)
    served.service.approve(ref, digest(served.get(ref).outputs[output_key("PLAN")].text or ""), approve=True)
    served.work()
    failed_at = told(served, ref)
    served.clock.pass_s(8)
    served.service.retry(ref)
    served.work()

    before = [
        "0 accepted (caller)", "0 routed (server)", "0 claimed (worker)", "1 planned (worker)",
        "1 awaiting_approval (worker)", "10 approved (caller)", "10 claimed (worker)", "11 step.completed (worker)",
        "12 attempt.failed (worker)",
    ]  # fmt: skip
    assert failed_at == [*before, "12 step.failed (worker)", "12 failed (worker)"]
    assert told(served, ref) == [
        *before, "12 failed (worker)", "20 retried (caller)", "20 claimed (worker)", "21 step.completed (worker)",
        "22 completed (worker)",
    ]  # fmt: skip
    assert [event.detail for event in history(served.get(ref)) if event.name == "attempt.failed"] == ["only: refused"]


def test_the_history_lists_waiting_released_and_failed_at_the_deadline(served: Served) -> None:
    use(served, ScriptedEngine(BUSY, EngineUnavailable("Gone.", kind="unreachable")))
    ref = served.submit(limits=Limits(deadline_s=100))
    served.work()
    served.clock.pass_s(10)
    served.work()
    served.clock.pass_s(100)
    served.service.sweep()

    assert told(served, ref) == [
        "0 accepted (caller)", "0 routed (server)", "0 claimed (worker)", "1 attempt.failed (worker)",
        "1 released (worker)", "11 claimed (worker)", "12 attempt.failed (worker)", "12 waiting (worker)",
        "112 failed (sweep)",
    ]  # fmt: skip


def test_a_failed_attempt_names_its_engine_and_failure() -> None:
    """The failure is a word for programs; records of version 0.1.0 do not have it."""
    attempts = (
        a_failed_attempt(engine="a"),
        a_failed_attempt(engine="b", failure="timeout", failover_from="a"),
        a_failed_attempt("The engine's answer is empty.", engine="c", failure="empty"),
        an_attempt(engine="d", failover_from="c"),
    )
    snapshot = a_snapshot(a_task(), None, an_output("TRY#1", None, attempts=attempts))

    found = [event.detail for event in history(snapshot) if event.name == "attempt.failed"]

    assert found == ["a", "b: timeout", "c: empty"]


def test_a_plan_that_waits_for_approval_again_after_a_retry_is_listed_so(served: Served) -> None:
    """The deadline passed while the plan waited. Once it is approved, later retries do not wait."""
    use(served, planning(a_plan({"a": ""}), a=[NO, NO, "did a"]))
    ref = served.submit(mode=Mode.PLAN, profile="General", plan_approval=True, limits=Limits(deadline_s=100))
    served.work()
    served.clock.pass_s(100)
    served.service.sweep()
    served.service.retry(ref)
    waiting = [name for name in names(served, ref) if name in ("awaiting_approval", "retried", "failed")]
    served.service.approve(ref, digest(served.get(ref).outputs[output_key("PLAN")].text or ""), approve=True)
    served.work()
    served.service.retry(ref)

    decided = ("awaiting_approval", "approved", "retried", "failed")
    assert waiting == ["awaiting_approval", "failed", "retried", "awaiting_approval"]
    assert [name for name in names(served, ref) if name in decided] == [*waiting, "approved", "failed", "retried"]


def test_every_documented_event_name_occurs() -> None:
    """The names that the API describes are the names that the history uses; "cancelled" has its own test."""
    task = a_task(
        status=Status.COMPLETED,
        approval="given",
        finished_ms=NOW_MS + 9_000,
        notes=tuple((note.value, 1_000 * n) for n, note in enumerate(Note)),
    )
    plan = an_output("PLAN", a_plan({"a": "", "b": ""}), created_ms=NOW_MS)
    triage = an_output("TRIAGE", DECIDED.to_json(), created_ms=NOW_MS)
    outputs = (triage, plan, an_output("STEP#a"), a_failure("STEP#b"))
    found = {event.name for event in history(a_snapshot(task, None, *outputs))}

    assert found == set(EVENT_NAMES) - {"cancelled"}


def test_an_event_noted_by_a_newer_version_is_left_out() -> None:
    """After a downgrade the rest of the history is still shown."""
    task = a_task(notes=((Note.CLAIMED.value, 1_000), ("z", 2_000), (Note.RELEASED.value, 3_000)))

    assert [event.name for event in history(a_snapshot(task))] == ["accepted", "routed", "claimed", "released"]


def test_a_cancel_is_listed_as_the_callers(served: Served) -> None:
    ref = served.submit()
    served.service.cancel(ref)

    assert told(served, ref)[-1] == "0 cancelled (caller)"


def test_a_long_history_is_cut_to_its_maximum(served: Served) -> None:
    """The stored state stays small, however often a task is claimed."""
    use(served, ScriptedEngine(EngineUnavailable("Gone.", kind="unreachable")))
    ref = served.submit()
    for _ in range(20):
        served.work()
        served.clock.pass_s(400)

    task = served.get(ref).task
    assert task.fence > MAX_NOTES
    assert len(task.notes) == MAX_NOTES
    assert told(served, ref)[:2] == ["0 accepted (caller)", "0 routed (server)"]


def test_the_history_tells_a_rejected_plan_from_a_cancelled_task(served: Served) -> None:
    use(served, planning(a_plan({"a": ""})))
    rejected, cancelled = (served.submit(mode=Mode.PLAN, profile="General", plan_approval=True) for _ in range(2))
    served.work()
    plan_hash = digest(served.get(rejected).outputs[output_key("PLAN")].text or "")
    served.service.approve(rejected, plan_hash, approve=False)
    served.service.cancel(cancelled)
    ends = [history(served.get(ref))[-1] for ref in (rejected, cancelled)]

    assert [(end.name, end.actor, end.detail) for end in ends] == [
        ("cancelled", "caller", "the plan was rejected"),
        ("cancelled", "caller", ""),
    ]
