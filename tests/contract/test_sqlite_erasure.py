"""How the deletion of a tenant looks in the SQLite file: no byte of its texts is left, and other writers go on."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from llm_server.orchestration.domain import event_numbers
from llm_server.orchestration.domain.errors import StorageUnavailable
from llm_server.orchestration.domain.ports.deltas import Delta
from llm_server.orchestration.domain.ports.tenants import Erased
from llm_server.orchestration.domain.task import Task
from llm_server.orchestration.domain.turns import OF_NO_TENANT, Line
from llm_server.storage.sqlite.connections.writer import T, Work
from llm_server.storage.sqlite.database import PATIENT_BUSY_S, Database
from llm_server.storage.sqlite.store import SqliteStore
from support.builders import NOW_MS, a_request, a_task, an_output, claimed

WORD = "xylophone"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    """The store of a running server."""
    store = SqliteStore(Database(path, busy_s=PATIENT_BUSY_S))  # the machine may be slow
    yield store
    store.close()


def ended(store: SqliteStore, tenant: str = "acme", text: str = f"The {WORD} of Acme. " * 700) -> Task:
    task = a_task(tenant=tenant, metadata={"text": text[:20]})
    store.add(task, a_request(text, metadata=task.metadata, stream=True))
    store.save(task, claimed(task))
    number = event_numbers.number(claimed(task).rev, event_numbers.TEXT)
    store.append(task.ref, [Delta(number=number, item=event_numbers.FIRST_CALL, text=text, at_ms=NOW_MS)])
    answer = an_output(text=text)
    completed = claimed(task).completed(answer)
    store.save(claimed(task), completed, answer)
    return completed


def many(store: SqliteStore, number: int, **fields: str) -> list[Task]:
    """Store tasks in one commit."""
    return store.atomically(lambda: [ended(store, **fields) for _ in range(number)])


def erase(path: Path) -> Erased:
    """Erase the tenant in a process of its own, as far as the file can tell."""
    with closing(SqliteStore(Database(path, busy_s=PATIENT_BUSY_S))) as store:
        return store.erase("acme")


def rows_of_acme(path: Path) -> dict[str, int]:
    with closing(sqlite3.connect(path)) as db:
        texts = ("requests", "outputs", "deltas")
        tables = ("tasks", *texts, "conversations", "labels", "bindings", "spending", "deleted")
        query = "SELECT count(*) FROM {} WHERE tenant = 'acme'"
        found = {table: db.execute(query.format(table)).fetchone()[0] for table in tables}
    return {table: number for table, number in found.items() if number}


def test_no_byte_of_a_text_is_left_in_the_file_or_its_log(path: Path, store: SqliteStore) -> None:
    """While a server has the file open."""
    many(store, 60)
    ended(store, "other", "Another tenant's text.")
    log = path.with_name("tasks.db-wal")
    assert WORD.encode() in path.read_bytes() + log.read_bytes()

    assert erase(path).tasks == 60

    assert WORD.encode() not in path.read_bytes() + log.read_bytes()
    assert rows_of_acme(path) == {"deleted": 60}


def test_a_file_that_is_written_anew_has_no_part_of_a_text_in_its_unused_bytes(path: Path, store: SqliteStore) -> None:
    """SQLite leaves copies there when it moves rows: with these numbers, 8 of the word."""
    numbers = Random(1)

    def store_one() -> Task:
        tenant, word = ("acme", WORD) if numbers.random() < 0.5 else ("other", "piano")
        task = a_task(f"{numbers.random():.12f}", tenant=tenant, metadata={"word": word})
        store.add(task, a_request(f"{word} " * numbers.choice([1, 5, 20, 100, 300])))
        store.save(task, claimed(task))
        answer = an_output(text=f"{word} " * numbers.choice([1, 20, 200]))
        store.save(claimed(task), claimed(task).completed(answer), answer)
        return task

    store.atomically(lambda: [store_one() for _ in range(300)])
    store.erase("acme")

    with closing(Database(path)) as database:
        database.empty_log(rewrite=True)

    assert WORD.encode() not in path.read_bytes() + path.with_name("tasks.db-wal").read_bytes()


def test_a_task_that_a_caller_deletes_is_overwritten_too(path: Path, store: SqliteStore) -> None:
    """In the file; its log still has it until SQLite starts it anew."""
    task = ended(store)

    store.delete(task)
    store.close()

    assert WORD.encode() not in path.read_bytes()


def test_what_cannot_be_read_is_erased(path: Path, store: SqliteStore) -> None:
    """A damaged state, with the labels that no state names; and texts whose task is gone, streamed ones too."""
    damaged, gone = ended(store), ended(store)
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE tasks SET body = '{}' WHERE task_id = ?", (damaged.task_id,))
        db.execute("DELETE FROM tasks WHERE task_id = ?", (gone.task_id,))
        db.commit()

    assert erase(path) == Erased(tasks=1, days_of_spending=1)
    assert rows_of_acme(path) == {"deleted": 1}


def test_an_erasure_that_broke_off_at_any_write_is_completed_by_the_next(path: Path, store: SqliteStore) -> None:
    class BreakingOff(Database):
        writes_left = 0

        def write(self, work: Work[T], line: Line = OF_NO_TENANT) -> T:
            self.writes_left -= 1
            if self.writes_left < 0:
                raise StorageUnavailable("The database does not answer; try again.")
            return super().write(work, line)

    writes, is_broken_off = 0, True
    with closing(BreakingOff(path)) as database:
        while is_broken_off:
            many(store, 60, text="short")
            database.writes_left = writes
            writes += 1
            try:
                SqliteStore(database).erase("acme")
                is_broken_off = False
            except StorageUnavailable:
                erase(path)
            assert rows_of_acme(path).keys() == {"deleted"}
    assert writes > 6


def test_a_server_stores_tasks_of_other_tenants_meanwhile(path: Path, store: SqliteStore) -> None:
    many(store, 100, text="short")
    stored, stopping = list[Task](), threading.Event()

    def serve() -> None:
        while not stopping.is_set():
            stored.append(ended(store, "other", "short"))
            time.sleep(0.01)

    server = threading.Thread(target=serve)
    server.start()
    try:
        erased = erase(path)
    finally:
        stopping.set()
        server.join()

    assert erased.tasks == 100
    assert stored
    assert [store.peek(task.ref) for task in stored] == stored
    assert store.overview()[0].completed == 100 + len(stored)


def test_a_log_that_a_reader_keeps_is_named(path: Path, store: SqliteStore, caplog: pytest.LogCaptureFixture) -> None:
    """A backup that runs at the same time, for example."""
    ended(store)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader, caplog.at_level(logging.WARNING):
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM tasks").fetchone()
        erase(path)

    assert [record.getMessage() for record in caplog.records] == ["database log not emptied"]
    assert rows_of_acme(path) == {"deleted": 1}
