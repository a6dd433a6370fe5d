"""Store and keys of one process write to one file: none fails another, and none waits longer than its turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from llm_server.storage.sqlite.api_keys import SqliteKeys
from llm_server.storage.sqlite.database import BUSY_S, Database
from llm_server.storage.sqlite.store import SqliteStore
from llm_server.storage.sqlite.write_turns import Turns, turns_of
from support.builders import a_key, a_request, a_task
from support.scripted_engine import WAIT_S


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    with closing(SqliteStore(path)) as store:
        yield store


@contextmanager
def somebody_writing(path: Path) -> Iterator[threading.Event]:
    """A transaction on a connection of its own, until the event is set or the block ends."""
    begun, end = threading.Event(), threading.Event()

    def write() -> None:
        with closing(Database(path, durable=True)) as database, database.transaction():
            begun.set()
            end.wait(WAIT_S)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        assert begun.wait(WAIT_S)
        try:
            yield end
        finally:
            end.set()
            writing.result(WAIT_S)


def test_a_writer_waits_for_another_of_its_process_as_long_as_it_takes(path: Path, store: SqliteStore) -> None:
    """A disk may be slow, and 64 workers come first; SQLite's own patience is for other processes."""
    task = a_task()
    with closing(SqliteKeys(path)) as keys, ThreadPoolExecutor(2) as pool:
        with somebody_writing(path):
            each: list[Future[Any]] = [
                pool.submit(store.add, task, a_request()),
                pool.submit(keys.add_key, a_key()),
            ]
            time.sleep(BUSY_S + 0.3)
            assert not any(future.done() for future in each)
        for future in each:
            future.result(WAIT_S)

    assert store.peek(task.ref) == task


def test_another_name_for_the_file_has_the_same_turns(tmp_path: Path, path: Path, store: SqliteStore) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(path)

    with closing(SqliteKeys(link)) as keys, ThreadPoolExecutor(1) as pool:
        with somebody_writing(path):
            added = pool.submit(keys.add_key, a_key())
            time.sleep(BUSY_S + 0.3)
        added.result(WAIT_S)


def test_turns_are_taken_in_the_order_they_were_asked_for_the_brief_ones_first() -> None:
    """A brief writer does not wait for the disk, so it hardly delays the others; HTTP calls and workers wait for it."""
    turns, order = Turns(), list[str]()

    def take(name: str) -> None:
        with turns.turn(brief=name.startswith("brief")):
            order.append(name)

    names = ["first", "brief 1", "second", "third", "brief 2"]
    with ThreadPoolExecutor(len(names)) as pool, turns.turn(brief=False):
        for n, name in enumerate(names, 1):
            pool.submit(take, name)
            until(lambda: turns.waiting == n)  # noqa: B023

    assert order == ["brief 1", "brief 2", "first", "second", "third"]


def test_a_turn_that_fails_is_handed_over() -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError), turns.turn(brief=False):
        _ = 1 / 0

    with turns.turn(brief=False):
        assert turns.waiting == 0


def test_files_have_turns_of_their_own(tmp_path: Path) -> None:
    first = turns_of(tmp_path / "a.db")

    assert turns_of(tmp_path / "a.db") is first
    assert turns_of(tmp_path / "b.db") is not first


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.001)
