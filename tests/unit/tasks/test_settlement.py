"""What the worker of a cancelled task paid comes onto its receipt, also when the settlement itself meets a fault."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llm_server.orchestration.domain.engine_call import EngineCall
from llm_server.orchestration.domain.errors import StorageUnavailable
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.tasks import settlement
from support.builders import a_lifecycle
from support.scripted_engine import Answer, ScriptedEngine, a_catalog, an_engine
from support.scripted_service import Served


class Killed(BaseException):
    """The worker's process is dead."""


def cancelled_elsewhere(served: Served, then: Callable[[], object] = lambda: None) -> TaskRef:
    """A task whose engine is thinking when another process cancels it; its message waits for a worker."""

    def answer(_: EngineCall) -> Answer:
        a_lifecycle(served.store, served.clock).cancel(ref)
        then()
        return "Paid."

    served.engine = ScriptedEngine(answer)
    served.use(a_catalog({"only": an_engine()}))
    ref = served.submit()
    return ref


def away(served: Served, error: BaseException, times: int) -> None:
    """Let so many of the next reads of a whole task fail; `back` ends it."""
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


def test_a_storage_error_during_the_settlement_is_tried_again(served: Served) -> None:
    ref = cancelled_elsewhere(served, lambda: away(served, StorageUnavailable("Away."), settlement.MAX_TRIES - 1))

    served.work()

    assert is_settled(served, ref)


@pytest.mark.parametrize("fault", [StorageUnavailable("Away."), Killed()])
def test_what_a_settlement_that_failed_left_is_settled_by_who_comes_next(served: Served, fault: BaseException) -> None:
    """Its message comes again, because the failure is handed on, or nobody was there to acknowledge it."""
    ref = cancelled_elsewhere(served, lambda: away(served, fault, settlement.MAX_TRIES))
    with pytest.raises(type(fault)):
        served.work()
    back(served)
    assert served.get(ref).task.receipt.calls == 0

    for _ in range(2):
        served.service.process(ref, owner="next")
        assert is_settled(served, ref)
    assert len(served.engine.calls) == 1


def test_who_comes_between_keep_and_save_settles_and_the_worker_does_not_again(served: Served) -> None:
    """A doubled message, while the worker lives: its answer is the last thing it pays for."""
    ref = cancelled_elsewhere(served)
    save = served.store.save

    def overtaken(*states: object, **named: object) -> None:
        if served.store.peek(ref).status is Status.CANCELLED:
            served.store.save = save  # type: ignore[method-assign]
            served.service.process(ref, owner="double")
            assert is_settled(served, ref)
        save(*states, **named)  # type: ignore[arg-type]

    served.store.save = overtaken  # type: ignore[method-assign]
    served.work()

    assert is_settled(served, ref)


def test_a_cancelled_task_without_a_kept_answer_is_left_to_its_worker(served: Served) -> None:
    """A doubled message during the call: the task keeps its worker, and so is not deleted meanwhile."""
    owners: list[str] = []

    def doubled() -> None:
        served.service.process(ref, owner="double")
        owners.append(served.store.peek(ref).owner)

    ref = cancelled_elsewhere(served, doubled)
    served.work()

    assert owners == ["w1"]
    assert is_settled(served, ref)
