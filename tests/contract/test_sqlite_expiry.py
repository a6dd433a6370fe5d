"""What the sweep removes from the embedded store, where no database does it by itself."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from llm_server.orchestration.domain.api_key import Account, KeyUse
from llm_server.orchestration.domain.counters import day_of
from llm_server.orchestration.domain.retention import Retention
from llm_server.orchestration.domain.task import DAY_MS
from llm_server.orchestration.tasks.sweep import Sweep
from llm_server.orchestration.tasks.wakeups import WakeUps
from llm_server.storage.sqlite.api_keys import SqliteKeys
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.deletions import EXPIRED
from llm_server.storage.sqlite.store import SqliteStore
from support.builders import NOW_MS, SWEEP_MS, NoQueue, a_failure, a_request, a_task, an_attempt, claimed
from support.scripted_engine import Clock


def test_what_has_expired_is_removed_by_the_sweep(tmp_path: Path) -> None:
    """From the file, request and outputs too; what is open, or not so old, stays. The look needs no scan."""
    clock = Clock()
    with closing(SqliteStore(Database(tmp_path / "tasks.db"), Retention(clock=clock, keep_ms=DAY_MS))) as store:
        old, young, queued = a_task(), a_task(), a_task()
        for task in (old, young, queued):
            store.add(task, a_request())
        for task, now_ms in ((old, NOW_MS), (young, NOW_MS + 1)):
            failure = a_failure(created_ms=now_ms)
            store.save(task, claimed(task))
            store.save(claimed(task), claimed(task).failed(failure), failure)
        clock.now_ms += DAY_MS
        Sweep(store=store, wakeups=WakeUps(NoQueue()), clock=clock, sweep_ms=SWEEP_MS).run()

    with closing(sqlite3.connect(tmp_path / "tasks.db")) as db:
        counted = [
            db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in ("tasks", "requests", "outputs")
        ]
        (plan,) = db.execute(f"EXPLAIN QUERY PLAN {EXPIRED}", (0, 9)).fetchall()
    assert counted == [2, 2, 1]
    assert "USING INDEX finished" in plan[-1]


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
