"""One claim of a task ends with a role's answer, a failure, or another try later."""

from __future__ import annotations

import threading

import pytest
from msgspec.structs import replace

from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused
from llm_server.orchestration.domain.snapshot import EXPIRED_REQUEST, Limits
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.execution.orchestrator import NO_PROMPT
from support.builders import NOW_MS, an_attempt, an_output, by_key
from support.deliveries import MAX_DELIVERIES, SWEEP_S, Deliveries, accepted, changed
from support.scripted_engine import WAIT_S, Answer, Clock, ScriptedEngine, WatchedStore, a_catalog, an_engine

BUSY = EngineUnavailable("The engine is busy.")


def test_one_role_answers_in_its_own_words(watched: WatchedStore, clock: Clock) -> None:
    """The call has the role's system prompt, temperature and limit, and the caller's prompt unchanged."""
    deliveries = Deliveries(watched, clock, ScriptedEngine("Done."))
    role = a_catalog({}).roles["Deep-Coder-Agent"]

    ended = deliveries.deliver(accepted(Mode.AGENT, "Deep-Coder-Agent"))

    assert (ended.task.status, ended.result, ended.task.engine) == (Status.COMPLETED, "Done.", "only")
    (call,) = deliveries.engine.calls
    assert (call.system, call.prompt, call.answer_schema) == (role.system_prompt, "Build it.", None)
    assert (call.temperature, call.max_output_tokens) == (role.temperature, role.max_output_tokens)
    assert deliveries.purposes == ["answer"]


def test_the_callers_output_limit_is_passed_on(watched: WatchedStore, clock: Clock) -> None:
    """Without one, the catalogue's limit is used."""
    deliveries = Deliveries(watched, clock, ScriptedEngine())
    deliveries.deliver(accepted(limits=Limits(max_output_tokens=7)))
    deliveries.deliver(accepted())

    assert [call.max_output_tokens for call in deliveries.engine.calls] == [7, 4096]


@pytest.mark.parametrize(("complexity", "engine"), [(0.49, "only"), (0.5, "strong")])
def test_a_demanding_prompt_goes_to_a_strong_engine(
    watched: WatchedStore, clock: Clock, complexity: float, engine: str
) -> None:
    """This overrides the role's tier."""
    catalog = a_catalog({"only": an_engine(tier="fast"), "strong": an_engine(tier="strong")})
    strong = (an_engine(tier="strong"), ScriptedEngine())
    deliveries = Deliveries(watched, clock, ScriptedEngine(), catalog=catalog, strong=strong)

    assert deliveries.deliver(accepted(complexity=complexity)).task.engine == engine


def test_an_orphan_answer_is_adopted_without_a_call(watched: WatchedStore, clock: Clock) -> None:
    """The worker died after paying for it. The answer is used even if deliveries or deadline are exceeded."""
    deliveries = Deliveries(watched, clock, ScriptedEngine())
    waiting = changed(accepted(limits=Limits(deadline_s=1)), deliveries=MAX_DELIVERIES)
    orphan = an_output("RES#1", "Paid for.")
    clock.pass_s(60)

    ended = deliveries.deliver(type(waiting)(task=waiting.task, request=waiting.request, outputs=by_key(orphan)))

    assert (ended.task.status, ended.result, deliveries.engine.calls) == (Status.COMPLETED, "Paid for.", [])
    assert ended.task.receipt.calls == 1


def test_a_refused_prompt_fails_at_once(watched: WatchedStore, clock: Clock) -> None:
    """Another try would have the same result."""
    ended = Deliveries(watched, clock, ScriptedEngine(PromptRefused("The prompt is too long."))).deliver(accepted())

    assert (ended.task.status, ended.task.error) == (Status.FAILED, "The prompt is too long.")
    assert ended.task.receipt.failed_calls == 1


def test_a_role_that_is_configured_no_more_fails_the_task_with_a_sentence(watched: WatchedStore, clock: Clock) -> None:
    """A stored task may name a role that a later configuration does not have."""
    ended = Deliveries(watched, clock, ScriptedEngine()).deliver(accepted(Mode.AGENT, "Gone-Agent"))

    assert ended.task.status is Status.FAILED
    assert str(ended.task.error).startswith("Unknown role 'Gone-Agent'")


# Trying again


def test_a_task_whose_prompt_has_expired_fails_with_a_sentence(watched: WatchedStore, clock: Clock) -> None:
    """Without its prompt it cannot be carried out, so no engine is asked."""
    deliveries = Deliveries(watched, clock, ScriptedEngine())
    ended = deliveries.deliver(replace(accepted(), request=EXPIRED_REQUEST))

    assert (ended.task.status, ended.task.error) == (Status.FAILED, NO_PROMPT)
    assert deliveries.engine.calls == []


