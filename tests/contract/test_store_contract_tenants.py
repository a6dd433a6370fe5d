"""What every store promises about the deletion of a tenant: all of it goes, and nothing of the others."""

from __future__ import annotations

from typing import Protocol

import pytest
from msgspec.structs import replace

from llm_server.orchestration.domain.api_key import Account, KeyUse
from llm_server.orchestration.domain.errors import TaskLost, TaskNotFound
from llm_server.orchestration.domain.ports.keys import KeyStore
from llm_server.orchestration.domain.ports.listing import TaskFilter
from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.domain.ports.tasks import IdempotencyBinding
from llm_server.orchestration.domain.ports.tenants import Erased
from llm_server.orchestration.domain.task import DAY_MS, Task
from support.builders import LEASE_MS, NOW_MS, a_key, a_request, a_task, an_output, claimed, noise
from support.scripted_engine import Clock

DAY = "2025-10-09"


class Keeping(Protocol):
    """A store that keeps what has ended for 30 days, and its clock."""

    @property
    def store(self) -> Store: ...

    @property
    def clock(self) -> Clock: ...


def ended(store: Store, tenant: str, length: int = 10) -> Task:
    """A Completed task with metadata, a prompt and an answer."""
    task = a_task(tenant=tenant, metadata={"team": "blue"})
    store.add(task, a_request(noise(length), metadata=task.metadata))
    store.save(task, claimed(task))
    answer = an_output(text=noise(length, seed=1))
    completed = claimed(task).completed(answer)
    store.save(claimed(task), completed, answer)
    return completed


def bind(store: Store, tenant: str, key: str = "k") -> None:
    binding = IdempotencyBinding(task_id="t1", body_hash="b", until_ms=NOW_MS + DAY_MS)
    store.bind_idempotency_key(tenant, key, binding, now_ms=NOW_MS)


def is_gone(store: Store, task: Task) -> bool:
    with pytest.raises(TaskNotFound):
        store.get(task.ref)
    return True


@pytest.mark.parametrize("length", [10, 900_000])
def test_everything_of_a_tenant_goes_and_nothing_of_the_others(store: Store, length: int) -> None:
    """Tenants whose names begin alike are others. What was counted stays in the totals."""
    mine, others = ended(store, "acme", length), [ended(store, name) for name in ("acme-2", "acm", "local")]
    for tenant in ("acme", "acme-2", "acm"):
        bind(store, tenant)
    bind(store, "acme", "another")
    before = [store.get(task.ref) for task in others]
    totals = store.overview()[0]

    erased = store.erase("acme")

    assert erased == Erased(tasks=1, idempotency_keys=2, days_of_spending=1)
    assert is_gone(store, mine)
    assert store.page("acme", size=9).tasks == []
    assert store.page("acme", size=9, task_filter=TaskFilter(metadata={"team": "blue"})).tasks == []
    assert store.bound_idempotency_key("acme", "k", now_ms=NOW_MS) is None
    assert store.spent_microusd("acme", DAY) == 0
    assert [store.get(task.ref) for task in others] == before
    assert store.bound_idempotency_key("acme-2", "k", now_ms=NOW_MS) is not None
    assert store.bound_idempotency_key("acm", "k", now_ms=NOW_MS) is not None
    assert store.spent_microusd("acme-2", DAY) == store.spent_microusd("acm", DAY) == 300
    assert store.overview()[0] == totals
    assert list(store.due(NOW_MS + 10**12)) == []


def test_an_erasure_can_be_repeated(store: Store) -> None:
    ended(store, "acme")
    store.erase("acme")

    assert store.erase("acme") == store.erase("unknown") == Erased()


def test_more_tasks_than_fit_into_one_step_are_all_removed(store: Store) -> None:
    tasks = [ended(store, "acme") for _ in range(60)]
    for number in range(3):
        bind(store, "acme", f"k{number}")

    assert store.erase("acme") == Erased(tasks=60, idempotency_keys=3, days_of_spending=1)
    assert all(is_gone(store, task) for task in tasks)


def test_a_task_in_use_is_left_alone_with_its_texts(keeping: Keeping) -> None:
    """It is open; or it is Cancelled, and its worker has still to store what the work cost."""
    store, clock = keeping.store, keeping.clock
    queued, processing, cancelled = (a_task(tenant="acme") for _ in range(3))
    for task in (queued, processing, cancelled):
        store.add(task, a_request())
    now_ms = clock()
    for task in (processing, cancelled):
        store.save(task, claimed(task, now_ms=now_ms))
    stopping = claimed(cancelled, now_ms=now_ms).cancelled(now_ms=now_ms)
    store.save(claimed(cancelled, now_ms=now_ms), stopping)
    store.keep(stopping.ref, an_output())
    before = [store.get(task.ref) for task in (queued, processing, cancelled)]
    final = ended(store, "acme")

    assert store.erase("acme") == Erased(tasks=1, days_of_spending=1, in_use=3)

    assert [store.get(task.ref) for task in (queued, processing, cancelled)] == before
    assert is_gone(store, final)
    clock.now_ms = now_ms + LEASE_MS
    assert store.erase("acme") == Erased(tasks=1, in_use=2)
    assert is_gone(store, stopping)


def test_what_a_late_worker_stores_of_an_erased_task_is_purged(store: Store) -> None:
    """The task does not come back either."""
    task = ended(store, "acme")
    store.erase("acme")

    store.keep(task.ref, an_output("RES#9"))
    with pytest.raises(TaskLost):
        store.save(task, replace(task, rev=task.rev + 1))
    store.purge(task.ref)

    assert is_gone(store, task)
    assert not store.add(a_task(task.task_id, tenant="acme"), a_request())
    assert store.erase("acme") == Erased()


def test_a_task_that_has_expired_is_removed_too(keeping: Keeping) -> None:
    """No read shows it, but it may not have been removed yet."""
    task = ended(keeping.store, "acme")
    keeping.clock.now_ms = NOW_MS + 40 * DAY_MS

    assert keeping.store.erase("acme").tasks == 1
    assert is_gone(keeping.store, task)


def test_a_removed_key_is_unknown_and_nothing_is_counted_for_it(store: Store, key_store: KeyStore) -> None:
    """Another key keeps its counts. Removing it again has no effect."""
    gone, other = a_key(tenant="acme"), a_key(tenant="acme")
    for key in (gone, other):
        key_store.add_key(key)
        key_store.count_request(key.key_id, 29_333_333, most=5)
        key_store.reserve(Account(key.key_id, DAY), "t#1#1", 700, max_microusd=10_000)
        store.add(a_task(counted_for=key.key_id), a_request())

    for _ in range(2):
        key_store.remove_key(gone.key_id)

    assert key_store.all_keys() == [other]
    assert key_store.key(gone.key_id) is None
    assert key_store.use(Account(gone.key_id, DAY)) == KeyUse()
    assert key_store.count_request(gone.key_id, 29_333_333, most=5) == 4
    assert key_store.use(Account(other.key_id, DAY)).charged_microusd == 700
    assert key_store.use(Account(other.key_id, DAY)).tasks_in_flight == 1
    assert key_store.count_request(other.key_id, 29_333_333, most=5) == 3
