"""The embedded server's use cases run off the event loop, and callers that wait for a task are told when it ends."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from llm_server.api.executor import Watch
from llm_server.embedded.executor import CHECKED_S, MAX_READ_THREADS, OffLoopExecutor
from llm_server.embedded.watches import Watches
from llm_server.orchestration.domain.errors import StorageMissing, StorageUnavailable, TaskNotFound
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import TaskRef
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.store import SqliteStore
from support.builders import NOW_MS, a_request, a_task, an_output, claimed
from support.scripted_engine import WAIT_S

LIMIT_S = 0.3


class Embedded:
    """A store, its executor, and the watches that the store tells."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.watches = Watches()
        self.database = Database(path)
        self.store = SqliteStore(self.database, on_end=self.watches.tell_end)
        self.now_s = 0.0
        self.run = OffLoopExecutor(self.database, self.watches, max_answer_s=LIMIT_S, clock_s=lambda: self.now_s)

    def close(self) -> None:
        self.run.close()
        self.database.close()

    def added(self, task_id: str = "t1") -> TaskRef:
        task = a_task(task_id)
        self.store.add(task, a_request())
        return task.ref

    def cancel(self, ref: TaskRef) -> None:
        task = self.store.peek(ref)
        self.store.save(task, task.cancelled(now_ms=NOW_MS))


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Embedded]:
    with closing(Embedded(tmp_path / "tasks.db")) as embedded:
        yield embedded


def thread_name() -> str:
    return threading.current_thread().name


