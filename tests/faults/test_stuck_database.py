"""The embedded server while its database takes no writes: locked, on a slow disk, or on a full one; and its stop."""

from __future__ import annotations

import resource
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import urllib3

from faults.deployment import an_engine, hashed
from faults.engine import LONG
from faults.ledger import Ledger
from faults.struck_server import ORDERS
from faults.test_killed_server import done_twice, of_file, until_idle, variables, woken_again
from support.fake_engine import FakeEngine, fake_engine
from support.server_process import RunningServer, serving

CALLERS = 64
MAX_POST_S = 6.0
"""A caller waits 5 s for the database."""
MAX_READ_S = 1.0
HEALTH_P99_S = 0.5
"""On an idle machine 0.1 s; the table at the end has the measured time. The callers share the cores with the server."""
LOOK_S = 0.02
LEASE_S = 60
"""A worker keeps an answer that cannot be stored until its claim ends, so longer than the database takes no writes."""


@dataclass(slots=True)
class Call:
    """One call: how long it took, its status, and its Retry-After."""

    took_s: float
    status: int
    retry_after: str | None = None


@dataclass(slots=True)
class Callers:
    """Callers that post, and others that read, until the end of a block."""

    server: RunningServer
    acknowledged: dict[str, str] = field(default_factory=dict)
    posts: list[Call] = field(default_factory=list)
    reads: dict[str, list[Call]] = field(default_factory=dict)
    _done: threading.Event = field(default_factory=threading.Event)

    def call(self, method: str, path: str, body: object = None, *, wait_s: int = 0) -> tuple[Call, Any]:
        began = time.monotonic()
        answer = self.server.call(method, path, body, {"Prefer": f"wait={wait_s}"} if wait_s else None)
        return Call(time.monotonic() - began, answer.status, answer.headers.get("Retry-After")), answer.json()

    def post(self, prompt: str, *, wait_s: int = 0) -> tuple[Call, Any]:
        call, answer = self.call("POST", "/tasks", {"prompt": prompt, "mode": "Chat"}, wait_s=wait_s)
        if call.status in (200, 202):
            self.acknowledged[answer["task_id"]] = prompt
        return call, answer

    @contextmanager
    def calling(self, *paths: str) -> Iterator[None]:
        """Let 64 callers post, each again after its Retry-After, and one read each path, until the end of the block."""
        self._done.clear()
        with ThreadPoolExecutor(CALLERS + len(paths)) as pool:
            work = [pool.submit(self._read, path) for path in paths]
            work += [pool.submit(self._post, n) for n in range(CALLERS)]
            try:
                yield
            finally:
                self._done.set()
        for each in work:
            each.result()

    def _read(self, path: str) -> None:
        calls = self.reads.setdefault(path, [])
        while not self._done.wait(LOOK_S):
            calls.append(self.call("GET", path)[0])

    def _post(self, n: int) -> None:
        k = 0
        while not self._done.is_set():
            k += 1
            call, _ = self.post(f"Say {n} {k} {len(self.posts)}.")
            self.posts.append(call)
            self._done.wait(int(call.retry_after or 1))

    def alarms(self) -> Iterator[str]:
        """Yield answers that came late or are not allowed."""
        for call in self.posts:
            if call.took_s > MAX_POST_S:
                yield f"a POST took {call.took_s:.1f} s"
            if call.status not in (202, 503) or not call.retry_after:
                yield f"a POST was answered {call.status} with Retry-After {call.retry_after}"
        for path, calls in self.reads.items():
            yield from (f"{path} was answered {call.status}" for call in calls if call.status != 200)
            if max(call.took_s for call in calls) > MAX_READ_S:
                yield f"{path} took {max(call.took_s for call in calls):.2f} s"
        if (p99 := self.p99_s("/health")) > HEALTH_P99_S:
            yield f"/health had a p99 of {p99:.2f} s"

    def p99_s(self, path: str) -> float:
        took = sorted(call.took_s for call in self.reads[path])
        return took[len(took) * 99 // 100]

    def note(self) -> str:
        statuses = Counter(call.status for call in self.posts)
        return (
            f"POST {statuses[202]} x 202, {statuses[503]} x 503, {max(c.took_s for c in self.posts):.1f} s at most; "
            f"/health {len(self.reads['/health'])}, p99 {self.p99_s('/health') * 1000:.0f} ms"
        )


@dataclass(slots=True)
class Place:
    """A folder with a server's database, its engine, and the orders for its disk."""

    folder: Path
    engine: FakeEngine
    answered: Counter[str]

    @property
    def database(self) -> Path:
        return self.folder / "tasks.db"

    def order(self, text: str) -> None:
        (self.folder / "orders").write_text(text, encoding="utf-8")

    @contextmanager
    def serving(self) -> Iterator[Callers]:
        self.order("")
        changed = {"LLM_SERVER_LEASE_S": str(LEASE_S), ORDERS: str(self.folder / "orders")}
        with serving(self.database, env=variables(self.folder) | changed, program="faults.struck_server") as server:
            yield Callers(server)

    def alarms(self, callers: Callers) -> list[str]:
        """Return what is wrong in the database after the server has ended."""
        final = woken_again(self.database, variables(self.folder))
        return [*of_file(self.database, callers.acknowledged, self.answered, final), *done_twice(self.database)]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    answered = Counter[str]()

    def answer(asked: Any) -> str:
        answered[asked["messages"][-1]["content"]] += 1
        return hashed(asked)

    with fake_engine(answer=answer) as engine:
        (tmp_path / "engines.toml").write_text(an_engine(0, engine), encoding="utf-8")
        yield Place(tmp_path, engine, answered)


@contextmanager
def locked(place: Place, _: Callers) -> Iterator[None]:
    """Let another process, this one, hold the lock of the database."""
    with closing(sqlite3.connect(place.database, isolation_level=None, timeout=10)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def full(place: Place, _: Callers) -> Iterator[None]:
    place.order("full")
    yield
    place.order("")


@contextmanager
def unwritable(_: Place, callers: Callers) -> Iterator[None]:
    """Let the operating system refuse each write of the server to a file."""
    process = callers.server.process.pid
    resource.prlimit(process, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    yield
    resource.prlimit(process, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.mark.parametrize("stuck", [locked, full, unwritable])
@pytest.mark.parametrize("seconds", [3, pytest.param(10, marks=pytest.mark.attack)])
def test_a_database_that_takes_no_writes_for_a_while_loses_nothing_and_silences_nothing(
    place: Place, stuck: Callable[[Place, Callers], Any], seconds: int, ledger: Ledger
) -> None:
    """Writes get 503, reads go on; an answer that a worker has meanwhile is stored later and not bought again."""
    prompt = f"{LONG} while the database is stuck."
    with place.serving() as callers, ThreadPoolExecutor(1) as pool:
        _, before = callers.post("Say before.", wait_s=10)
        place.engine.latency_s = 1.0
        waiting = pool.submit(callers.post, prompt, wait_s=25)
        while len(place.engine.seen) < 2:
            time.sleep(0.01)
        place.engine.latency_s = 0.0
        with stuck(place, callers), callers.calling("/health", f"/tasks/{before['task_id']}"):
            time.sleep(seconds)
            refused = [call.status for call in callers.posts]
        waited, answer = waiting.result()
        after, _ = callers.post("Say after.", wait_s=20)
        until_idle(callers.server)
        found = [*callers.alarms()]

    found += place.alarms(callers)
    ledger.enter(f"{stuck.__name__} for {seconds} s", "SQLite", 1, found, callers.note())
    assert refused.count(503) >= CALLERS // 2, "writes were refused"
    assert (waited.status, answer["status"]) == (200, "Completed")
    assert waited.took_s > seconds - 1, "its end was stored when the database took writes again"
    assert after.status == 200
    assert place.answered[prompt] == 1


@pytest.mark.parametrize("slow_s", [2, pytest.param(8, marks=pytest.mark.attack)])
def test_a_slow_disk_silences_nothing_and_loses_nothing(place: Place, slow_s: int, ledger: Ledger) -> None:
    with place.serving() as callers:
        _, before = callers.post("Say before.", wait_s=10)
        place.order(f"slow {slow_s}")
        with callers.calling("/health", f"/tasks/{before['task_id']}"):
            time.sleep(3 * slow_s)
        place.order("")
        until_idle(callers.server)
        found = [*callers.alarms()]

    found += place.alarms(callers)
    ledger.enter(f"each commit takes {slow_s} s", "SQLite", 1, found, callers.note())
    assert ({202} if slow_s < MAX_POST_S / 2 else {503}) <= {call.status for call in callers.posts}


def test_a_server_that_is_stopped_under_load_lets_its_callers_go_and_keeps_their_tasks(
    place: Place, ledger: Ledger
) -> None:
    """Those that wait get their 202 at once, and the next start finishes what is not done."""
    place.engine.latency_s = 3.0
    with place.serving() as callers:
        with ThreadPoolExecutor(CALLERS) as pool:
            waiting = [pool.submit(callers.post, f"Say {n}.", wait_s=25) for n in range(CALLERS)]
            while len(place.engine.seen) < 8:
                time.sleep(0.01)
            began = time.monotonic()
            callers.server.process.send_signal(signal.SIGTERM)
            statuses, refused = Counter[int](), 0
            for each in waiting:
                try:
                    statuses[each.result()[0].status] += 1
                except urllib3.exceptions.HTTPError:
                    refused += 1
            let_go_s = time.monotonic() - began
        code = callers.server.process.wait(20)
    place.engine.latency_s = 0.0
    with place.serving() as again:
        until_idle(again.server)

    note = f"{statuses[202]} x 202 in {let_go_s:.1f} s, {refused} connections refused"
    ledger.enter("server stopped under load", "SQLite", 0, place.alarms(callers), note)
    assert code == 0
    assert statuses.keys() == {202}
    assert statuses[202] >= 8
    assert let_go_s < 2
