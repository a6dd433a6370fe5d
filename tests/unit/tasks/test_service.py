"""The service: an accepted task is stored and never lost, and one claim processes it, however often it is woken."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from llm_server.orchestration.domain.api_key import Caller
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.errors import (
    EngineUnavailable,
    PromptRefused,
    StorageUnavailable,
    TaskNotFound,
    UnknownName,
)
from llm_server.orchestration.domain.output import Output
from llm_server.orchestration.domain.ports.listing import TaskFilter
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.orchestration.domain.turns import OF_NO_TENANT, Line
from llm_server.storage.sqlite.connections.writer import Command
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.store import SqliteStore
from support.builders import key_texts
from support.deliveries import a_plan, planning
from support.scripted_engine import WAIT_S, Answer, ScriptedEngine, a_catalog, a_completion, an_engine
from support.scripted_service import LEASE_S, SWEEP_S, Served

AWAY = StorageUnavailable("The database does not answer; try again.")
BUSY = EngineUnavailable("The engine is busy.")


# Processing


def test_a_woken_worker_completes_the_task(served: Served) -> None:
    """The task goes from the queue to the result."""
    ref = served.submit()
    assert not served.service.is_final(ref)

    assert served.work() == 1

    assert served.service.is_final(ref)
    assert served.service.get(ref).result == "Hello."


def test_the_writes_of_a_worker_wait_in_the_line_of_the_tenant(served: Served) -> None:
    """They take turns with those of other tenants, however many requests these send."""
    served.submit()
    lines = list[Line]()
    writer = served.store._database._writer
    put = writer.put

    def noted(command: Command[Any], line: Line = OF_NO_TENANT) -> None:
        lines.append(line)
        put(command, line)

    writer.put = noted  # type: ignore[method-assign]
    served.work()

    assert [line.tenant for line in lines] == ["local"] * 2  # the claim; the answer with the end


def test_a_wake_up_for_an_unknown_final_or_claimed_task_does_nothing(served: Served) -> None:
    """It calls no engine and changes nothing."""
    done = served.submit()
    served.work()
    busy = served.submit()
    task = served.store.peek(busy)
    end_ms = served.clock.now_ms + 1
    served.store.save(task, task.claimed(owner="other", now_ms=served.clock.now_ms, lease_ms=end_ms, has_plan=False))
    before = [served.get(ref) for ref in served.refs]

    for ref in (TaskRef("local", "unknown"), TaskRef("other", done.task_id), done, busy):
        served.service.process(ref, owner="late")

    assert [served.get(ref) for ref in served.refs] == before
    assert len(served.engine.calls) == 1


def test_ten_deliveries_of_one_message_make_one_engine_call(served: Served) -> None:
    """Queues may deliver a message several times; only one delivery can claim the task."""
    ref = served.submit()
    start = threading.Barrier(10, timeout=WAIT_S)

    def deliver(number: int) -> None:
        start.wait()
        served.service.process(ref, owner=f"w{number}")

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(deliver, range(10)))

    assert len(served.engine.calls) == 1
    task = served.get(ref).task
    assert (task.status, task.fence) == (Status.COMPLETED, 1)


def test_a_worker_that_lost_its_task_stops(served: Served) -> None:
    """Its lease ended during the call. The state of the next worker stays, and no further call is made."""

    def slow(call: EngineCall) -> Answer:
        if call.answer_schema:
            return a_plan({"a": "", "b": "a"})
        served.clock.pass_s(LEASE_S + 1)
        task = served.store.peek(ref)
        taken = task.claimed(owner="other", now_ms=served.clock(), lease_ms=served.clock() + 1, has_plan=True)
        served.store.save(task, taken)
        return "Too late."

    served.engine = ScriptedEngine(slow)
    served.use(a_catalog({"only": an_engine()}))
    ref = served.submit(mode=Mode.PLAN)

    served.service.process(ref, owner="slow")

    snapshot = served.get(ref)
    assert (snapshot.task.owner, key_texts(snapshot.outputs)) == ("other", ["PLAN"])
    assert len(served.engine.calls) == 2


def test_an_answer_whose_final_save_failed_is_adopted_later(served: Served) -> None:
    """The database failed between the answer and the final save; the engine is not called again."""

    class FailingFinish(SqliteStore):
        def save(self, before: Task, after: Task, output: Output | None = None, **limits: Any) -> None:
            if after.status.is_final:
                assert output is not None
                self.keep(after.ref, output)
                raise AWAY
            super().save(before, after, output)

    ref, catalog = served.submit(), a_catalog({"only": an_engine()})
    with closing(FailingFinish(Database(served.path))) as store, pytest.raises(StorageUnavailable):
        served.use(catalog, store).process(ref, owner="w1")
    service = served.use(catalog)

    service.process(ref, owner="w2")
    assert served.get(ref).task.status is Status.PROCESSING
    served.clock.pass_s(LEASE_S)
    service.process(ref, owner="w3")

    assert served.get(ref).result == "Hello."
    assert (len(served.engine.calls), served.get(ref).task.receipt.calls) == (1, 1)


def test_an_engine_call_times_out_before_the_lease_ends(served: Served) -> None:
    """A seventh of the lease is reserved for the final save; the worker's own end may come sooner."""
    served.submit()
    served.work()
    early = served.submit()
    served.service.process(early, owner="w", until_ms=served.clock.now_ms + 20_000)
    late = served.submit()
    served.service.process(late, owner="w", until_ms=served.clock.now_ms + 900_000)

    assert served.engine.timeouts_s == [60, 20, 60]


