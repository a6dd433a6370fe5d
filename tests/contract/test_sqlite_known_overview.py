"""The overview that a SQLite file's writer reads before its commits: never ahead of the file, never behind a caller."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from llm_server.orchestration.domain.engines.state import EngineState
from llm_server.orchestration.domain.errors import StorageUnavailable, TaskLost
from llm_server.orchestration.domain.task import Task
from llm_server.storage.sqlite.connections.latest_read import ASKED_S, MAX_AGE_S
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.store import SqliteStore
from support.builders import a_request, a_task, claimed
from support.scripted_engine import WAIT_S

READS = "FROM counters"
WRITERS, TASKS_EACH = 12, 40


class File:
    """A database whose time stands still until a test changes it, and its store."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.database = Database(path)
        self.store = SqliteStore(self.database)
        self.now_s = 100.0
        self.latest = self.database._latest_overview
        self.latest._clock_s = lambda: self.now_s

    def add(self) -> Task:
        task = a_task()
        assert self.store.add(task, a_request())
        return task

    def known_total(self) -> int | None:
        known = self.database.known_overview()
        return None if known is None else known[0].total

    def statements(self) -> list[str]:
        """Return a list that gets each statement of the writer from now on."""
        seen: list[str] = []
        self.database._writer.connection.set_trace_callback(seen.append)
        return seen


@pytest.fixture
def file(tmp_path: Path) -> Iterator[File]:
    file = File(tmp_path / "tasks.db")
    with closing(file.database):
        yield file


@pytest.fixture
def asked(file: File) -> File:
    """A file whose overview was asked for just now."""
    assert file.known_total() is None
    return file


def test_it_is_what_the_file_says_after_the_commit(asked: File) -> None:
    task = asked.add()
    assert asked.database.known_overview() == asked.store.overview()

    asked.store.save(task, claimed(task))
    asked.store.save_engine_state("gpt", EngineState(offline=True))
    asked.store.switch_engine("gpt", {"locked": True})

    known = asked.database.known_overview()
    assert known == asked.store.overview()
    assert known is not None
    assert (known[0].active, known[1].state("gpt").offline, known[1].switches["gpt"].locked) == (1, True, True)


def test_nothing_is_read_unless_it_was_asked_for_in_the_last_second(file: File) -> None:
    """So that a server without callers of its metrics does no more for a commit."""
    seen = file.statements()
    file.add()
    assert not [sql for sql in seen if READS in sql]

    file.known_total()
    file.now_s += ASKED_S
    file.add()
    assert len([sql for sql in seen if READS in sql]) == 1
    assert file.latest._known is not None

    file.now_s += ASKED_S + 0.001
    file.add()
    assert len([sql for sql in seen if READS in sql]) == 1
    assert file.known_total() is None


def test_a_commit_without_a_read_ends_what_was_known_before_it_begins(asked: File) -> None:
    """A reader may see that commit early, and nothing would tell that it saw more than what is known."""
    at_commit: list[int | None] = []
    asked.now_s += ASKED_S
    asked.add()
    asked.now_s += 0.001
    trace = lambda sql: at_commit.append(asked.known_total()) if sql == "COMMIT" else None  # noqa: E731
    asked.database._writer.connection.set_trace_callback(trace)

    asked.add()

    assert at_commit == [None]


def test_it_is_read_in_the_transaction_and_known_after_the_commit_alone(asked: File) -> None:
    """While the commit waits for the disk, the overview before it is still known."""
    at_commit: list[int | None] = []
    order: list[str] = []

    def trace(sql: str) -> None:
        if sql == "COMMIT":
            at_commit.append(asked.known_total())
        order.append("read" if READS in sql else sql.partition(" ")[0])

    asked.add()
    asked.database._writer.connection.set_trace_callback(trace)
    asked.add()

    assert at_commit == [1]
    assert asked.known_total() == 2
    assert [word for word in order if word in ("BEGIN", "read", "COMMIT")] == ["BEGIN", "read", "COMMIT"]


def test_what_is_rolled_back_is_never_known(asked: File) -> None:
    """A command that fails after it has written is rolled back with its group; the rest of the group comes again."""
    seen: list[int | None] = []
    entered, end = threading.Event(), threading.Event()

    def hold(_: sqlite3.Connection) -> None:
        entered.set()
        assert end.wait(WAIT_S)

    def failing(_: sqlite3.Connection) -> None:
        asked.add()
        raise TaskLost("t1")

    def good(_: sqlite3.Connection) -> None:
        seen.append(asked.known_total())
        asked.add()

    asked.add()
    with ThreadPoolExecutor(3) as pool:
        held = pool.submit(asked.database.write, hold)
        assert entered.wait(WAIT_S)
        first, second = pool.submit(asked.database.write, good), pool.submit(asked.database.write, failing)
        end.set()
        held.result(WAIT_S)
        first.result(WAIT_S)
        with pytest.raises(TaskLost):
            second.result(WAIT_S)

    assert set(seen) == {1}
    assert asked.known_total() == asked.store.overview()[0].total == 2


