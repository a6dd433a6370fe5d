"""Group commit under attack: a task is told of after its commit, and a commit that fails is told to no caller."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from faults.deployment import an_engine, hashed
from faults.substrates import every_task
from llm_server.embedded.assembly import embedded_service
from llm_server.embedded.executor import OffLoopExecutor
from llm_server.embedded.watches import Watches
from llm_server.orchestration.domain.errors import StorageUnavailable, Unauthenticated
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.orchestration.service import Service
from llm_server.orchestration.tasks.new_task import NewTask
from llm_server.settings import Settings
from llm_server.storage.memory_queue import WakeUpQueue
from llm_server.storage.sqlite.connections.writer import Command
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.store import SqliteStore
from support.audit import audit
from support.fake_engine import FakeEngine, fake_engine
from support.scripted_engine import WAIT_S
from support.scripted_service import work_off

FULL = "database or disk is full"


class Disk:
    """The writer's connection. A test lets a statement wait, or fail instead of being executed."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.failing: dict[str, str] = {}
        self.executed: list[str] = []
        self.at_commit = threading.Event()
        self.may_commit = threading.Event()
        self.may_commit.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        self.executed.append(sql)
        if sql == "COMMIT":
            self.at_commit.set()
            assert self.may_commit.wait(WAIT_S)
        if error := self.failing.get(sql):
            raise sqlite3.OperationalError(error)
        return self._connection.execute(sql, *values)

    @contextmanager
    def commit_held(self) -> Iterator[None]:
        """Let each commit wait until the end of the block."""
        self.at_commit.clear()
        self.may_commit.clear()
        try:
            yield
        finally:
            self.may_commit.set()


@dataclass(slots=True)
class Server:
    """The embedded server without its threads for HTTP and workers, and what it told the callers that wait."""

    service: Service
    database: Database
    queue: WakeUpQueue
    disk: Disk
    engine: FakeEngine
    watches: Watches
    told: list[Task]
    pool: ThreadPoolExecutor

    @property
    def store(self) -> SqliteStore:
        """The store for reads of the test."""
        return SqliteStore(self.database)

    def command(self, work: Callable[[], Any]) -> Future[Any]:
        """Carry out a use case that writes, as the routes do; the future ends with its outcome."""

        async def run() -> Any:
            executor = OffLoopExecutor(self.database, self.watches)
            try:
                return await executor.write(work)
            finally:
                executor.close()

        return self.pool.submit(asyncio.run, run())

    def submit(self, prompt: str = "Say hello.") -> Task:
        return self.service.submit("local", NewTask(prompt=prompt))

    def post(self, prompt: str = "Say hello.") -> Future[Any]:
        return self.command(lambda: self.submit(prompt))

    def work(self) -> int:
        """Process the messages in the queue one by one; return their number."""
        return work_off(self.service, self.queue)

    def known(self) -> list[TaskRef]:
        return every_task(self.store)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    told: list[Task] = []
    watches = Watches()
    config = tmp_path / "engines.toml"
    with fake_engine(answer=hashed) as engine, ThreadPoolExecutor(32) as pool:
        config.write_text(an_engine(0, engine), encoding="utf-8")
        settings = replace(Settings.read({"LLM_SERVER_CONFIG": str(config)}), db=tmp_path / "tasks.db")

        def on_end(task: Task, result: str | None) -> None:
            told.append(task)
            watches.tell_end(task, result)

        with embedded_service(settings, own_port=0, on_end=on_end) as embedded:
            writer: Any = embedded.database._writer
            disk = writer.connection = Disk(writer.connection)
            yield Server(embedded.service, embedded.database, embedded.queue, disk, engine, watches, told, pool)
            disk.failing.clear()
            store = SqliteStore(embedded.database)
            audit(store, every_task(store))