def test_a_released_task_is_woken_after_its_delay(served: Served) -> None:
    """Its own message wakes it; the sweep does not need to."""
    served.engine = ScriptedEngine(BUSY, "Back.")
    served.use(a_catalog({"only": an_engine()}))
    ref = served.submit()
    served.work()
    assert (served.get(ref).task.status, served.work()) == (Status.QUEUED, 0)

    served.clock.pass_s(5)
    assert (served.service.sweep(), served.work()) == (0, 1)

    assert served.get(ref).result == "Back."


def test_a_released_task_whose_wake_up_was_not_sent_is_woken_by_the_sweep(served: Served) -> None:
    """The sweep wakes it after the delay that it was released with."""
    served.engine = ScriptedEngine(BUSY, "Back.")
    served.use(a_catalog({"only": an_engine()}))
    ref = served.submit()
    served.queue.before_send = lambda _: setattr(served.queue, "down", True)
    served.work()
    served.queue.before_send = lambda _: None
    served.queue.down = False

    served.clock.pass_s(5 + SWEEP_S)
    assert (served.service.sweep(), served.work()) == (1, 1)

    assert served.get(ref).result == "Back."


# Reading


def test_a_listing_with_an_unknown_role_is_refused(served: Served) -> None:
    """A misspelt role must not look like an empty list."""
    ref = served.submit(role="Teacher-Agent")

    page = served.service.page(
        "local", size=5, task_filter=TaskFilter(statuses=frozenset({Status.QUEUED}), role="teacher-agent")
    )

    assert [task.ref for task in page.tasks] == [ref]
    assert len(served.service.page("local", size=5).tasks) == 1
    with pytest.raises(UnknownName):
        served.service.page("local", size=5, task_filter=TaskFilter(role="Missing-Agent"))


def test_an_unknown_task_is_not_found(served: Served) -> None:
    """Both when it is read and when it is watched."""
    for read in (served.service.get, served.service.is_final):
        with pytest.raises(TaskNotFound):
            read(TaskRef("local", "unknown"))


def test_metrics_and_usage_agree_with_the_processed_tasks(served: Served) -> None:
    """After answers, refusals, plans and waits.

    The fixture audits counters and receipts after every test in this folder.
    """
    served.engine = planning(a_plan({"a": "", "b": "a"}), b=PromptRefused("No."), **{"Build it.": "Built."})
    answers: list[Answer] = [a_completion(tokens_out=500), PromptRefused("Too long.")]
    script = served.engine

    def answer(call: EngineCall) -> Answer:
        served.clock.pass_s(2)
        if "sky" in call.prompt and "Goal" not in call.prompt and not call.answer_schema:
            return answers.pop(0) if answers else BUSY
        try:
            return script.complete(call, timeout_s=1)
        except PromptRefused as error:
            return error

    served.engine = ScriptedEngine(answer)
    served.use(a_catalog({"only": an_engine()}))
    for mode in (Mode.CHAT, Mode.CHAT, Mode.PLAN, Mode.CHAT):
        served.submit(mode=mode, profile="General")
        served.work()

    figures, usage = served.service.metrics(), served.service.usage(Caller())

    assert [served.get(ref).task.status.value for ref in served.refs] == ["Completed", "Failed", "Failed", "Queued"]
    assert (figures["total_requests"], figures["queue_length"], figures["active_tasks"]) == (4, 1, 0)
    assert figures["success_rate"] == pytest.approx(100 / 3)
    assert figures["average_response_time"] == 2.0
    assert figures["tokens_per_second"] == (500 + 20 + 20) / 6
    assert figures["api_costs"] == (1_010 + 50 + 50) / 1_000_000
    assert (figures["llm_status"], figures["server_status"]) == ({"only": "cooling"}, "offline")
    assert (usage.tenant, usage.day, usage.spent_microusd, usage.tasks_in_flight) == ("local", "2025-10-09", 1_110, 1)
    assert served.service.now_ms() == served.clock.now_ms
