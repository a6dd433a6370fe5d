"""The writer of a SQLite file acknowledges after the commit, commits in groups, and keeps commands apart."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from llm_server.orchestration.domain.errors import StorageUnavailable, TaskLost
from llm_server.orchestration.domain.status import Priority
from llm_server.orchestration.domain.turns import OF_NO_TENANT, Line
from llm_server.storage.sqlite.connections.writer import MAX_BATCH_S, Command
from llm_server.storage.sqlite.database import BUSY_S, Database
from llm_server.storage.sqlite.store import SqliteStore
from support.builders import a_request, a_task, claimed
from support.scripted_engine import WAIT_S


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    with closing(Database(path)) as database:
        database.write(lambda db: db.execute("CREATE TABLE notes (text)"))
        yield database


def note(text: str) -> Callable[[sqlite3.Connection], str]:
    def work(db: sqlite3.Connection) -> str:
        db.execute("INSERT INTO notes VALUES (?)", (text,))
        return text

    return work


def notes(database: Database) -> list[str]:
    with database.reading() as db:
        return [text for (text,) in db.execute("SELECT text FROM notes ORDER BY rowid")]


def put(database: Database, work: Callable[[sqlite3.Connection], Any], line: Line = OF_NO_TENANT) -> Future[Any]:
    """Hand over a command; the future ends with its outcome."""
    future: Future[Any] = Future()

    def finished() -> None:
        try:
            future.set_result(command.outcome())
        except BaseException as error:
            future.set_exception(error)

    command = Command(partial(work, database._writer.connection), finished)
    database.put(command, line)
    return future


class Held:
    """Keeps the writer busy until its group is full, so that further commands wait and share the next commit."""

    def __init__(self, database: Database) -> None:
        self._begun, self._end = threading.Event(), threading.Event()
        self._database = database

    def __enter__(self) -> None:
        def work(_: sqlite3.Connection) -> None:
            self._begun.set()
            assert self._end.wait(WAIT_S)
            time.sleep(MAX_BATCH_S)

        self._held = put(self._database, work)
        assert self._begun.wait(WAIT_S)

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._held.result(WAIT_S)


def commits(database: Database) -> list[str]:
    """Return a list that gets the statement of each commit from now on, first that of this call."""
    seen: list[str] = []
    trace = lambda sql: seen.append(sql) if sql == "COMMIT" else None  # noqa: E731
    database.write(lambda db: db.set_trace_callback(trace))
    return seen


def test_commands_that_wait_share_one_commit(database: Database) -> None:
    seen = commits(database)
    with Held(database):
        each = [put(database, note(str(n))) for n in range(10)]
    results = [future.result(WAIT_S) for future in each]

    assert results == notes(database) == [str(n) for n in range(10)]
    assert seen == ["COMMIT"] * 3  # of the command that set the trace, of the held command, and of the ten


def test_commands_take_turns_between_tenants(database: Database) -> None:
    """One tenant posts without pause. It holds up no other tenant."""
    with Held(database):
        each = [put(database, note(f"a{n}"), Line("a")) for n in range(4)]
        each += [put(database, note(f"b{n}"), Line("b")) for n in range(2)]
        each += [put(database, note("batch"), Line("b", Priority.BATCH)), put(database, note("of no tenant"))]
    for future in each:
        future.result(WAIT_S)

    assert notes(database) == ["a0", "b0", "of no tenant", "a1", "b1", "a2", "batch", "a3"]


def test_commands_of_any_line_that_wait_at_the_end_are_carried_out(tmp_path: Path) -> None:
    database = Database(tmp_path / "other.db")
    database.write(lambda db: db.execute("CREATE TABLE notes (text TEXT)"))
    with Held(database):
        each = [put(database, note(str(n)), Line(str(n % 3))) for n in range(9)]
        closing_it = threading.Thread(target=database.close)
        closing_it.start()
    closing_it.join(WAIT_S)

    assert [future.result(WAIT_S) for future in each] == [str(n) for n in range(9)]
    with pytest.raises(StorageUnavailable):
        put(database, note("late"), Line("a"))


def test_a_command_is_acknowledged_after_its_commit_so_that_every_reader_sees_it(database: Database) -> None:
    seen: list[list[str]] = []
    command = Command(
        partial(note("a"), database._writer.connection), lambda: seen.append(in_a_thread(lambda: notes(database)))
    )

    database.put(command)
    database.write(note("b"))

    assert seen[0][:1] == ["a"]


def test_a_reader_sees_nothing_that_is_not_committed_and_waits_for_no_writer(database: Database) -> None:
    with Held(database):
        future = put(database, note("a"))

        assert in_a_thread(lambda: notes(database)) == []
    future.result(WAIT_S)
    assert notes(database) == ["a"]


def test_a_command_that_fails_leaves_nothing_and_the_others_of_its_group_stay(database: Database) -> None:
    def failing(db: sqlite3.Connection) -> None:
        note("of the failing command")(db)
        raise TaskLost("t1")

    with Held(database):
        before, failed, after = put(database, note("a")), put(database, failing), put(database, note("b"))

    with pytest.raises(TaskLost):
        failed.result(WAIT_S)
    assert (before.result(WAIT_S), after.result(WAIT_S)) == ("a", "b")
    assert notes(database) == ["a", "b"]


def test_an_error_of_sqlite_in_a_command_fails_that_command_alone(database: Database) -> None:
    with Held(database):
        failed = put(database, lambda db: db.execute("INSERT INTO missing VALUES (1)"))
        kept = put(database, note("a"))

    with pytest.raises(StorageUnavailable):
        failed.result(WAIT_S)
    assert kept.result(WAIT_S) == "a"


def test_if_sqlite_rolls_the_transaction_back_every_command_of_the_group_fails(database: Database) -> None:
    """SQLite does so by itself after some errors, for example if the disk is full."""

    def rolled_back(db: sqlite3.Connection) -> None:
        db.execute("ROLLBACK")
        raise sqlite3.OperationalError("database or disk is full")

    with Held(database):
        first, second = put(database, note("a")), put(database, rolled_back)

    for future in (first, second):
        with pytest.raises(StorageUnavailable):
            future.result(WAIT_S)
    assert database.write(note("b")) == "b"
    assert notes(database) == ["b"]


def test_after_a_rollback_that_a_use_case_hides_no_further_command_joins(database: Database) -> None:
    """It would write without a transaction."""

    def rolled_back(db: sqlite3.Connection) -> None:
        db.execute("ROLLBACK")
        raise sqlite3.OperationalError("database or disk is full")

    def hiding(_: sqlite3.Connection) -> None:
        with pytest.raises(StorageUnavailable):
            database.write(rolled_back)

    with Held(database):
        hidden, after = put(database, hiding), put(database, note("a"))

    with pytest.raises(StorageUnavailable):
        hidden.result(WAIT_S)
    assert after.result(WAIT_S) == "a"
    assert notes(database) == ["a"]


def test_a_failed_read_inside_a_command_is_the_error_that_use_cases_handle(database: Database) -> None:
    def use_case(_: sqlite3.Connection) -> str:
        with pytest.raises(StorageUnavailable), database.reading() as db:
            db.execute("SELECT 1 FROM missing")
        return "done"

    assert put(database, use_case).result(WAIT_S) == "done"


def test_a_failed_commit_fails_the_whole_group(database: Database) -> None:
    """SQLite checks a deferred constraint in the COMMIT."""
    key = "parent REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED"
    database.write(lambda db: db.execute("CREATE TABLE parents (id INTEGER PRIMARY KEY)"))
    database.write(lambda db: db.execute(f"CREATE TABLE children ({key})"))
    database._writer.connection.execute("PRAGMA foreign_keys = ON")
    with Held(database):
        good = put(database, note("a"))
        bad = put(database, lambda db: db.execute("INSERT INTO children VALUES (7)"))

    for future in (good, bad):
        with pytest.raises(StorageUnavailable):
            future.result(WAIT_S)
    assert notes(database) == []
    assert database.write(note("b")) == "b"


def test_a_use_case_is_one_transaction_and_reads_what_it_has_written(path: Path) -> None:
    """Store methods that run inside a command become part of it."""
    task = a_task()
    with closing(Database(path)) as database:
        store = SqliteStore(database)

        def use_case(_: sqlite3.Connection) -> None:
            store.add(task, a_request())
            assert store.peek(task.ref) == task
            store.save(task, claimed(task))
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            put(database, use_case).result(WAIT_S)

        assert store.overview()[0].total == 0


def test_a_use_case_that_hides_a_half_done_write_stores_nothing(database: Database) -> None:
    """A part that fails midway cannot be undone alone, so the whole command fails."""

    def half(db: sqlite3.Connection) -> None:
        note("half")(db)
        raise TaskLost("t1")

    def use_case(_: sqlite3.Connection) -> str:
        with pytest.raises(TaskLost):
            database.write(half)
        return "done"

    with pytest.raises(StorageUnavailable):
        put(database, use_case).result(WAIT_S)
    assert notes(database) == []


def test_a_use_case_may_go_on_after_a_part_that_wrote_nothing(database: Database) -> None:
    def refused(_: sqlite3.Connection) -> None:
        raise TaskLost("t1")

    def use_case(_: sqlite3.Connection) -> str:
        with pytest.raises(TaskLost):
            database.write(refused)
        return database.write(note("a"))

    assert put(database, use_case).result(WAIT_S) == "a"


def test_what_must_follow_a_commit_happens_after_it_and_only_then(database: Database) -> None:
    seen: list[object] = []

    def use_case(db: sqlite3.Connection) -> None:
        note("a")(db)
        database.after_commit(lambda: seen.append(in_a_thread(lambda: notes(database))))
        seen.append("running")

    def failing(_: sqlite3.Connection) -> None:
        database.after_commit(lambda: seen.append("never"))
        raise ZeroDivisionError

    database.write(use_case)
    with pytest.raises(ZeroDivisionError):
        database.write(failing)
    database.after_commit(lambda: seen.append("at once"))

    assert seen == ["running", ["a"], "at once"]


def test_a_call_after_the_commit_that_fails_harms_neither_its_command_nor_the_writer(database: Database) -> None:
    def use_case(db: sqlite3.Connection) -> str:
        database.after_commit(lambda: [].pop())
        return note("a")(db)

    assert database.write(use_case) == "a"
    assert database.write(note("b")) == "b"


def test_a_command_whose_caller_gave_up_is_not_begun(database: Database) -> None:
    with Held(database):
        done = threading.Event()
        command = Command(partial(note("a"), database._writer.connection), done.set)
        database.put(command)
        with pytest.raises(StorageUnavailable):
            command.outcome()

    assert done.wait(WAIT_S)
    assert notes(database) == []


def test_while_another_process_holds_the_lock_writes_fail_together_and_reads_go_on(
    path: Path, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Each command that waits would otherwise wait for the lock on its own. The log says it once."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with ThreadPoolExecutor(20) as pool:
            each = [pool.submit(database.write, note(str(n))) for n in range(20)]
            assert notes(database) == []
            assert time.monotonic() - began < BUSY_S / 2
            for future in each:
                with pytest.raises(StorageUnavailable):
                    future.result(WAIT_S)
        assert time.monotonic() - began < 3 * BUSY_S
        other.execute("ROLLBACK")

    assert database.write(note("a")) == "a"
    warnings = [record.cause for record in caplog.records if record.message == "the database takes no writes"]  # type: ignore[attr-defined]
    assert warnings == ["database is locked"]


def test_a_closed_database_carries_out_what_waits_and_refuses_the_rest(path: Path) -> None:
    database = Database(path)
    database.write(lambda db: db.execute("CREATE TABLE notes (text)"))
    with Held(database):
        waiting = put(database, note("a"))
        closing_thread = threading.Thread(target=database.close)
        closing_thread.start()
    closing_thread.join(WAIT_S)

    assert waiting.result(WAIT_S) == "a"
    with pytest.raises(StorageUnavailable):
        database.write(note("b"))
    with pytest.raises(StorageUnavailable), database.reading():
        pass
    with closing(Database(path)) as again:
        assert notes(again) == ["a"]


def test_64_threads_write_and_read_their_own_writes(path: Path) -> None:
    tasks = [a_task() for _ in range(256)]
    with closing(Database(path)) as database, ThreadPoolExecutor(64) as pool:
        store = SqliteStore(database)

        def write(n: int) -> None:
            assert store.add(tasks[n], a_request())
            assert store.peek(tasks[n].ref) == tasks[n]

        list(pool.map(write, range(len(tasks))))
        assert store.overview()[0].total == len(tasks)


def in_a_thread(read: Callable[[], Any]) -> Any:
    """Run a read on another thread, so not on the writer's."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(read).result(WAIT_S)


def test_commands_that_fail_after_a_write_do_not_undo_those_around_them(database: Database) -> None:
    """The others of their group are carried out again together, in their order, so they share a commit."""

    def failing(db: sqlite3.Connection) -> None:
        note("of a failing command")(db)
        raise TaskLost("t1")

    seen = commits(database)
    with Held(database):
        each = [put(database, failing if n in (3, 6, 9) else note(str(n))) for n in range(10)]

    for n, future in enumerate(each):
        if n in (3, 6, 9):
            with pytest.raises(TaskLost):
                future.result(WAIT_S)
        else:
            assert future.result(WAIT_S) == str(n)
    assert notes(database) == [str(n) for n in range(10) if n not in (3, 6, 9)]
    assert len(seen) <= 5  # two before the ten commands; the ten then need one, or more if the machine is slow
