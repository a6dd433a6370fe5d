"""Each kind of fault at each single AWS call of real processes: the API's for a POST, the worker's for its task."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from aws_local import schedule
from aws_local.pump import Pump
from faults.audits import miscounted, of_processes, of_queues, snapshots_of
from faults.deployment import Deployment, deployed, hashed
from faults.kinds import PROMISED, Kind
from faults.ledger import Ledger
from faults.proxy import Fate
from support import fake_engine
from support.aws_emulators import Substrate as Emulator

LEASE_S, VISIBILITY_S = 5, 7
"""The shortest lease there is."""
IN_TIME_S = LEASE_S + 60
CALLS = {
    "api": ["GetItem", "PutItem", "TransactWriteItems", "SendMessage"],
    "worker": ["GetItem", "Query", "TransactWriteItems", "PutItem", "TransactWriteItems"],
}
"""The calls for a POST: the key, the prompt, the task, its message. For a task: engines, the task, claim, answer, end.

Only a new process makes the first call of each.
"""
MAX_POSTS = 5
SAMPLE = 2
"""How many calls of each are attacked in `make test`; the others take too long, as processes start slowly."""


class Aim:
    """Lets one fault happen: to the n-th call of an operation by a named process, counted from now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._target, self._left, self._kind = ("", ""), 0, Kind.ERROR
        self.has_struck = threading.Event()

    def at(self, name: str, operation: str, number: int, kind: Kind) -> None:
        with self._lock:
            self._target, self._left, self._kind = (name, operation), number, kind
            self.has_struck.clear()

    def fates(self, name: str) -> Fate:
        def fate(_: int, operation: str) -> Kind | None:
            with self._lock:
                self._left -= (name, operation) == self._target
                if self._left or (name, operation) != self._target or self.has_struck.is_set():
                    return None
                self.has_struck.set()
                return self._kind

        return fate


class Shooting:
    """A deployment with one API, one worker that meets faults, and another worker that runs beside it and sweeps."""

    def __init__(self, deployment: Deployment, aim: Aim) -> None:
        self.deployment = deployment
        self.found: list[str] = []
        self._aim = aim
        self._api = deployment.environment("api", "lambda_api.handler")
        self._worker = deployment.pump(deployment.worker("worker"))
        self._sweeper = deployment.worker("rescue")
        self._rescue = deployment.pump(self._sweeper)
        self._numbers = count()

    def strike(self, name: str, number: int, kind: Kind) -> None:
        """Let a fault happen to one of the CALLS, counted from 0, and audit the result."""
        operation = CALLS[name][number]
        self._rescue.deliver_all()
        self._aim.at(name, operation, CALLS[name][: number + 1].count(operation), kind)
        self._a_task(self._worker if name == "worker" else self._rescue)
        store = self.deployment.store
        found = [*miscounted(store, snapshots_of(store))] if self._aim.has_struck.is_set() else ["was not reached"]
        self.found += [f"{kind} at {name} {number} ({operation}): {what}" for what in found]

    def rescue(self) -> None:
        """Run the sweep, and a worker that meets no fault."""
        self._sweeper(schedule.SWEEP)
        self._rescue.deliver_all()

    def until(self, is_over: Callable[[], bool]) -> None:
        end = time.monotonic() + IN_TIME_S
        while not is_over() and time.monotonic() < end:
            self.rescue()
            time.sleep(0.5)

    def _a_task(self, worker: Pump) -> None:
        """POST until the task is acknowledged, and let a worker process it; others continue if one hangs."""
        for _ in range(MAX_POSTS):
            prompt = f"Say {next(self._numbers)}."
            self._while_others_go_on(partial(self.deployment.post, self._api, prompt))
            if prompt in self.deployment.acknowledged.values():
                break
        self._while_others_go_on(worker.deliver)

    def _while_others_go_on(self, act: Callable[[], object]) -> None:
        thread = threading.Thread(target=act)
        thread.start()
        thread.join(1)
        while thread.is_alive() or any(proxy.delayed for proxy in self.deployment.proxies):
            if self._aim.has_struck.is_set():
                self.rescue()
            thread.join(0.5)


@contextmanager
def shot_at(on: Emulator, folder: Path, answered: Counter[str]) -> Iterator[Shooting]:
    def answer(asked: Any) -> str:
        answered[asked["messages"][-1]["content"]] += 1
        return hashed(asked)

    aim = Aim()
    with (
        fake_engine.fake_engine(answer=answer) as engine,
        deployed(on, engine, folder, aim.fates, LLM_SERVER_LEASE_S=str(LEASE_S)) as deployment,
    ):
        on.sqs.set_queue_attributes(QueueUrl=on.queue_url, Attributes={"VisibilityTimeout": str(VISIBILITY_S)})
        yield Shooting(deployment, aim)


@pytest.mark.parametrize(
    ("kind", "most"),
    [(Kind.KILLED_AFTER, SAMPLE), *(pytest.param(kind, None, marks=pytest.mark.attack) for kind in PROMISED)],
)
def test_no_single_fault_in_a_real_process_loses_doubles_or_miscounts(
    ministack_substrate: Emulator, tmp_path: Path, ledger: Ledger, kind: Kind, most: int | None
) -> None:
    answered, points = Counter[str](), [(name, n) for name, calls in CALLS.items() for n in range(len(calls[:most]))]
    with shot_at(ministack_substrate, tmp_path, answered) as shooting:
        for name, number in points:
            shooting.strike(name, number, kind)
        deployment, store = shooting.deployment, shooting.deployment.store
        shooting.until(lambda: all(each.task.status.is_final for each in snapshots_of(store).values()))
        final = snapshots_of(store)
        shooting.until(lambda: not deployment.left)
        deployment.wake_all(final)
        shooting.until(lambda: not deployment.left)
        found = [*shooting.found, *of_processes(store, deployment.acknowledged, answered, final)]
        found += of_queues(store, deployment.left, deployment.dead_letters())

    took_s = max(((each.task.finished_ms or 0) - each.task.created_ms) / 1000 for each in final.values())
    note = f"{len(final)} tasks, final after at most {took_s:.0f} s"
    ledger.enter(f"real processes, {kind}", "ministack", deployment.met.total(), found, note)
    assert deployment.met == {kind: len(points)}
    assert took_s <= IN_TIME_S
    for proxy, calls in zip(deployment.proxies, CALLS.values(), strict=False):
        assert proxy.calls.keys() <= {*calls, "SendMessage"}, "no other call, but of a task that is handed back"
