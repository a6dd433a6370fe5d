"""A task's history: what happened, when, and who did it, in one GET."""

from __future__ import annotations

from typing import Any

from llm_server.orchestration.domain.engine_call import EngineCall
from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused
from llm_server.orchestration.domain.plan import digest
from llm_server.orchestration.domain.snapshot import Limits
from llm_server.orchestration.domain.status import Mode
from llm_server.orchestration.domain.task import MAX_NOTES, Note, TaskRef
from llm_server.orchestration.tasks.events import history
from support.builders import a_snapshot, a_task, an_attempt, an_output, output_key
from support.deliveries import a_plan, planning
from support.scripted_engine import Answer, ScriptedEngine, a_catalog, a_local_engine, an_engine
from support.scripted_service import Served

NO = PromptRefused("No.")
BUSY = EngineUnavailable("Busy.")


def use(served: Served, engine: ScriptedEngine, **more: Any) -> None:
    """An engine whose calls take a second each."""

    def slow(call: EngineCall) -> Answer:
        served.clock.pass_s(1)
        try:
            return engine.complete(call, timeout_s=1)
        except (EngineUnavailable, PromptRefused) as error:
            return error

    served.engine = ScriptedEngine(slow)
    served.use(a_catalog({"only": an_engine(), **more}))


def told(served: Served, ref: TaskRef) -> list[str]:
    """Seconds after acceptance, what, by whom."""
    snapshot = served.get(ref)
    start_ms = snapshot.task.created_ms
    return [f"{(e.at_ms - start_ms) / 1000:g} {e.name} ({e.actor})" for e in history(snapshot)]


def test_a_chat_task_tells_its_way(served: Served) -> None:
    use(served, ScriptedEngine(BUSY, "Hello."), other=a_local_engine())
    ref = served.submit(mode=Mode.CHAT)
    served.clock.pass_s(3)
    served.work()

    assert told(served, ref) == [
        "0 created (caller)", "0 analysed (server)", "3 claimed (worker)", "4 engine failed over (worker)",
        "5 completed (worker)",
    ]  # fmt: skip
    details = {event.name: event.detail for event in history(served.get(ref))}
    assert details["analysed"].startswith("Chat mode, ")
    assert details["engine failed over"] in ("from only to other", "from other to only")


def test_a_plan_tells_its_steps_its_failure_and_its_retry(served: Served) -> None:
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
        "0 created (caller)", "0 analysed (server)", "0 claimed (worker)", "1 planned (worker)",
        "10 approved (caller)", "10 claimed (worker)", "11 step finished (worker)",
    ]  # fmt: skip
    assert failed_at == [*before, "12 step failed (worker)", "12 failed (worker)"]
    assert told(served, ref) == [
        *before, "12 failed (worker)", "20 retried (caller)", "20 claimed (worker)", "21 step finished (worker)",
        "22 completed (worker)",
    ]  # fmt: skip


def test_a_wait_a_release_and_a_deadline_are_told(served: Served) -> None:
    use(served, ScriptedEngine(BUSY, EngineUnavailable("Gone.", kind="unreachable")))
    ref = served.submit(limits=Limits(deadline_s=100))
    served.work()
    served.clock.pass_s(10)
    served.work()
    served.clock.pass_s(100)
    served.service.sweep()

    assert told(served, ref) == [
        "0 created (caller)", "0 analysed (server)", "0 claimed (worker)", "1 released (worker)",
        "11 claimed (worker)", "12 waiting (worker)", "112 failed (sweep)",
    ]  # fmt: skip


def test_a_failover_is_told_from_the_fact_and_not_from_the_sentence() -> None:
    """The sentence is for people, and may change."""
    attempts = (
        an_attempt(engine="a", why="failover from nowhere"),
        an_attempt(engine="b", why="because", failover_from="a"),
        an_attempt(engine="c", why="because", failover_from="b", probe=True),
    )
    snapshot = a_snapshot(a_task(), None, an_output("TRY#1", None, attempts=attempts))

    found = [event.detail for event in history(snapshot) if event.name == "engine failed over"]

    assert found == ["from a to b", "from b, probe to c"]


def test_a_move_that_a_newer_version_noted_is_left_out() -> None:
    """After a downgrade the rest of the history is still told."""
    task = a_task(notes=((Note.CLAIMED.value, 1_000), ("z", 2_000), (Note.RELEASED.value, 3_000)))

    assert [event.name for event in history(a_snapshot(task))] == ["created", "analysed", "claimed", "released"]


def test_a_cancel_is_the_callers(served: Served) -> None:
    ref = served.submit()
    served.service.cancel(ref)

    assert told(served, ref)[-1] == "0 cancelled (caller)"


def test_only_so_much_of_a_long_history_is_kept(served: Served) -> None:
    """The state stays small, however often a task is claimed."""
    use(served, ScriptedEngine(EngineUnavailable("Gone.", kind="unreachable")))
    ref = served.submit()
    for _ in range(20):
        served.work()
        served.clock.pass_s(400)

    task = served.get(ref).task
    assert task.fence > MAX_NOTES
    assert len(task.notes) == MAX_NOTES
    assert told(served, ref)[:2] == ["0 created (caller)", "0 analysed (server)"]