def test_after_a_commit_that_fails_nothing_is_known(asked: File) -> None:
    """SQLite checks a deferred constraint in the COMMIT, so after the overview was read."""
    key = "parent REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED"
    asked.database.write(lambda db: db.execute("CREATE TABLE parents (id INTEGER PRIMARY KEY)"))
    asked.database.write(lambda db: db.execute(f"CREATE TABLE children ({key})"))
    asked.database._writer.connection.execute("PRAGMA foreign_keys = ON")
    asked.add()

    def failing(db: sqlite3.Connection) -> None:
        asked.add()
        db.execute("INSERT INTO children VALUES (7)")

    with pytest.raises(StorageUnavailable):
        asked.database.write(failing)

    assert asked.known_total() is None
    assert asked.store.overview()[0].total == 1
    asked.add()
    assert asked.known_total() == 2


def test_a_change_by_another_process_is_missed_for_50_ms_at_most(asked: File) -> None:
    asked.add()
    with closing(sqlite3.connect(asked.path, isolation_level=None)) as other:
        other.execute("UPDATE counters SET total = total + 10, cancelled = 10")

    asked.now_s += MAX_AGE_S
    assert asked.known_total() == 1
    asked.now_s += 0.001
    assert asked.known_total() is None
    assert asked.store.overview()[0].total == 11


def test_the_next_commit_knows_what_another_process_has_changed(asked: File) -> None:
    asked.add()
    with closing(sqlite3.connect(asked.path, isolation_level=None)) as other:
        other.execute("UPDATE counters SET total = total + 10")

    asked.add()

    assert asked.known_total() == 12


def test_its_age_counts_from_the_read_and_not_from_the_commit(asked: File) -> None:
    """A disk that is slow makes it old."""

    def trace(sql: str) -> None:
        if sql == "COMMIT":
            asked.now_s += MAX_AGE_S + 0.001

    asked.database._writer.connection.set_trace_callback(trace)
    asked.add()

    assert asked.known_total() is None


def test_it_is_known_before_any_caller_learns_of_the_commit(asked: File) -> None:
    """`after_commit` calls come before the caller goes on; callers that wait for a task are told by them."""
    told: list[int | None] = []

    def work(_: sqlite3.Connection) -> None:
        asked.add()
        asked.database.after_commit(lambda: told.append(asked.known_total()))

    asked.database.write(work)

    assert told == [1]


def test_it_is_not_behind_what_a_reader_has_shown(asked: File) -> None:
    """A reader may see a commit that is not acknowledged yet. Its caller must not see less in the metrics then."""
    committed, may_go_on = threading.Event(), threading.Event()
    publish = asked.latest.committed

    def held() -> None:
        committed.set()
        assert may_go_on.wait(WAIT_S)
        publish()

    asked.add()
    asked.latest.committed = held  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(asked.add)
        assert committed.wait(WAIT_S)
        before_read = asked.known_total()
        shown = asked.store.overview()[0].total
        after_read = asked.known_total()
        may_go_on.set()
        adding.result(WAIT_S)

    assert (before_read, shown, after_read) == (1, 2, None)
    assert asked.known_total() == 2


def test_an_overview_that_cannot_be_read_fails_no_write(asked: File, caplog: pytest.LogCaptureFixture) -> None:
    """An engine's record may be one of a newer version. Only those who ask for the overview are told, by their read."""

    def unreadable(db: sqlite3.Connection) -> Any:
        db.execute("SELECT 1 FROM missing")

    asked.add()
    asked.latest._read = unreadable
    with caplog.at_level(logging.ERROR):
        asked.add()
        asked.add()

    assert asked.known_total() is None
    assert asked.store.overview()[0].total == 3
    assert [record.message for record in caplog.records] == ["nothing read before a commit"]


def test_every_acknowledged_task_is_counted_and_no_figure_goes_back(tmp_path: Path) -> None:
    """Many threads add tasks and ask after each; others only ask. The clock is slow, so that the disk may be slow."""
    acknowledged, from_memory, over = [0] * WRITERS, [0], threading.Event()
    with closing(Database(tmp_path / "tasks.db")) as database, ThreadPoolExecutor(WRITERS + 4) as pool:
        store = SqliteStore(database)
        database._latest_overview._clock_s = lambda: time.monotonic() / 10

        def asked_total() -> int:
            known = database.known_overview()
            from_memory[0] += known is not None
            return (known or store.overview())[0].total

        def write(number: int) -> None:
            last = 0
            for _ in range(TASKS_EACH):
                store.add(a_task(), a_request())
                acknowledged[number] += 1
                least = max(sum(acknowledged), last)
                last = asked_total()
                assert last >= least

        def read() -> None:
            last = 0
            while not over.wait(0.001):
                least = max(sum(acknowledged), last)
                last = asked_total()
                assert last >= least

        readers = [pool.submit(read) for _ in range(4)]
        for writer in [pool.submit(write, number) for number in range(WRITERS)]:
            writer.result(WAIT_S)
        over.set()
        for reader in readers:
            reader.result(WAIT_S)

        assert store.overview()[0].total == WRITERS * TASKS_EACH
    assert from_memory[0] > WRITERS * TASKS_EACH / 10