def test_failures_the_prompt_may_cause_use_deliveries_up(watched: WatchedStore, clock: Clock) -> None:
    """The delay doubles from 5 s to 5 min, the sweep waits longer than that, and the last delivery fails the task."""
    deliveries = Deliveries(watched, clock, ScriptedEngine(BUSY), max_deliveries=9)
    snapshot, delays = accepted(), []
    for _ in range(8):
        snapshot = deliveries.deliver(snapshot)
        assert snapshot.task.status is Status.QUEUED
        assert snapshot.task.due_ms == clock.now_ms + (deliveries.given[-1].delay_s + SWEEP_S) * 1000
        delays.append(deliveries.given[-1].delay_s)
        clock.pass_s(delays[-1])
    ended = deliveries.deliver(snapshot)

    assert delays == [5, 10, 20, 40, 80, 160, 300, 300]
    assert (ended.task.status, ended.task.error) == (Status.FAILED, "The engine is busy.")
    assert ended.task.receipt.failed_calls == len(ended.attempts) == len(deliveries.engine.calls)


AWAY = EngineUnavailable("The engine cannot be reached.", kind="unreachable")


def test_a_task_waits_out_an_outage_however_long(watched: WatchedStore, clock: Clock) -> None:
    """The waiting uses up no delivery, shows its reason and start, and makes fewer and fewer calls."""
    deliveries = Deliveries(watched, clock, ScriptedEngine(*[AWAY] * 20, "Back."))
    snapshot, began_ms = accepted(), clock.now_ms
    for _ in range(20):
        snapshot = deliveries.deliver(snapshot)
        task = snapshot.task
        assert (task.status, task.deliveries, task.waiting_for) == (Status.QUEUED, 0, "only")
        assert task.waiting_since_ms == began_ms
        clock.pass_s(deliveries.given[-1].delay_s)
    ended = deliveries.deliver(snapshot)

    assert (ended.result, ended.task.waiting_for, ended.task.waiting_since_ms) == ("Back.", "", None)
    assert clock.now_ms - began_ms > 3_600_000


def test_many_tasks_that_wait_make_few_calls(watched: WatchedStore, clock: Clock) -> None:
    """While the engine rests, a task is released without a call and without another output."""
    deliveries = Deliveries(watched, clock, ScriptedEngine(AWAY))
    deliveries.deliver(accepted())
    waiting = [deliveries.deliver(accepted()) for _ in range(10)]

    assert len(deliveries.engine.calls) == 1
    assert {(len(s.outputs), s.task.deliveries, s.task.waiting_for) for s in waiting} == {(0, 0, "only")}
    assert deliveries.given[-1].delay_s == 5


def test_an_outage_ends_at_the_deadline(watched: WatchedStore, clock: Clock) -> None:
    deliveries = Deliveries(watched, clock, ScriptedEngine(AWAY))
    snapshot = accepted(limits=Limits(deadline_s=60))
    while not snapshot.task.status.is_final:
        snapshot = deliveries.deliver(snapshot)
        clock.pass_s(deliveries.given[-1].delay_s)

    assert snapshot.task.error == "The deadline of 60 s has passed."
    assert clock.now_ms == NOW_MS + 60_000


def test_a_prompt_that_breaks_engines_ends_though_they_are_away_in_between(watched: WatchedStore, clock: Clock) -> None:
    """The prompt crashes the engine, which is unreachable until it has restarted; only the crashes count."""
    deliveries = Deliveries(watched, clock, ScriptedEngine(*[BUSY, AWAY] * MAX_DELIVERIES))
    snapshot, rounds = accepted(), 0
    while not snapshot.task.status.is_final:
        snapshot, rounds = deliveries.deliver(snapshot), rounds + 1
        clock.pass_s(deliveries.given[-1].delay_s)
        assert rounds < 20

    assert snapshot.task.status is Status.FAILED
    assert sum(attempt.error == str(BUSY) for attempt in snapshot.attempts) == MAX_DELIVERIES


def test_without_an_engine_that_is_switched_on_a_task_waits_and_says_so(watched: WatchedStore, clock: Clock) -> None:
    catalog = a_catalog({"only": an_engine(toggle=False)})
    deliveries = Deliveries(watched, clock, ScriptedEngine(), catalog=catalog)

    task = deliveries.deliver(accepted()).task

    assert (task.deliveries, deliveries.given[-1].delay_s) == (0, 60)
    assert task.waiting_for == "an engine that is switched on and has credentials"


def test_an_engine_that_comes_back_answers(watched: WatchedStore, clock: Clock) -> None:
    """The failed calls stay on the receipt."""
    deliveries = Deliveries(watched, clock, ScriptedEngine(BUSY, "Back."))
    snapshot = deliveries.deliver(accepted())
    clock.pass_s(5)
    ended = deliveries.deliver(snapshot)

    assert (ended.result, ended.task.receipt.calls, ended.task.receipt.failed_calls) == ("Back.", 1, 1)