def test_a_new_task_is_told_of_after_its_commit_alone(server: Server) -> None:
    """Its caller gets no answer, no worker is woken, and no reader sees it, until it is durable."""
    with server.disk.commit_held():
        posted = server.post()
        assert server.disk.at_commit.wait(WAIT_S)

        assert not posted.done()
        assert server.queue.depth() == 0
        assert server.known() == []
    task = posted.result(WAIT_S)
    assert server.known() == [task.ref]
    assert server.queue.depth() == 1


def test_a_caller_that_waits_is_told_of_the_end_after_its_commit_alone(server: Server) -> None:
    task = server.post().result(WAIT_S)
    server.engine.latency_s = 0.3
    working = server.pool.submit(server.work)
    while not server.engine.seen:
        threading.Event().wait(0.005)

    with server.disk.commit_held():
        assert server.disk.at_commit.wait(WAIT_S)

        assert server.told == []
        assert not server.store.peek(task.ref).status.is_final
    assert working.result(WAIT_S) == 1
    assert server.told == [server.store.peek(task.ref)]


def test_a_commit_that_fails_is_acknowledged_to_no_caller_of_its_group(server: Server) -> None:
    server.disk.failing["COMMIT"] = FULL
    with server.disk.commit_held():
        posted = [server.post(f"Say {n}.") for n in range(20)]
        assert server.disk.at_commit.wait(WAIT_S)

    for each in posted:
        with pytest.raises(StorageUnavailable):
            each.result(WAIT_S)
    assert server.queue.depth() == 0
    assert server.known() == []
    server.disk.failing.clear()
    task = server.post().result(WAIT_S)
    assert server.known() == [task.ref]


def test_metrics_count_a_task_from_its_acknowledgement_on_and_not_before_its_commit(server: Server) -> None:
    """They come from memory here, so a reader of the file could not put them right."""
    latest, seen = server.database._latest_overview, list[object]()
    latest._clock_s = lambda: 100.0

    def total() -> object:
        known = server.service.known_metrics()
        return known and known["total_requests"]

    def submit() -> None:
        server.submit()
        server.database.after_commit(lambda: seen.append(total()))

    assert total() is None
    server.post().result(WAIT_S)
    with server.disk.commit_held():
        posted = server.command(submit)
        assert server.disk.at_commit.wait(WAIT_S)

        assert total() == 1
    posted.result(WAIT_S)
    server.disk.failing["COMMIT"] = FULL
    with pytest.raises(StorageUnavailable):
        server.post().result(WAIT_S)
    server.disk.failing.clear()

    assert seen == [2]
    assert server.service.metrics()["total_requests"] == 2


@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "COMMIT"])
def test_an_answer_that_the_disk_had_no_room_for_is_stored_later_and_not_bought_again(
    server: Server, statement: str
) -> None:
    server.post().result(WAIT_S)
    server.engine.latency_s = 0.3
    working = server.pool.submit(server.work)
    while not server.engine.seen:
        threading.Event().wait(0.005)
    server.disk.executed.clear()
    server.disk.failing[statement] = FULL
    while server.disk.executed.count(statement) < 3 and not working.done():
        threading.Event().wait(0.005)
    server.disk.failing.clear()

    assert working.result(WAIT_S) == 1
    assert [task.status for task in server.told] == ["Completed"]
    assert len(server.engine.seen) == 1


def test_a_use_case_that_fails_after_it_has_written_leaves_nothing_and_takes_nothing_from_its_group(
    server: Server,
) -> None:
    def failing() -> None:
        server.submit("Say nothing.")
        raise ZeroDivisionError

    with server.disk.commit_held():
        first = server.post("Say first.")
        assert server.disk.at_commit.wait(WAIT_S)
        group = [server.post("Say one."), server.command(failing), server.post("Say two.")]
        threading.Event().wait(0.2)

    with pytest.raises(ZeroDivisionError):
        group[1].result(WAIT_S)
    good = {each.result(WAIT_S).ref for each in (first, group[0], group[2])}
    assert set(server.known()) == good
    assert server.queue.depth() == 3, "one message for each task, although its command was carried out twice"


