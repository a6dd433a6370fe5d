"""The texts of an open task are kept, even if the sweep never looks at the task."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llm_server.orchestration.domain.errors import StorageUnavailable
from llm_server.orchestration.domain.retention import SLACK_MS
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import DAY_MS, Task, TaskRef
from support.scripted_engine import a_catalog, an_engine
from support.scripted_service import Served

Renewals = list[int]
YOUNG_DAYS = SLACK_MS // 2 // DAY_MS


@pytest.fixture
def renewals(served: Served) -> Renewals:
    """The ages in days at which the retention of a task's texts was renewed."""
    days = Renewals()

    def retain(task: Task) -> None:
        days.append((served.clock() - task.created_ms) // DAY_MS)

    served.store.retain = retain  # type: ignore[method-assign]
    return days


def waiting(served: Served) -> TaskRef:
    """Submit a task for an engine that is switched off."""
    served.use(a_catalog({"only": an_engine(toggle=False)}))
    return served.submit()


def wait(served: Served, days: int, then: Callable[[], object] = lambda: None) -> None:
    """Let a worker claim the task every six hours, followed by a sweep."""
    for _ in range(4 * days):
        served.clock.pass_s(6 * 3600)
        served.work()
        then()
        served.service.sweep()


def test_the_worker_renews_the_texts_each_day_of_a_task_the_sweep_never_finds_due(
    served: Served, renewals: Renewals
) -> None:
    """The worker always claims the task before the sweep would look at it. A young task needs no renewal."""
    ref, due = waiting(served), list[object]()

    wait(served, 9, lambda: due.extend(served.store.due(served.clock())))

    assert due == []
    assert renewals == list(range(YOUNG_DAYS, 9))
    assert served.get(ref).task.status is Status.QUEUED


def test_a_claim_is_not_saved_if_the_renewal_fails(served: Served, renewals: Renewals) -> None:
    """The next claim renews the texts."""
    ref, retain = waiting(served), served.store.retain
    wait(served, YOUNG_DAYS)
    rev = served.store.peek(ref).rev

    def away(task: Task) -> None:
        raise StorageUnavailable(f"{task.task_id} cannot be written.")

    served.store.retain = away  # type: ignore[method-assign]
    served.clock.pass_s(DAY_MS / 1000)
    with pytest.raises(StorageUnavailable):
        served.work()
    assert served.store.peek(ref).rev == rev

    served.store.retain = retain  # type: ignore[method-assign]
    served.service.process(ref, owner="again")
    assert renewals[-1] == YOUNG_DAYS + 1