def on_a_loop(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    async def limited() -> Any:
        return await asyncio.wait_for(main(), WAIT_S)

    return asyncio.run(limited())


def test_neither_reads_nor_writes_run_on_the_event_loop(embedded: Embedded) -> None:
    async def main() -> tuple[str, str, str]:
        reader, writer = await embedded.run.read(thread_name), await embedded.run.write(thread_name)
        return thread_name(), reader.partition("_")[0], writer

    assert on_a_loop(main) == ("MainThread", "reader", "writer")


def test_a_read_whose_caller_gave_up_is_not_begun(embedded: Embedded) -> None:
    """All reader threads are busy, and one more read waits for longer than its caller."""
    begun, end = list[str](), threading.Event()

    async def main() -> None:
        busy = [asyncio.create_task(embedded.run.read(partial(end.wait, WAIT_S))) for _ in range(MAX_READ_THREADS)]
        await asyncio.sleep(0)  # they begin
        with pytest.raises(StorageUnavailable):
            await embedded.run.read(partial(begun.append, "late"))
        end.set()
        await asyncio.gather(*busy, return_exceptions=True)
        await embedded.run.read(lambda: None)

    on_a_loop(main)

    assert begun == []


def test_a_write_is_stored_when_it_returns_and_raises_what_the_use_case_raises(embedded: Embedded) -> None:
    async def main() -> None:
        task = a_task()
        assert await embedded.run.write(lambda: embedded.store.add(task, a_request()))
        assert await embedded.run.read(lambda: embedded.store.peek(task.ref)) == task
        for run in (embedded.run.read, embedded.run.write):
            with pytest.raises(TaskNotFound):
                await run(lambda: embedded.store.peek(TaskRef("local", "t9")))

    on_a_loop(main)


def test_while_the_database_is_locked_writes_are_refused_in_time_and_the_loop_and_reads_go_on(
    embedded: Embedded,
) -> None:
    ref = embedded.added()

    async def main() -> None:
        began = time.monotonic()
        writes = [asyncio.ensure_future(embedded.run.write(partial(embedded.added, f"t{n}"))) for n in range(2, 40)]
        assert await embedded.run.read(lambda: embedded.store.peek(ref))
        await asyncio.sleep(0)
        assert time.monotonic() - began < LIMIT_S / 2
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {StorageUnavailable}
        assert time.monotonic() - began < 2 * LIMIT_S

    with closing(sqlite3.connect(embedded.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        on_a_loop(main)
        other.execute("ROLLBACK")
    assert embedded.added("t100")


def test_a_read_that_takes_too_long_is_refused_in_time(embedded: Embedded) -> None:
    end = threading.Event()

    async def main() -> None:
        with pytest.raises(StorageUnavailable):
            await embedded.run.read(lambda: end.wait(WAIT_S))
        end.set()
        assert await embedded.run.read(lambda: 7) == 7

    on_a_loop(main)


def test_many_writes_of_one_loop_are_all_answered(embedded: Embedded) -> None:
    async def main() -> None:
        embedded.run._max_answer_s = WAIT_S
        await asyncio.gather(*(embedded.run.write(partial(embedded.added, f"t{n}")) for n in range(300)))

    on_a_loop(main)
    assert embedded.store.overview()[0].total == 300


def a_watched_task(embedded: Embedded) -> tuple[TaskRef, Watch]:
    ref = embedded.added()
    return ref, embedded.run.watch(ref)


@pytest.mark.parametrize("is_deleted", [False, True])
def test_a_caller_is_told_of_the_end_after_the_commit(embedded: Embedded, is_deleted: bool) -> None:
    """It does not poll: it goes on as soon as the write is committed."""

    def end(ref: TaskRef) -> None:
        embedded.cancel(ref)
        if is_deleted:
            embedded.store.delete(embedded.store.peek(ref))

    async def main() -> None:
        ref, watch = await embedded.run.write(lambda: a_watched_task(embedded))
        waiting = asyncio.ensure_future(watch.ended(WAIT_S))
        await asyncio.sleep(0.05)
        assert not waiting.done()

        began = time.monotonic()
        await embedded.run.write(lambda: end(ref))

        ended = await waiting
        assert ended is not None
        assert (ended.task.ref, ended.task.status, ended.result) == (ref, Status.CANCELLED, None)
        assert time.monotonic() - began < 1

    on_a_loop(main)


@pytest.mark.parametrize("kept_before", [False, True])
def test_a_caller_is_told_the_answer_without_a_read(embedded: Embedded, kept_before: bool) -> None:
    """It may have been stored by an earlier claim whose worker died."""

    def complete(ref: TaskRef) -> None:
        processing, answer = claimed(embedded.store.peek(ref)), an_output()
        embedded.store.save(embedded.store.peek(ref), processing)
        if kept_before:
            embedded.store.keep(ref, answer)
        embedded.store.save(processing, processing.completed(answer), None if kept_before else answer)

    async def main() -> None:
        ref, watch = await embedded.run.write(lambda: a_watched_task(embedded))
        await embedded.run.write(lambda: complete(ref))

        ended = await watch.ended(WAIT_S)
        assert ended is not None
        assert (ended.task.status, ended.result) == (Status.COMPLETED, "Hello.")

    on_a_loop(main)


def test_an_end_between_the_write_and_the_wait_is_not_missed(embedded: Embedded) -> None:
    async def main() -> None:
        ref, watch = await embedded.run.write(lambda: a_watched_task(embedded))
        await embedded.run.write(lambda: embedded.cancel(ref))

        assert await watch.ended(WAIT_S)

    on_a_loop(main)


def test_each_of_several_callers_of_a_task_is_told(embedded: Embedded) -> None:
    async def main() -> None:
        ref, first = await embedded.run.write(lambda: a_watched_task(embedded))
        second = embedded.run.watch(ref)
        waiting = asyncio.gather(*(watch.ended(WAIT_S) for watch in (first, second)))
        await embedded.run.write(lambda: embedded.cancel(ref))

        first_ended, second_ended = await waiting
        assert first_ended == second_ended
        assert first_ended is not None

    on_a_loop(main)


def test_a_caller_whose_time_is_over_is_forgotten(embedded: Embedded) -> None:
    async def main() -> None:
        _, watch = await embedded.run.write(lambda: a_watched_task(embedded))

        assert not await watch.ended(0.01)
        assert embedded.watches.count == 0

    on_a_loop(main)


def test_a_use_case_that_fails_leaves_no_watch(embedded: Embedded) -> None:
    def failing() -> None:
        a_watched_task(embedded)
        raise ZeroDivisionError

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await embedded.run.write(failing)

    on_a_loop(main)
    assert embedded.watches.count == 0


def test_at_the_stop_all_who_wait_go_on_and_none_waits_any_more(embedded: Embedded) -> None:
    async def main() -> None:
        ref, watch = await embedded.run.write(lambda: a_watched_task(embedded))
        waiting = asyncio.ensure_future(watch.ended(WAIT_S))
        await asyncio.sleep(0)
        began = time.monotonic()

        embedded.watches.stop()

        assert not await waiting
        assert not await embedded.run.watch(ref).ended(WAIT_S)
        assert time.monotonic() - began < 1

    on_a_loop(main)


def test_health_tells_what_is_wrong_with_the_database_file(embedded: Embedded) -> None:
    """It reads no database, and is well again when the file is back. A check counts for a second, or until a fault."""
    away = embedded.path.with_name("away.db")

    async def main() -> None:
        await embedded.run.check_store()
        embedded.path.rename(away)
        embedded.now_s += CHECKED_S - 0.01
        await embedded.run.check_store()
        embedded.now_s += 0.01
        with pytest.raises(StorageMissing, match="was removed"):
            await embedded.run.check_store()
        away.rename(embedded.path)
        await embedded.run.check_store()
        embedded.path.rename(away)
        with pytest.raises(StorageMissing):
            await embedded.run.write(lambda: embedded.store.add(a_task(), a_request("Hello.")))
        with pytest.raises(StorageMissing):
            await embedded.run.check_store()

    on_a_loop(main)


def test_a_file_system_that_hangs_stops_neither_the_event_loop_nor_health(embedded: Embedded) -> None:
    """Nor do slow reads, which have threads of their own, delay the check."""
    end = threading.Event()
    check = embedded.database.check

    def hang() -> None:
        end.wait(WAIT_S)

    async def main() -> None:
        reads = [asyncio.ensure_future(embedded.run.read(partial(end.wait, WAIT_S))) for _ in range(MAX_READ_THREADS)]
        await asyncio.sleep(0)
        await embedded.run.check_store()
        embedded.now_s += CHECKED_S
        embedded.database.check = hang  # type: ignore[method-assign]
        with pytest.raises(StorageUnavailable):
            await embedded.run.check_store()
        embedded.database.check = check  # type: ignore[method-assign]
        end.set()
        await asyncio.gather(*reads, return_exceptions=True)

    on_a_loop(main)


def test_a_write_whose_caller_is_cancelled_is_not_begun(embedded: Embedded) -> None:
    """A caller that the stopping server lets go is told so, and its task is not stored behind its back."""
    begun, first_begun, end = list[str](), threading.Event(), threading.Event()

    def first() -> None:
        first_begun.set()
        end.wait(WAIT_S)

    async def main() -> None:
        embedded.run._max_answer_s = WAIT_S
        slow = asyncio.ensure_future(embedded.run.write(first))
        await asyncio.to_thread(first_begun.wait, WAIT_S)
        late = asyncio.ensure_future(embedded.run.write(partial(begun.append, "late")))
        await asyncio.sleep(0)
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late
        end.set()
        await slow
        await embedded.run.write(lambda: None)

    on_a_loop(main)

    assert begun == []