def test_a_prompt_that_kills_its_worker_ends(watched: WatchedStore, clock: Clock) -> None:
    """Deliveries are counted before the work, so the task is given up without another call."""
    deliveries = Deliveries(watched, clock, ScriptedEngine())
    snapshot = accepted()
    for _ in range(MAX_DELIVERIES):
        dead = deliveries.deliver(snapshot, dies_after=0)
        snapshot = changed(dead, lease_ms=clock.now_ms)

    ended = deliveries.deliver(snapshot)

    assert ended.task.error == f"The task was given up: workers took it {MAX_DELIVERIES} times without progress."
    assert deliveries.engine.calls == []


def test_a_worker_without_time_hands_the_task_back_at_once(watched: WatchedStore, clock: Clock) -> None:
    """The interrupted call is recorded and counts as a delivery."""

    def times_out(call: EngineCall) -> Answer:
        clock.pass_s(deliveries.engine.timeouts_s[-1])
        return EngineUnavailable("The engine did not answer in time.", kind="timeout")

    deliveries = Deliveries(watched, clock, ScriptedEngine(times_out, "Done."))
    snapshot = deliveries.deliver(accepted(), for_s=10)

    assert (snapshot.task.status, deliveries.given[-1].delay_s) == (Status.QUEUED, 0)
    assert (snapshot.task.deliveries, snapshot.task.receipt.failed_calls) == (1, 1)
    assert deliveries.deliver(snapshot).result == "Done."


def test_waiting_for_a_busy_engine_is_no_delivery(watched: WatchedStore, clock: Clock) -> None:
    """A long queue for one engine must not fail tasks, nor let them circle without a pause."""
    begun, leave = threading.Event(), threading.Event()

    def slow(call: EngineCall) -> Answer:
        begun.set()
        leave.wait(WAIT_S)
        return "Done."

    catalog = a_catalog({"only": an_engine(max_concurrency=1)})
    deliveries = Deliveries(watched, clock, ScriptedEngine(slow), catalog=catalog)
    holder = threading.Thread(target=deliveries.deliver, args=[accepted()])
    holder.start()
    assert begun.wait(WAIT_S)
    snapshot = deliveries.deliver(changed(accepted(), deliveries=MAX_DELIVERIES - 1), for_s=1)
    delay_s = deliveries.given[-1].delay_s
    leave.set()
    holder.join(WAIT_S)

    assert (snapshot.task.status, snapshot.task.deliveries, delay_s) == (Status.QUEUED, MAX_DELIVERIES - 1, 5)
    assert deliveries.deliver(snapshot).result == "Done."


# The caller's limits


def test_a_deadline_that_has_passed_fails_the_task_without_a_call(watched: WatchedStore, clock: Clock) -> None:
    """It counts from acceptance. With less than half a second left, no call is made."""
    deliveries = Deliveries(watched, clock, ScriptedEngine())
    snapshot = accepted(limits=Limits(deadline_s=30))
    clock.now_ms = NOW_MS + 29_501

    ended = deliveries.deliver(snapshot)

    assert (ended.task.status, ended.task.error) == (Status.FAILED, "The deadline of 30 s has passed.")
    assert deliveries.engine.calls == []


def test_a_deadline_bounds_the_call(watched: WatchedStore, clock: Clock) -> None:
    """The call ends at the deadline. The task fails for that reason, and the engine does not rest."""

    def times_out(call: EngineCall) -> Answer:
        clock.pass_s(deliveries.engine.timeouts_s[-1])
        return EngineUnavailable("The engine did not answer in time.", kind="timeout")

    deliveries = Deliveries(watched, clock, ScriptedEngine(times_out))
    ended = deliveries.deliver(deliveries.deliver(accepted(limits=Limits(deadline_s=12.5))))

    assert deliveries.engine.timeouts_s == [12.5]
    assert ended.task.error == "The deadline of 12.5 s has passed."
    assert watched.engines().states == {}


def test_no_delay_goes_beyond_the_deadline(watched: WatchedStore, clock: Clock) -> None:
    """A task that can only fail then must not wait longer."""
    deliveries = Deliveries(watched, clock, ScriptedEngine(BUSY))
    snapshot = deliveries.deliver(changed(accepted(limits=Limits(deadline_s=3.2)), deliveries=1))

    assert deliveries.given[-1].delay_s == 4
    clock.pass_s(4)
    assert deliveries.deliver(snapshot).task.error == "The deadline of 3.2 s has passed."


def test_a_call_that_could_exceed_max_cost_usd_is_not_made(watched: WatchedStore, clock: Clock) -> None:
    """The cost of earlier deliveries counts, and the error names the limit."""
    deliveries = Deliveries(watched, clock, ScriptedEngine())
    dear = accepted(limits=Limits(max_cost_usd=0.1))
    receipt = dear.task.receipt.plus([an_attempt(cost_microusd=99_900)])

    ended = deliveries.deliver(changed(dear, receipt=receipt))

    assert (ended.task.status, deliveries.engine.calls) == (Status.FAILED, [])
    assert "max_cost_usd" in str(ended.task.error)
    assert deliveries.deliver(dear).task.status is Status.COMPLETED
