"""Deletion of a tenant: its keys are revoked first, its workers stop, then everything goes and the totals are right."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from llm_server.orchestration.access.keyring import Keyring
from llm_server.orchestration.domain.counters import Counters
from llm_server.orchestration.domain.errors import ConfigurationError, InvalidInput, TaskNotFound
from llm_server.orchestration.domain.ports.tenants import Erased
from llm_server.orchestration.domain.retention import Retention
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import Task
from llm_server.orchestration.tasks.tenant_deletion import TenantDeleted, TenantDeletion
from llm_server.storage.sqlite.api_keys import SqliteKeys
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.store import SqliteStore
from support.builders import LEASE_MS, a_failed_attempt, a_key, a_request, a_task, an_output, claimed
from support.scripted_engine import Clock

LEASE_S = LEASE_MS // 1000
NOTHING = Erased()


class House:
    """A database with a key each of `acme` and `other`. `passing` is called whenever a second passes."""

    def __init__(self, path: Path) -> None:
        self.path, self.clock = path, Clock()
        self.database = Database(path)
        self.store, self.keys = SqliteStore(self.database, Retention(clock=self.clock)), SqliteKeys(self.database)
        self.mine, self.other = a_key(tenant="acme"), a_key(tenant="other")
        for key in (self.mine, self.other):
            self.keys.add_key(key)
        self.passing: Callable[[], object] = lambda: None
        self.waited_s = 0.0

    def delete(self, tenant: str = "acme", *, is_served: bool = False, timeout_s: float = 300) -> TenantDeleted:
        deletion = TenantDeletion(
            store=self.store,
            key_store=self.keys,
            keyring=Keyring(self.keys, self.clock, os.urandom),
            clock=self.clock,
            sleep=self._sleep,
            is_served=is_served,
        )
        return deletion.delete(tenant, timeout_s=timeout_s)

    def _sleep(self, seconds: float) -> None:
        self.clock.pass_s(seconds)
        self.waited_s += seconds
        self.passing()

    def queued(self, tenant: str = "acme") -> Task:
        task = a_task(tenant=tenant)
        self.store.add(task, a_request())
        return task

    def processing(self) -> Task:
        """A task that a worker has for a minute; it has announced a call."""
        task = self.queued()
        call = a_failed_attempt(withheld_microusd=900, failure="lost")
        mine = replace(claimed(task, now_ms=self.clock()), pending=(call,))
        self.store.save(task, mine)
        return mine

    def completed(self, tenant: str = "acme") -> Task:
        task, answer = self.queued(tenant), an_output()
        self.store.save(task, claimed(task))
        completed = claimed(task).completed(answer)
        self.store.save(claimed(task), completed, answer)
        return completed

    def is_gone(self, *tasks: Task) -> bool:
        for task in tasks:
            with pytest.raises(TaskNotFound):
                self.store.peek(task.ref)
        return True


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path / "tasks.db")
    yield house
    house.database.close()


def test_tasks_keys_and_records_of_a_tenant_go_and_the_totals_stay(house: House) -> None:
    """An open task is cancelled, so that the gauges are right."""
    mine, kept = [house.completed(), house.queued()], house.completed("other")

    deleted = house.delete()

    assert deleted == TenantDeleted(erased=Erased(tasks=2, days_of_spending=1), keys=1, is_complete=True)
    assert house.is_gone(*mine)
    assert house.keys.all_keys() == [house.other]
    assert house.store.peek(kept.ref) == kept
    counters = house.store.overview()[0]
    assert (counters.total, counters.completed, counters.cancelled, counters.queued) == (3, 2, 1, 0)
    assert house.waited_s == 0


def test_a_repeated_deletion_has_no_effect(house: House) -> None:
    house.completed()
    house.delete()

    assert house.delete() == TenantDeleted(erased=NOTHING, keys=0, is_complete=True)


def test_the_only_keys_are_not_deleted(house: House) -> None:
    """Without any key, the embedded server would let every program of its machine in. Nothing is changed."""
    house.keys.remove_key(house.other.key_id)
    task = house.completed()

    with pytest.raises(ConfigurationError, match="The keys of acme are the only ones"):
        house.delete()

    assert house.keys.all_keys() == [house.mine]
    assert house.store.peek(task.ref) == task


def test_a_tenant_without_keys_is_deleted(house: House) -> None:
    """Such as `local`, to which tasks belong that were made without a key."""
    task = house.completed("local")

    assert house.delete("local").erased.tasks == 1
    assert house.is_gone(task)


def test_a_name_that_no_tenant_can_have_is_refused(house: House) -> None:
    with pytest.raises(InvalidInput):
        house.delete("Acme#")


def test_a_worker_is_told_to_stop_and_waited_for(house: House) -> None:
    """Its task is cancelled at once. When it has stored what its work cost, the task goes."""
    mine, seen = house.processing(), list[Task]()

    def worker() -> None:
        stored = house.store.peek(mine.ref)
        seen.append(stored)
        if len(seen) == 3:
            output = an_output("TRY#1", None, created_ms=house.clock())
            house.store.save(stored, stored.settled(output), output)

    house.passing = worker

    deleted = house.delete()

    assert {task.status for task in seen} == {Status.CANCELLED}
    assert (deleted.erased.tasks, deleted.is_complete, house.waited_s) == (1, True, 3)
    assert house.is_gone(mine)
    assert house.store.overview()[0].cost_microusd == 300


def test_a_dead_worker_is_waited_for_until_its_lease_ends(house: House) -> None:
    """The calls that it had announced are counted."""
    mine = house.processing()

    deleted = house.delete()

    assert (deleted.erased.tasks, deleted.is_complete, house.waited_s) == (1, True, LEASE_S)
    assert house.is_gone(mine)
    assert house.store.overview()[0] == Counters(total=1, cancelled=1, failed_calls=1)


def test_the_store_is_erased_only_when_no_worker_is_left(house: House) -> None:
    """On DynamoDB, each erasure reads the whole table."""

    class Counted(SqliteStore):
        erasures = 0

        def erase(self, tenant: str) -> Erased:
            self.erasures += 1
            return super().erase(tenant)

    house.store = store = Counted(house.database, Retention(clock=house.clock))
    house.processing()

    house.delete()

    assert (store.erasures, house.waited_s) == (1, LEASE_S)


def test_a_deletion_that_runs_out_of_time_is_completed_by_the_next(house: House) -> None:
    """The keys are revoked, but known: the tenant makes no new tasks meanwhile. Other tasks are gone already."""
    mine, other = house.processing(), house.queued()

    deleted = house.delete(timeout_s=5)

    assert deleted == TenantDeleted(erased=Erased(tasks=1, in_use=1), keys=0, is_complete=False)
    assert house.is_gone(other)
    assert [key.revoked_ms is None for key in house.keys.all_keys() if key.tenant == "acme"] == [False]
    house.clock.pass_s(LEASE_S)
    assert house.delete() == TenantDeleted(erased=Erased(tasks=1), keys=1, is_complete=True)
    assert house.is_gone(mine)


def test_servers_that_still_know_a_key_are_waited_for(house: House) -> None:
    """They know it for 60 s. A task that one of them accepts in that time goes, too."""
    late = list[Task]()

    def accept() -> None:
        if house.waited_s == 59:
            late.append(house.queued())

    house.passing = accept

    deleted = house.delete(is_served=True)

    assert (deleted.erased.tasks, deleted.keys, deleted.is_complete, house.waited_s) == (1, 1, True, 61)
    assert house.is_gone(*late)


def test_servers_are_not_waited_for_again_if_the_keys_were_revoked_before(house: House) -> None:
    house.delete(is_served=True, timeout_s=5)
    house.clock.pass_s(55)

    assert house.delete(is_served=True, timeout_s=0).is_complete


def test_a_task_that_comes_during_the_erasure_goes_too(house: House) -> None:
    """A server without keys accepts tasks of the tenant `local` at any time."""

    class Overtaken(SqliteStore):
        late: Task | None = None

        def erase(self, tenant: str) -> Erased:
            if self.late is None:
                self.late = house.queued("local")
            return super().erase(tenant)

    house.store = store = Overtaken(house.database, Retention(clock=house.clock))

    assert house.delete("local") == TenantDeleted(erased=Erased(tasks=1), keys=0, is_complete=True)
    assert store.late is not None
    assert house.is_gone(store.late)


def test_more_open_tasks_than_a_page_of_the_list_go(house: House) -> None:
    tasks = [house.queued() for _ in range(230)]

    assert house.delete().erased.tasks == 230
    assert house.is_gone(*tasks)
    assert house.waited_s == 0


@pytest.mark.parametrize("has_worker", [False, True])
def test_an_open_task_with_a_text_that_cannot_be_read_goes(house: House, has_worker: bool) -> None:
    task = house.processing() if has_worker else house.queued()
    with closing(sqlite3.connect(house.path)) as db:
        db.execute("UPDATE requests SET body = 'no json'")
        db.commit()

    deleted = house.delete()

    assert (deleted.erased.tasks, deleted.is_complete) == (1, True)
    assert house.is_gone(task)
    assert house.store.overview()[0].cancelled == 1