def test_commands_that_fail_after_they_have_written_do_not_hold_up_the_one_before_them(server: Server) -> None:
    """2,000 of them wait behind it: it is carried out twice and committed, not once more for each."""
    carried_out: list[int] = []

    def good() -> None:
        carried_out.append(len(carried_out))
        server.database.write(lambda db: db.execute("UPDATE counters SET total = total"))

    def failing() -> None:
        server.database.write(lambda db: db.execute("UPDATE counters SET total = total"))
        raise ZeroDivisionError

    ended = threading.Semaphore(0)
    commands = [Command(work, ended.release) for work in (good, *[failing] * 2000)]
    with server.disk.commit_held():
        server.post()
        assert server.disk.at_commit.wait(WAIT_S)
        for command in commands:
            server.database.put(command)
    for _ in commands:
        assert ended.acquire(timeout=WAIT_S)

    assert commands[0].outcome() is None
    assert len(carried_out) == 2
    assert {type(command.error) for command in commands[1:]} == {ZeroDivisionError}


@pytest.mark.parametrize("is_open", [False, True], ids=["after which none is open", "after which one is open"])
def test_a_rollback_that_fails_ends_neither_the_writer_nor_its_callers(server: Server, is_open: bool) -> None:
    """SQLite may report an error of the disk for it, too."""
    server.disk.failing |= {"COMMIT": FULL, "ROLLBACK": "disk I/O error"}
    posted = server.post()
    with pytest.raises(StorageUnavailable):
        posted.result(WAIT_S)
    if not is_open:
        server.disk._connection.execute("ROLLBACK")
    server.disk.failing.clear()

    tasks = [server.post(f"Say {n}.").result(WAIT_S) for n in range(2)]
    assert set(server.known()) == {task.ref for task in tasks}


def test_a_cancellation_that_is_not_committed_ends_no_engine_call(server: Server) -> None:
    """The task goes on, and its call would be paid again."""
    task = server.post().result(WAIT_S)
    server.engine.latency_s = 0.6
    working = server.pool.submit(server.work)
    while not server.engine.seen:
        threading.Event().wait(0.005)
    server.disk.failing["COMMIT"] = FULL

    with pytest.raises(StorageUnavailable):
        server.command(lambda: server.service.cancel(task.ref)).result(WAIT_S)
    server.disk.failing.clear()

    assert working.result(WAIT_S) == 1
    assert [ended.status for ended in server.told] == ["Completed"]
    assert len(server.engine.seen) == 1


def test_a_committed_cancellation_ends_the_engine_call(server: Server) -> None:
    task = server.post().result(WAIT_S)
    server.engine.latency_s = WAIT_S
    working = server.pool.submit(server.work)
    while not server.engine.seen:
        threading.Event().wait(0.005)

    server.command(lambda: server.service.cancel(task.ref)).result(WAIT_S)

    assert working.result(2) == 1, "long before the engine answers"
    assert server.store.peek(task.ref).status == "Cancelled"


def test_a_key_that_is_revoked_by_a_slow_commit_is_not_remembered_as_valid(server: Server) -> None:
    """A read during the commit finds the earlier key. Here the commit takes longer than changes are left uncached."""
    keys = server.service.keys
    now_ms = [1_000_000]
    keys._clock = keys._cache._clock = lambda: now_ms[0]
    key, token = keys.create("acme", ["tasks"])
    with server.disk.commit_held():
        revoking = server.command(lambda: keys.revoke(key.key_id))
        assert server.disk.at_commit.wait(WAIT_S)
        now_ms[0] += 60_000 // 2
        assert keys.caller(token).tenant == "acme"
    revoking.result(WAIT_S)

    with pytest.raises(Unauthenticated):
        keys.caller(token)
