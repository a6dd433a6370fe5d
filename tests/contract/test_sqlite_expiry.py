"""What the sweep removes from the embedded store, where no database does it by itself."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from llm_server.orchestration.domain.api_key import Account, KeyUse
from llm_server.orchestration.domain.counters import day_of
from llm_server.orchestration.domain.ports.tasks import IdempotencyBinding
from llm_server.orchestration.domain.retention import Retention
from llm_server.orchestration.domain.task import DAY_MS, Task
from llm_server.orchestration.tasks.sweep import MAX_PRUNE, Sweep
from llm_server.orchestration.tasks.wakeups import WakeUps
from llm_server.storage.sqlite.api_keys import SqliteKeys
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.deletions import EXPIRED, MAX_PAGES, MIN_FREE_PAGES
from llm_server.storage.sqlite.store import SqliteStore
from support.builders import NOW_MS, SWEEP_MS, NoQueue, a_failure, a_request, a_task, an_attempt, claimed
from support.scripted_engine import Clock, a_fleet


def test_what_has_expired_is_removed_by_the_sweep(tmp_path: Path) -> None:
    """From the file, request and outputs too; what is open, or not so old, stays. The look needs no scan."""
    clock = Clock()
    with closing(SqliteStore(Database(tmp_path / "tasks.db"), Retention(clock=clock, keep_ms=DAY_MS))) as store:
        old, young, queued = (a_task(metadata={"run": "1", "project": "atlas"}) for _ in range(3))
        for task in (old, young, queued):
            store.add(task, a_request())
        for task, now_ms in ((old, NOW_MS), (young, NOW_MS + 1)):
            failure = a_failure(created_ms=now_ms)
            store.save(task, claimed(task))
            store.save(claimed(task), claimed(task).failed(failure), failure)
        clock.now_ms += DAY_MS
        Sweep(
            store=store, wakeups=WakeUps(NoQueue()), fleet=a_fleet(store, clock), clock=clock, sweep_ms=SWEEP_MS
        ).run()

    with closing(sqlite3.connect(tmp_path / "tasks.db")) as db:
        counted = [
            db.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
            for name in ("tasks", "requests", "outputs", "labels")
        ]
        (plan,) = db.execute(f"EXPLAIN QUERY PLAN {EXPIRED}", (0, 9)).fetchall()
    assert counted == [2, 2, 1, 4]
    assert "USING INDEX finished" in plan[-1]


def expired(store: SqliteStore, count: int, text: str = "a") -> list[Task]:
    """Add tasks that ended at `NOW_MS`, and return them."""
    tasks = [a_task(metadata={"run": str(n)}) for n in range(count)]
    for task in tasks:
        failure = a_failure(created_ms=NOW_MS)
        store.add(task, a_request(text))
        store.save(task, claimed(task))
        store.save(claimed(task), claimed(task).failed(failure), failure)
    return tasks


def rows(path: Path, *tables: str) -> list[int]:
    with closing(sqlite3.connect(path)) as db:
        return [db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]


def test_a_call_removes_so_many_tasks_and_tells_whether_more_may_be_left(tmp_path: Path) -> None:
    path, clock = tmp_path / "tasks.db", Clock()
    with closing(SqliteStore(Database(path), Retention(clock=clock, keep_ms=DAY_MS))) as store:
        expired(store, 5)
        clock.now_ms += DAY_MS

        answers = [(store.prune(2), *rows(path, "tasks", "labels")) for _ in range(4)]

    assert answers == [(True, 3, 3), (True, 1, 1), (False, 0, 0), (False, 0, 0)]


def test_one_sweep_removes_all_that_has_expired(tmp_path: Path) -> None:
    """However many transactions that takes: tasks, and the keys that were bound to them."""
    path, clock, count = tmp_path / "tasks.db", Clock(), 2 * MAX_PRUNE + 1
    with closing(SqliteStore(Database(path), Retention(clock=clock, keep_ms=DAY_MS))) as store:
        for task in expired(store, count):
            binding = IdempotencyBinding(task_id=task.task_id, body_hash="x", until_ms=NOW_MS + 1)
            store.bind_idempotency_key("local", task.task_id, binding, now_ms=NOW_MS)
        clock.now_ms += DAY_MS

        Sweep(
            store=store, wakeups=WakeUps(NoQueue()), fleet=a_fleet(store, clock), clock=clock, sweep_ms=SWEEP_MS
        ).run()

    assert rows(path, "tasks", "requests", "outputs", "labels", "bindings") == [0, 0, 0, 0, 0]


def test_a_state_of_a_newer_version_is_removed_with_the_others(tmp_path: Path) -> None:
    path, clock = tmp_path / "tasks.db", Clock()
    with closing(SqliteStore(Database(path), Retention(clock=clock, keep_ms=DAY_MS))) as store:
        strange, *_ = expired(store, 3)
        body = "json_set(body, '$.mode', 'Debate', '$.metadata', 'none')"
        update = f"UPDATE tasks SET facets = NULL, body = {body} WHERE task_id = ?"
        store._database.write(lambda db: db.execute(update, (strange.task_id,)))
        clock.now_ms += DAY_MS

        assert not store.prune(9)

    assert rows(path, "tasks", "requests", "outputs") == [0, 0, 0]


def test_the_file_becomes_smaller_when_tasks_have_been_removed(tmp_path: Path) -> None:
    """In steps, and not below what is kept for new tasks."""
    path, clock = tmp_path / "tasks.db", Clock()
    with closing(SqliteStore(Database(path), Retention(clock=clock, keep_ms=DAY_MS))) as store:
        expired(store, 20, text="p" * 400_000)
        clock.now_ms += DAY_MS
        store.prune(20)
        (before,) = store._database.write(lambda db: db.execute("PRAGMA page_count").fetchone())
        steps = 1
        while store.prune(20):
            steps += 1
        names = ("page_count", "freelist_count")
        after, free = store._database.write(lambda db: [db.execute(f"PRAGMA {n}").fetchone()[0] for n in names])

    assert before > MIN_FREE_PAGES + 10 * MAX_PAGES
    assert free == MIN_FREE_PAGES
    assert steps == -(-(before - after) // MAX_PAGES)
    assert path.stat().st_size == after * 4096


def test_what_was_spent_is_forgotten_after_40_days(tmp_path: Path) -> None:
    """By tenants and by keys, with what was never settled; also where tasks are kept for ever."""
    path, clock = tmp_path / "tasks.db", Clock()
    first = day_of(NOW_MS)
    with closing(Database(path)) as database:
        store, keys = SqliteStore(database, Retention(clock=clock)), SqliteKeys(database)
        for _ in range(2):
            task, failure = a_task(), a_failure(created_ms=clock(), attempts=(an_attempt(),))
            store.add(task, a_request())
            store.save(task, claimed(task))
            store.save(claimed(task), claimed(task).failed(failure), failure)
            keys.reserve(Account("k1", day_of(clock())), "t#1", 100, max_microusd=1_000)
            clock.pass_s(DAY_MS / 1000)
        days = [first, day_of(NOW_MS + DAY_MS)]
        clock.now_ms = NOW_MS + 40 * DAY_MS
        store.prune(9)
        before = [store.spent_microusd("local", day) for day in days], [keys.use(Account("k1", day)) for day in days]

        clock.pass_s(DAY_MS / 1000)
        store.prune(9)

        after = [store.spent_microusd("local", day) for day in days], [keys.use(Account("k1", day)) for day in days]
    charged = KeyUse(charged_microusd=100, under_way_microusd=100)
    assert before == ([300, 300], [charged, charged])
    assert after == ([0, 300], [KeyUse(), charged])
