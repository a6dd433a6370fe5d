"""The storm: real processes, thousands of calls, many of them with faults, dozens of SIGKILLs, then the audit."""

from __future__ import annotations

import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from faults.audits import of_processes, of_queues, snapshots_of
from faults.deployment import Deployment, deployed, hashed
from faults.kinds import Kind
from faults.lambdas import Environment
from faults.ledger import Ledger
from faults.proxy import Fate
from faults.substrates import every_task
from support import fake_engine
from support.aws_emulators import Substrate as Emulator

AWS_SHARE = 0.05
"""The shares of AWS calls that fail, are throttled, lose their reply, or are delayed beyond the lease."""
KILL_SHARE = 0.04
ENGINE_SHARE = 0.10
APIS, WORKERS = 2, 4
MAX_SENDS, MAX_CALM_SENDS = 4.0, 1.05
FINAL_WITHIN_S = 120.0
"""Seconds after the last POST; a task that met several faults waits for as many leases and sweeps."""


class Weather:
    """The faults for a seed: they depend on the process and the number of its call, not on the time."""

    def __init__(self, seed: int, max_kills: int) -> None:
        self._seed = seed
        self._left = max_kills
        self._lock = threading.Lock()

    def fates(self, name: str) -> Fate:
        def fate(number: int, _: str) -> Kind | None:
            chance = random.Random(f"{self._seed} {name} {number}")
            drawn = chance.random()
            if drawn < KILL_SHARE:
                return chance.choice([Kind.KILLED_BEFORE, Kind.KILLED_AFTER]) if self._may_kill() else None
            if drawn < KILL_SHARE + AWS_SHARE:
                kinds = [Kind.ERROR, Kind.THROTTLED, Kind.LOST, Kind.DELAYED]
                return chance.choices(kinds, weights=[10, 10, 10, 1])[0]
            return None

        return fate

    def engine_faults(self, calls: int) -> Iterator[fake_engine.Fault]:
        chance = random.Random(f"{self._seed} engine")
        for _ in range(calls):
            bad = [fake_engine.status(500), fake_engine.status(429, retry_after="1"), fake_engine.reset]
            yield chance.choice(bad) if chance.random() < ENGINE_SHARE else _usual

    def _may_kill(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left >= 0


def _usual(handler: Any) -> None:
    handler.reply(200, handler.usual())


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("seed", "tasks", "max_kills"),
    [(0, 40, 6), *(pytest.param(seed, 300, 60, marks=pytest.mark.attack) for seed in (1, 2, 3))],
)
def test_no_task_is_lost_or_doubled_in_a_storm(
    ministack_substrate: Emulator, tmp_path: Path, ledger: Ledger, seed: int, tasks: int, max_kills: int
) -> None:
    weather, answered = Weather(seed, max_kills), Counter[str]()

    def answer(asked: Any) -> str:
        answered[asked["messages"][-1]["content"]] += 1
        return hashed(asked)

    with (
        fake_engine.fake_engine(answer=answer, latency_s=0.02) as engine,
        deployed(ministack_substrate, engine, tmp_path, weather.fates) as deployment,
    ):
        engine.script(*weather.engine_faults(10 * tasks))
        with deployment.working(WORKERS):
            posted(deployment, tasks)
            took_s, sends = final_after_s(deployment), deployment.calls["SendMessage"]
            final = snapshots_of(deployment.store)
            deployment.wake_all(final)
            emptied(deployment)
        found = of_processes(deployment.store, deployment.acknowledged, answered, final)
        dead = deployment.dead_letters()
        found += of_queues(deployment.store, deployment.left, dead)

    faults, calls, asked = deployment.met, deployment.calls.total(), len(engine.seen)
    kills, engine_faults = faults[Kind.KILLED_BEFORE] + faults[Kind.KILLED_AFTER], asked - answered.total()
    found += of_the_share("AWS", faults.total() - kills, calls, AWS_SHARE)
    found += of_the_share("engine", engine_faults, asked, ENGINE_SHARE)
    note = (
        f"seed {seed}: {tasks} tasks, {faults.total() - kills} of {calls} AWS and {engine_faults} of {asked} engine "
        f"calls, {kills} SIGKILLs, {sends} sends, {len(dead)} dead letters, final {took_s:.0f} s after the last POST"
    )
    ledger.enter("storm", "ministack", faults.total() + engine_faults, found, note)
    assert deployment.kills >= max_kills * 5 // 6
    assert sends <= MAX_SENDS * tasks


def posted(deployment: Deployment, tasks: int) -> None:
    """Post every prompt until it is acknowledged, each time in other words, as a failed try may have made a task."""
    apis = [deployment.environment(f"api-{n}", "lambda_api.handler") for n in range(APIS)]

    def poster(n: int) -> None:
        for number in range(n, tasks, APIS):
            _insisted(deployment, apis[n], number)

    with ThreadPoolExecutor(APIS) as pool:
        list(pool.map(poster, range(APIS)))


def _insisted(deployment: Deployment, api: Environment, number: int) -> None:
    for attempt in range(20):
        if deployment.post(api, f"Say {number}, please, for the time {attempt}."):
            return
    raise AssertionError(f"prompt {number} was never acknowledged")


def final_after_s(deployment: Deployment) -> float:
    """Wait until every task is final and the queue is empty; return how long the tasks took."""
    store, began = deployment.store, time.monotonic()
    is_open: Callable[[], bool] = lambda: any(  # noqa: E731 - it is asked again and again
        not store.peek(ref).status.is_final for ref in every_task(store)
    )
    while is_open() and time.monotonic() - began < FINAL_WITHIN_S:
        time.sleep(0.5)
    took_s = time.monotonic() - began
    deployment.end_sweeps()
    emptied(deployment)
    return took_s


def emptied(deployment: Deployment) -> None:
    """Wait until the queue is empty."""
    end = time.monotonic() + FINAL_WITHIN_S
    while deployment.left and time.monotonic() < end:
        time.sleep(0.5)


def of_the_share(name: str, happened: int, calls: int, share: float) -> Iterator[str]:
    """Whether about as many faults happened as intended; a storm without faults would prove nothing."""
    most_off = 5 * math.sqrt(share * (1 - share) * calls)
    if not abs(happened - share * calls) <= most_off:
        yield f"{happened} of {calls} {name} calls were faulted, not about {share:.0%}"


@pytest.mark.attack
def test_in_calm_weather_each_task_is_sent_once(ministack_substrate: Emulator, tmp_path: Path, ledger: Ledger) -> None:
    answered, tasks = Counter[str](), 300

    def answer(asked: Any) -> str:
        answered[asked["messages"][-1]["content"]] += 1
        return hashed(asked)

    with (
        fake_engine.fake_engine(answer=answer, latency_s=0.02) as engine,
        deployed(ministack_substrate, engine, tmp_path) as deployment,
    ):
        with deployment.working(WORKERS):
            posted(deployment, tasks)
            took_s, sends = final_after_s(deployment), deployment.calls["SendMessage"]
        final = snapshots_of(deployment.store)
        found = of_processes(deployment.store, deployment.acknowledged, answered, final)
        found += of_queues(deployment.store, deployment.left, dead := deployment.dead_letters())

    note = f"{sends} sends and {len(engine.seen)} engine calls for {tasks} tasks, final {took_s:.0f} s after the last"
    ledger.enter("calm, real processes", "ministack", 0, found, note)
    assert sends <= MAX_CALM_SENDS * tasks
    assert (len(engine.seen), len(final), dead) == (tasks, tasks, [])
