"""The cost of a cancelled task's calls reaches its receipt, even if an error interrupts the settlement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.errors import StorageUnavailable
from llm_server.orchestration.domain.output import Output
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.orchestration.tasks import settlement
from support.builders import a_lifecycle
from support.scripted_engine import Answer, ScriptedEngine, a_catalog, an_engine
from support.scripted_service import Served


class Killed(BaseException):
    """Simulates the death of the worker's process."""


def cancelled_elsewhere(served: Served, then: Callable[[], object] = lambda: None) -> TaskRef:
    """Submit a task that another process will cancel during its engine call."""

    def answer(_: EngineCall) -> Answer:
        a_lifecycle(served.store, served.clock).cancel(ref)
        then()
        return "Paid."

    served.engine = ScriptedEngine(answer)
    served.use(a_catalog({"only": an_engine()}))
    ref = served.submit()
    return ref


def away(served: Served, error: BaseException, times: int) -> None:
    """Make the next `times` reads of a whole task fail, until `back` is called."""
    get = served.store.get

    def unsteady(ref: TaskRef) -> Snapshot:
        nonlocal times
        times -= 1
        if times >= 0:
            raise error
        return get(ref)

    served.store.get = unsteady  # type: ignore[method-assign]


def back(served: Served) -> None:
    del served.store.get


def is_settled(served: Served, ref: TaskRef) -> bool:
    snapshot = served.get(ref)
    receipt = snapshot.task.receipt
    assert snapshot.task.status is Status.CANCELLED
    return (receipt.calls, receipt.cost_microusd, snapshot.task.owner, len(snapshot.attempts)) == (1, 50, "", 1)


def test_a_settlement_that_meets_a_storage_error_is_tried_again(served: Served) -> None:
    ref = cancelled_elsewhere(served, lambda: away(served, StorageUnavailable("Away."), settlement.MAX_TRIES - 1))

    served.work()

    assert is_settled(served, ref)


@pytest.mark.parametrize("fault", [StorageUnavailable("Away."), Killed()])
def test_a_failed_settlement_is_completed_by_the_next_delivery(served: Served, fault: BaseException) -> None:
    """The message is delivered again, because the error is raised or because the dead worker did not acknowledge it."""
    ref = cancelled_elsewhere(served, lambda: away(served, fault, settlement.MAX_TRIES))
    with pytest.raises(type(fault)):
        served.work()
    back(served)
    assert served.get(ref).task.receipt.calls == 0

    for _ in range(2):
        served.service.process(ref, owner="next")
        assert is_settled(served, ref)
    assert len(served.engine.calls) == 1


def test_a_delivery_between_keep_and_save_settles_and_the_worker_does_not_settle_again(served: Served) -> None:
    """A duplicate message arrives after the store has kept the answer, and before it saves the state."""
    ref = cancelled_elsewhere(served)
    save = served.store.save

    def overtaken(before: Task, after: Task, output: Output | None = None, **limits: Any) -> None:
        if output is not None:
            served.store.save = save  # type: ignore[method-assign]
            served.store.keep(ref, output)
            served.service.process(ref, owner="double")
            assert is_settled(served, ref)
        save(before, after, output, **limits)

    served.store.save = overtaken  # type: ignore[method-assign]
    served.work()

    assert is_settled(served, ref)


def test_a_cancelled_task_without_a_stored_answer_is_left_to_its_worker(served: Served) -> None:
    """A duplicate message arrives during the call: the task keeps its owner, so it cannot be deleted meanwhile."""
    owners: list[str] = []

    def doubled() -> None:
        served.service.process(ref, owner="double")
        owners.append(served.store.peek(ref).owner)

    ref = cancelled_elsewhere(served, doubled)
    served.work()

    assert owners == ["w1"]
    assert is_settled(served, ref)
