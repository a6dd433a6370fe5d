"""What the embedded store promises beyond the contract: one process, no lost write, a file that always opens."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sqlite3
import subprocess
import threading
from contextlib import AbstractContextManager, closing
from itertools import pairwise
from pathlib import Path

import pytest
from msgspec.structs import replace

from llm_server.orchestration.domain.engines.state import EngineSwitch
from llm_server.orchestration.domain.errors import ConfigurationError, RecordUnreadable, StorageUnavailable, TaskLost
from llm_server.orchestration.domain.ports.listing import EVERY_TASK, Page, TaskFilter
from llm_server.orchestration.domain.ports.tasks import Due
from llm_server.orchestration.domain.status import Mode, Priority, Status
from llm_server.orchestration.domain.task import TaskRef
from llm_server.storage.memory_queue import WakeUpQueue
from llm_server.storage.sqlite import task_rows
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.file.process_lock import OnlyProcess
from llm_server.storage.sqlite.indexes import (
    LISTED,
    LISTING_BOUNDS,
    MAX_COMPARED,
    OTHERS_DUE,
    OWNED,
    SURE_DUE,
    WAKE_UPS,
)
from llm_server.storage.sqlite.store import SqliteStore
from support.audit import audit
from support.builders import LEASE_MS, NOW_MS, SWEEP_MS, a_failure, a_request, a_task, an_output, claimed
from support.holders import holding

STARTS: tuple[tuple[str, tuple[int, ...]], ...] = ((WAKE_UPS, (0, 0)), (OWNED, ()))
"""The queries of a start, with parameters."""

HOLDER = """
import sys
from pathlib import Path
from llm_server.storage.sqlite.file.process_lock import OnlyProcess
only = OnlyProcess(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def a_process_that_holds(path: Path) -> AbstractContextManager[subprocess.Popen[str]]:
    """Another Python that has the database."""
    return holding(HOLDER, path)


def test_a_database_belongs_to_one_process(tmp_path: Path) -> None:
    path = tmp_path / "new" / "tasks.db"

    with a_process_that_holds(path), pytest.raises(ConfigurationError, match="in use by another server"):
        OnlyProcess(path)


def test_a_killed_process_lets_go_of_its_database(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    with a_process_that_holds(path) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()

        OnlyProcess(path).close()


def test_a_database_that_was_released_can_be_held_again(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    first = OnlyProcess(path)
    with pytest.raises(ConfigurationError):
        OnlyProcess(path)
    first.close()

    OnlyProcess(path).close()


def test_a_path_that_cannot_be_opened_is_a_wrong_setting(tmp_path: Path) -> None:
    """A folder in its place, a file where a folder should be, a file that is not a database."""
    (tmp_path / "notes.txt").write_text("This is not a database." * 1_000)
    (tmp_path / "folder.lock").mkdir()

    for path in (tmp_path, tmp_path / "notes.txt" / "tasks.db", tmp_path / "notes.txt"):
        with pytest.raises(ConfigurationError, match="cannot be opened"):
            SqliteStore(Database(path))
    for path in (tmp_path / "folder", tmp_path / "notes.txt" / "tasks.db"):
        with pytest.raises(ConfigurationError, match="cannot be opened"):
            OnlyProcess(path)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_disk_without_locks_is_told_from_another_server(tmp_path: Path, number: int) -> None:
    """As on some network disks: to look for a server that runs would be in vain."""
    asked: list[int] = []

    def flock(descriptor: int, operation: int) -> None:
        asked.append(descriptor)
        raise OSError(number, os.strerror(number))

    with pytest.raises(ConfigurationError) as refused:
        OnlyProcess(tmp_path / "tasks.db", flock=flock)

    cause = f"its lock file cannot be locked: [Errno {number}] {os.strerror(number)}"
    assert str(refused.value) == f"The database {tmp_path / 'tasks.db'} cannot be opened: {cause}."
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(asked[0])


def test_a_restart_ends_the_leases_of_the_process_before(sqlite_store: SqliteStore) -> None:
    """The workers of the process before are gone. Queued and final tasks do not change."""
    store = sqlite_store
    queued, processing, planned, failed = (a_task(mode=Mode.PLAN) for _ in range(4))
    for task in (queued, processing, planned, failed):
        store.add(task, a_request())
    for task in (processing, planned, failed):
        store.save(task, claimed(task))
    plan, failure = an_output("PLAN", "{}"), a_failure()
    store.save(claimed(planned), claimed(planned).progressed(plan), plan)
    store.save(claimed(failed), claimed(failed).failed(failure), failure)

    assert store.end_leases(NOW_MS + 5) == 2

    assert {due.ref for due in store.due(NOW_MS + 5)} == {processing.ref, planned.ref}
    assert store.peek(queued.ref) == queued
    assert store.peek(failed.ref) == claimed(failed).failed(failure)
    again = claimed(store.peek(planned.ref), now_ms=NOW_MS + 5, owner="w2", has_plan=True)
    store.save(store.peek(planned.ref), again)
    assert (again.status, again.fence) == (Status.PLANNED, 2)
    audit(store, [task.ref for task in (queued, processing, planned, failed)])


def test_a_worker_whose_lease_was_ended_writes_nothing(sqlite_store: SqliteStore) -> None:
    task = a_task()
    sqlite_store.add(task, a_request())
    sqlite_store.save(task, claimed(task))
    sqlite_store.end_leases(NOW_MS + LEASE_MS // 2)

    with pytest.raises(TaskLost):
        sqlite_store.save(claimed(task), claimed(task).failed(a_failure()), a_failure())


def test_a_cancelled_task_whose_worker_was_killed_can_be_deleted_after_the_next_start(
    sqlite_store: SqliteStore,
) -> None:
    """No worker is left that could record its cost, so it need not wait for the end of the lease."""
    task = a_task()
    cancelled = claimed(task).cancelled(now_ms=NOW_MS)
    sqlite_store.add(task, a_request())
    sqlite_store.save(task, claimed(task))
    sqlite_store.save(claimed(task), cancelled)

    assert (cancelled.has_worker(NOW_MS + 5), sqlite_store.end_leases(NOW_MS + 5)) == (True, 1)
    assert not sqlite_store.peek(task.ref).has_worker(NOW_MS + 5)
    assert list(sqlite_store.due(NOW_MS + LEASE_MS)) == []
    audit(sqlite_store, [task.ref])


def refilled(store: SqliteStore, now_ms: int = NOW_MS) -> list[str]:
    """Return the messages of a new process that are visible at once, in their order."""
    queue = WakeUpQueue(lambda: now_ms)
    queue.refill(store.wake_ups(SWEEP_MS))
    return [str(message.ref) for message in iter(lambda: queue.receive(0), None)]


def test_each_queued_task_gets_a_message_at_the_next_start_the_oldest_first(sqlite_store: SqliteStore) -> None:
    """The messages of the process before are gone with it. A final task needs none, nor one that waits for approval."""
    tasks = [a_task(f"t{n}", tenant=f"tenant-{n % 2}", mode=Mode.PLAN) for n in range(5)]
    final, stopped = a_task(), a_task(mode=Mode.PLAN)
    for task in (*reversed(tasks), final, stopped):
        sqlite_store.add(task, a_request())
    sqlite_store.save(final, claimed(final).failed(a_failure()))
    plan = an_output("PLAN", "{}")
    sqlite_store.save(stopped, claimed(stopped).awaiting_approval(plan, due_ms=NOW_MS + SWEEP_MS), plan)

    assert refilled(sqlite_store) == [str(task.ref) for task in tasks]


@pytest.mark.parametrize(
    "damage",
    [
        """UPDATE tasks SET body = '{"notes": [["r", 1]]}' WHERE task_id = 't1'""",
        "UPDATE tasks SET task_id = 't/1' WHERE task_id = 't1'",
    ],
    ids=["no times", "no name"],
)
def test_a_damaged_record_keeps_no_other_task_from_its_message(sqlite_store: SqliteStore, damage: str) -> None:
    """Nor does it keep the server from starting."""
    damaged, sound = a_task("t1"), a_task("t2")
    for task in (damaged, sound):
        sqlite_store.add(task, a_request())
    sqlite_store._database.write(lambda db: db.execute(damage))
    sqlite_store.end_leases(NOW_MS)

    assert refilled(sqlite_store)[-1] == str(sound.ref)


def test_a_task_whose_worker_was_killed_goes_on_before_those_that_were_not_begun(sqlite_store: SqliteStore) -> None:
    """It has waited longer. Until `end_leases` the message would come too early; the sweep finds the task as well."""
    queued, processing, planned = (a_task(f"t{n}", mode=Mode.PLAN) for n in range(3))
    for task in (queued, processing, planned):
        sqlite_store.add(task, a_request())
    sqlite_store.save(processing, claimed(processing))
    plan = an_output("PLAN", "{}")
    sqlite_store.save(planned, claimed(planned).progressed(plan), plan)
    sqlite_store.end_leases(NOW_MS)

    assert refilled(sqlite_store) == [str(task.ref) for task in (processing, planned, queued)]
    assert {due.ref for due in sqlite_store.due(NOW_MS)} == {processing.ref, planned.ref}


def test_a_released_task_is_not_tried_before_its_time_after_a_restart(sqlite_store: SqliteStore) -> None:
    """An engine that failed is left alone. A task that was approved or retried since is not delayed."""
    released, approved = a_task("t1"), a_task("t2", mode=Mode.PLAN)
    plan, failure = an_output("PLAN", "{}"), a_failure()
    waiting = claimed(released).released(failure, due_ms=failure.created_ms + 40_000 + SWEEP_MS)
    go = claimed(approved).awaiting_approval(plan, due_ms=NOW_MS + SWEEP_MS)
    for task, after, output in ((released, waiting, failure), (approved, go, plan)):
        sqlite_store.add(task, a_request())
        sqlite_store.save(task, after, output)
    sqlite_store.save(go, go.approved(now_ms=NOW_MS, due_ms=NOW_MS + 10 * SWEEP_MS))

    assert refilled(sqlite_store, failure.created_ms + 39_999) == [str(approved.ref)]
    assert refilled(sqlite_store, failure.created_ms + 40_000) == [str(released.ref), str(approved.ref)]


def test_a_shorter_sweep_setting_does_not_hold_a_released_task_back(sqlite_store: SqliteStore) -> None:
    """The state has the sum of the delay and the setting of its time. No delay is longer than 15 minutes."""
    task, failure = a_task(), a_failure()
    sqlite_store.add(task, a_request())
    sqlite_store.save(task, claimed(task).released(failure, due_ms=failure.created_ms + 5_000 + 3_600_000), failure)

    assert refilled(sqlite_store, failure.created_ms + 900_000) == [str(task.ref)]


def test_the_message_of_a_new_process_has_the_tasks_priority(sqlite_store: SqliteStore) -> None:
    """Metadata that look like a priority are the caller's."""
    look = {"priority": "batch"}
    tasks = [a_task("t1"), a_task("t2", priority=Priority.BATCH), a_task("t3", metadata=look)]
    for task in tasks:
        sqlite_store.add(task, a_request())

    assert [priority for *_, priority in sqlite_store.wake_ups(SWEEP_MS)] == ["interactive", "batch", "interactive"]


def test_a_start_reads_no_task_that_has_ended(sqlite_store: SqliteStore) -> None:
    """There may be millions of them."""
    with sqlite_store._database.reading() as db:
        plans = [db.execute(f"EXPLAIN QUERY PLAN {query}", given).fetchall() for query, given in STARTS]

    for plan in plans:
        reads = [detail for *_, detail in plan if "tasks" in detail and "COVERING" not in detail]
        assert reads == ["SEARCH tasks USING INDEX by_facets (tenant=? AND facets>? AND facets<?)"]


def test_what_is_acknowledged_is_on_the_disk_itself(tmp_path: Path) -> None:
    """On macOS, fsync alone leaves it in the disk's cache."""
    names = ("synchronous", "fullfsync")
    with closing(Database(tmp_path / "tasks.db")) as database:
        found = database.write(lambda db: [db.execute(f"PRAGMA {name}").fetchone()[0] for name in names])

    full = 2
    assert found == [full, 1]


def test_a_cancelled_task_whose_worker_was_killed_gets_a_message_at_the_next_start(sqlite_store: SqliteStore) -> None:
    """The cost of its calls must be recorded. A task that had no worker, or is settled, needs no message."""
    begun, untouched, settled = a_task(), a_task(), a_task()
    ends = {task.task_id: claimed(task).cancelled(now_ms=NOW_MS) for task in (begun, settled)}
    ends[settled.task_id] = ends[settled.task_id].settled(a_failure())
    ends[untouched.task_id] = untouched.cancelled(now_ms=NOW_MS)
    for task in (begun, untouched, settled):
        sqlite_store.add(task, a_request())
        sqlite_store.save(task, ends[task.task_id])

    assert refilled(sqlite_store) == [str(begun.ref)]


def test_what_was_acknowledged_is_there_after_a_restart(tmp_path: Path) -> None:
    task = a_task()
    with closing(SqliteStore(Database(tmp_path / "tasks.db"))) as first:
        first.add(task, a_request())
        first.save(task, claimed(task))

    with closing(SqliteStore(Database(tmp_path / "tasks.db"))) as second:
        assert second.peek(task.ref) == claimed(task)
        audit(second, [task.ref])


def copied(path: Path, to: Path) -> Path:
    """What a power cut leaves: the database and its log in the middle of a write, without the shared memory."""
    to.mkdir()
    for name in (f"{path.name}-wal", path.name):  # the log first: a checkpoint in between only makes it superfluous
        if (path.parent / name).exists():
            shutil.copyfile(path.parent / name, to / name)
    return to / path.name


def test_a_database_from_a_power_cut_opens_with_all_that_was_acknowledged(tmp_path: Path) -> None:
    path, acknowledged, enough = tmp_path / "tasks.db", list[TaskRef](), threading.Event()
    store = SqliteStore(Database(path))

    def write() -> None:
        while not enough.is_set():
            task = a_task()
            store.add(task, a_request())
            acknowledged.append(task.ref)

    writer = threading.Thread(target=write)
    writer.start()
    while len(acknowledged) < 20:
        enough.wait(0.001)
    before = list(acknowledged)
    cut = copied(path, tmp_path / "cut")
    enough.set()
    writer.join()
    store.close()

    with closing(SqliteStore(Database(cut))) as after:
        assert {after.peek(ref).status for ref in before} == {Status.QUEUED}
        total = after.overview()[0].total
        assert len(before) <= total <= len(acknowledged)
        assert len(list(after.due(NOW_MS + SWEEP_MS))) == total


@pytest.mark.parametrize("lost_bytes", [1, 100, 4_096, 5_000, 20_000, 10**9])
def test_a_log_that_was_cut_short_loses_whole_writes_only(tmp_path: Path, lost_bytes: int) -> None:
    """The end of the log never reached the disk: each task is there with its count, or neither is."""
    path, refs = tmp_path / "tasks.db", [TaskRef("local", f"t{n}") for n in range(20)]
    with closing(SqliteStore(Database(path))) as store:
        for ref in refs:
            store.add(a_task(ref.task_id), a_request())
        cut = copied(path, tmp_path / "cut")
    log = cut.with_name("tasks.db-wal")
    log.write_bytes(log.read_bytes()[:-lost_bytes])

    with closing(SqliteStore(Database(cut))) as after:
        listed = after.page("local", size=100).tasks
        audit(after, [task.ref for task in listed])


def test_a_write_that_fails_midway_writes_nothing(tmp_path: Path) -> None:
    """Here the counters are gone when a task is to be counted; the task is not stored either."""
    path, task = tmp_path / "tasks.db", a_task()
    with closing(SqliteStore(Database(path))) as store:
        with closing(sqlite3.connect(path)) as other:
            other.execute("ALTER TABLE counters RENAME TO elsewhere")

        with pytest.raises(StorageUnavailable):
            store.add(task, a_request())

        with closing(sqlite3.connect(path)) as other:
            assert other.execute("SELECT count(*) FROM tasks").fetchone() == (0,)
            other.execute("ALTER TABLE elsewhere RENAME TO counters")
        store.add(task, a_request())
        audit(store, [task.ref])


def test_a_closed_database_is_an_unavailable_store(tmp_path: Path) -> None:
    store = SqliteStore(Database(tmp_path / "tasks.db"))
    store.close()

    with pytest.raises(StorageUnavailable):
        store.peek(TaskRef("local", "t1"))
    with pytest.raises(StorageUnavailable):
        store.add(a_task(), a_request())


def test_prompts_and_answers_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "tasks.db"
    with closing(SqliteStore(Database(path))) as store:
        store.add(a_task(), a_request())

        modes = {file.name: file.stat().st_mode & 0o077 for file in (path.parent, *path.parent.iterdir())}

    assert modes == dict.fromkeys(["new", "tasks.db", "tasks.db-wal", "tasks.db-shm", "tasks.db.marker"], 0)


def test_another_name_for_the_file_is_the_same_database(tmp_path: Path) -> None:
    """A second server would take the first one's running tasks for abandoned."""
    path, link = tmp_path / "tasks.db", tmp_path / "link.db"
    only = OnlyProcess(path)
    path.touch()
    link.symlink_to(path)

    with pytest.raises(ConfigurationError, match="in use by another server"):
        OnlyProcess(link)
    only.close()


@pytest.mark.parametrize("made_by", ["CREATE TABLE counters (id, foo)", "PRAGMA user_version = 99"])
def test_a_file_that_is_not_ours_is_a_wrong_setting(tmp_path: Path, made_by: str) -> None:
    """Nothing is written into the database of another program."""
    path = tmp_path / "theirs.db"
    with closing(sqlite3.connect(path)) as theirs:
        theirs.execute(made_by)
        theirs.commit()

    with pytest.raises(ConfigurationError, match="not made by this version"):
        SqliteStore(Database(path))


def test_a_file_from_before_engines_were_switched_goes_on_to_work(tmp_path: Path) -> None:
    """It lacks the table; opened, it has it, and keeps what it held."""
    path, task = tmp_path / "tasks.db", a_task()
    with closing(SqliteStore(Database(path))) as store:
        store.add(task, a_request())
    with closing(sqlite3.connect(path)) as before:
        before.execute("DROP TABLE switches")
        before.execute("PRAGMA user_version = 1")

    with closing(SqliteStore(Database(path))) as store:
        store.switch_engine("gpt", {"locked": True})
    with closing(SqliteStore(Database(path))) as store:
        assert store.engines().switches == {"gpt": EngineSwitch(locked=True)}
        audit(store, [task.ref])


def test_a_record_of_a_newer_version_stops_neither_a_start_nor_a_sweep(tmp_path: Path) -> None:
    """It moves on without being read."""
    with closing(SqliteStore(Database(tmp_path / "tasks.db"))) as store:
        strange, deserted = a_task(), a_task()
        for task in (strange, deserted):
            store.add(task, a_request())
            store.save(task, claimed(task))
        with closing(sqlite3.connect(tmp_path / "tasks.db")) as newer:
            newer.execute('UPDATE tasks SET body = \'{"mode":"Debate"}\' WHERE task_id = ?', (strange.task_id,))
            newer.commit()
        due = Due(strange.ref, NOW_MS + SWEEP_MS)

        assert store.end_leases(NOW_MS) == 1
        assert store.peek_each([strange.ref, a_task().ref]) == {strange.ref: None}
        assert store.postpone(due, None, NOW_MS + 2 * SWEEP_MS)
        assert not store.postpone(due, None, NOW_MS + 2 * SWEEP_MS)
        assert [each.ref for each in store.due(NOW_MS + SWEEP_MS)] == [deserted.ref]


def test_a_listing_leaves_out_what_it_cannot_read(tmp_path: Path) -> None:
    """And fills the page with others."""
    with closing(SqliteStore(Database(tmp_path / "tasks.db"))) as store:
        tasks = [a_task(f"t{n}") for n in range(4)]
        for task in tasks:
            store.add(task, a_request())
        with closing(sqlite3.connect(tmp_path / "tasks.db")) as newer:
            newer.execute('UPDATE tasks SET body = \'{"mode":"Debate"}\' WHERE task_id = ?', ("t2",))
            newer.commit()

        first = store.page("local", size=2)
        second = store.page("local", size=2, token=first.next_token)

    assert [[task.task_id for task in page.tasks] for page in (first, second)] == [["t3", "t1"], ["t0"]]
    assert second.next_token == ""


def test_a_listing_reads_its_tasks_in_order_from_an_index(sqlite_store: SqliteStore) -> None:
    with sqlite_store._database.reading() as db:
        plan = " ".join(row[-1] for row in db.execute(f"EXPLAIN QUERY PLAN {LISTED}", ("local", "0", ":")))

    assert "USING INDEX listing (tenant=? AND listing>? AND listing<?)" in plan
    assert "TEMP B-TREE" not in plan


EVERY_KIND = {
    "none": EVERY_TASK,
    "statuses": TaskFilter(statuses=frozenset({Status.QUEUED, Status.FAILED})),
    "every task": TaskFilter(awaiting_approval=False),
    "approval": TaskFilter(awaiting_approval=True),
    "role": TaskFilter(role="Other-Agent"),
    "mode": TaskFilter(mode=Mode.AGENT),
    "engine": TaskFilter(engine="other"),
    "common values that no task has together": TaskFilter(role="Chat-Agent", mode=Mode.PLAN),
    "range": TaskFilter(created_from_ms=NOW_MS + 1_000, created_to_ms=NOW_MS + 1_200, engine="other"),
    "metadata": TaskFilter(metadata={"project": "atlas"}),
    "metadata that no task has": TaskFilter(metadata={"project": "other"}),
    "metadata and facets": TaskFilter(metadata={"project": "atlas"}, mode=Mode.PLAN, role="Chat-Agent"),
    "metadata and status": TaskFilter(metadata={"project": "atlas"}, statuses=frozenset({Status.FAILED})),
    "a rare pair and a common one": TaskFilter(metadata={"project": "atlas", "run": "1"}),
    "common pairs that no task has together": TaskFilter(metadata={"project": "atlas", "team": "blue"}),
}


def test_a_page_costs_the_same_however_many_tasks_there_are(tmp_path: Path) -> None:
    """Counted in instructions of SQLite's virtual machine: each row that it looks at takes some."""
    steps = []
    for total in (6_000, 12_000):
        with closing(SqliteStore(Database(tmp_path / f"{total}.db"))) as store:
            fill(store, total)
            steps.append({name: steps_of_a_page(store, wanted) for name, wanted in EVERY_KIND.items()})

    few, many = steps
    pairs = many.pop("common pairs that no task has together")
    assert many == pytest.approx({name: few[name] for name in many}, rel=0.01, abs=20)
    assert pairs == pytest.approx(few["common pairs that no task has together"], rel=0.1)
    assert max(many.values()) < 10_000
    assert pairs < 80 * MAX_COMPARED * LISTING_BOUNDS.max_call / LISTING_BOUNDS.max_round


RARE: list[tuple[dict[str, object], TaskFilter]] = [
    ({"role": "Rare-Agent"}, TaskFilter(role="Rare-Agent")),
    ({"mode": Mode.AGENT}, TaskFilter(mode=Mode.AGENT)),
    ({"engine": "rare"}, TaskFilter(engine="rare", statuses=frozenset({Status.FAILED}))),
    ({"metadata": {"run": "rare"}}, TaskFilter(metadata={"run": "rare"})),
    (
        {"metadata": {"run": "rare", "project": "atlas"}, "role": "Rare-Agent"},
        TaskFilter(metadata={"run": "rare", "project": "atlas"}, role="Rare-Agent"),
    ),
    (
        {"status": Status.PLANNED, "approval": "awaited", "finished_ms": None, "metadata": {"project": "atlas"}},
        TaskFilter(awaiting_approval=True, metadata={"project": "atlas"}),
    ),
]


def test_the_oldest_of_many_tasks_is_found_by_one_call(tmp_path: Path) -> None:
    """A call reads the states of far fewer tasks."""
    with closing(SqliteStore(Database(tmp_path / "tasks.db"))) as store:
        fill(store, 5 * LISTING_BOUNDS.max_call)
        for n, (values, wanted) in enumerate(RARE):
            rare = a_task(f"rare{n}", created_ms=NOW_MS - n)
            rare = replace(rare, **{"status": Status.FAILED, "finished_ms": NOW_MS} | values)
            store.add(rare, a_request())

            assert store.page("local", size=10, task_filter=wanted) == Page([rare], ""), wanted


def test_two_common_labels_are_compared_over_several_calls(tmp_path: Path) -> None:
    """A page is then empty and has a token; the task with both is found in the end."""
    with closing(SqliteStore(Database(tmp_path / "tasks.db"))) as store:
        both = a_task("both", created_ms=NOW_MS - 1, metadata={"project": "atlas", "team": "blue"})
        store.add(both, a_request())
        fill(store, 5 * MAX_COMPARED * LISTING_BOUNDS.max_call // LISTING_BOUNDS.max_round)
        wanted, token, pages = TaskFilter(metadata=both.metadata), "", list[Page]()
        while token or not pages:
            pages.append(store.page("local", size=10, token=token, task_filter=wanted))
            token = pages[-1].next_token

    assert [page.tasks for page in pages if page.tasks] == [[both]]
    assert 2 <= len(pages) <= 8


def test_metadata_is_found_whatever_a_task_goes_through(tmp_path: Path) -> None:
    """Its labels move when it ends, when it is retried, and go with it when it is deleted."""
    with closing(SqliteStore(Database(tmp_path / "tasks.db"))) as store:
        new = a_task(metadata={"run": "1", "project": "atlas"})
        store.add(new, a_request())
        failure, processing = a_failure(), claimed(new)
        failed = processing.failed(failure)
        again = failed.retried(now_ms=NOW_MS, due_ms=NOW_MS, deadline_ms=None)
        ended = again.cancelled(now_ms=NOW_MS)
        kinds = [TaskFilter(metadata={"run": "1"}), TaskFilter(metadata=new.metadata, role=new.role, mode=new.mode)]
        for before, after in pairwise((new, processing, failed, again, ended)):
            store.save(before, after, failure if after is failed else None)
            for wanted in (*kinds, replace(kinds[0], statuses=frozenset({after.status}))):
                assert store.page("local", size=9, task_filter=wanted).tasks == [after]
        store.delete(ended)
        with store._database.reading() as db:
            (labels,) = db.execute("SELECT count(*) FROM labels").fetchone()

    assert labels == 0


def fill(store: SqliteStore, total: int) -> None:
    """Completed tasks in a tenant, without requests and counters; a few are still Queued."""

    def work(db: sqlite3.Connection) -> None:
        for n in range(total):
            metadata = {"project": "atlas", "run": str(n)} if n % 2 else {"team": "blue"}
            task = a_task(f"t{n}", created_ms=NOW_MS + n, metadata=metadata)
            task = replace(task, mode=Mode.PLAN, role="Plan-Agent") if n % 3 else task
            if n >= 20:
                task = replace(task, status=Status.COMPLETED, finished_ms=NOW_MS + n)
            task_rows.insert(db, task, a_request())

    store._database.write(work)


def steps_of_a_page(store: SqliteStore, task_filter: TaskFilter) -> int:
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    with store._database.reading() as db:
        db.set_progress_handler(count, 1)
    store.page("local", size=10, task_filter=task_filter)
    with store._database.reading() as db:
        db.set_progress_handler(None, 0)
    return steps


@pytest.mark.parametrize(("query", "index"), [(SURE_DUE, "sure"), (OTHERS_DUE, "open")])
def test_what_is_due_is_found_without_a_scan_or_a_sort(tmp_path: Path, query: str, index: str) -> None:
    """Also in a file that was made before there was an index for it."""
    with closing(SqliteStore(Database(tmp_path / "tasks.db"))):
        pass
    with closing(sqlite3.connect(tmp_path / "tasks.db")) as before:
        before.execute("DROP INDEX sure")
        before.execute("PRAGMA user_version = 1")
    with closing(SqliteStore(Database(tmp_path / "tasks.db"))):
        pass

    with closing(sqlite3.connect(tmp_path / "tasks.db")) as db:
        plan = " ".join(row[-1] for row in db.execute(f"EXPLAIN QUERY PLAN {query}", (0, 0, "", "")))
    assert f"USING INDEX {index}" in plan
    assert "TEMP B-TREE" not in plan


def test_tasks_of_an_earlier_process_are_due_before_what_merely_waits(tmp_path: Path) -> None:
    with closing(SqliteStore(Database(tmp_path / "tasks.db"))) as store:
        deserted = a_task()
        for task in (a_task(), a_task(), deserted):
            store.add(task, a_request())
        store.save(deserted, claimed(deserted))
        store.end_leases(NOW_MS + SWEEP_MS + 1)

        assert next(store.due(NOW_MS + SWEEP_MS + 1)).ref == deserted.ref


def test_a_state_that_is_not_json_is_in_no_other_tasks_way(tmp_path: Path) -> None:
    """Of a damaged file: the others are listed, and a server can start."""
    path = tmp_path / "tasks.db"
    store = SqliteStore(Database(path))
    damaged, other, queued, damaged_queued = (a_task(f"t{n}") for n in range(4))
    for task in (damaged, other, queued, damaged_queued):
        store.add(task, a_request())
    for task in (damaged, other):
        store.save(task, claimed(task))
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP INDEX sure")  # SQLite would refuse the damage, because this index reads the state
        for task in (damaged, damaged_queued):
            db.execute("UPDATE tasks SET body = '{broken' WHERE task_id = ?", (task.task_id,))
        db.commit()

    page = store.page("local", size=9)
    ended = store.end_leases(NOW_MS + 1)
    messages = refilled(store)

    assert [task.task_id for task in page.tasks] == [queued.task_id, other.task_id]
    assert messages == [str(other.ref), str(queued.ref), str(damaged_queued.ref)]
    assert ended == 1
    assert store.peek(other.ref).lease_ms == NOW_MS + 1
    with pytest.raises(RecordUnreadable):
        store.get(damaged.ref)
    store.close()
