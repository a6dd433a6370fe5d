"""A prompt that kills the process of its worker each time fails in the end, without harm to other tasks."""

from __future__ import annotations

import subprocess
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from faults.audits import alarms, of_processes, of_queues, snapshots_of
from faults.conftest import Worlds
from faults.deployment import deployed, hashed
from faults.kinds import Killed
from faults.ledger import Ledger
from faults.processes import MAX_DELIVERIES
from faults.substrates import every_task
from faults.test_killed_server import of_file, woken_again
from faults.test_storm import emptied, final_after_s
from faults.world import World
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.task import TaskRef
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.store import SqliteStore
from support import fake_engine
from support.aws_emulators import Substrate as Emulator
from support.server_process import serving, started

POISON = "This prompt kills."
ATTEMPTS, MAX_ROUND_S = 4, 60
"""For real processes: the claims of a task, and the time of each round."""
LOCKSTEP_S = {"SQLite": 0.0, "moto": 0.2}
"""How long those in one process wait for one another; the embedded worker has one task at a time here."""
LIVES_S = (MAX_DELIVERIES + 2) * 600


def posted_with_poison(world: World, others: int) -> None:
    """Post the worst case: the poison strikes while all tasks of its batch run and none has finished."""
    struck, at_work = threading.Event(), threading.Semaphore(0)
    wait_s = LOCKSTEP_S[world.substrate.name]

    def before(call: EngineCall) -> None:
        if POISON not in call.prompt:
            at_work.release()
            struck.wait(wait_s)
            return
        for _ in range(others):
            at_work.acquire(timeout=wait_s / 5)
        struck.set()
        struck.clear()
        raise Killed(POISON)

    world.engine.before = before
    world.post(POISON, mode="Chat")
    for n in range(others):
        world.post(f"Say {n}.", mode="Chat")


def test_a_prompt_that_kills_its_worker_fails_in_the_end_and_harms_no_other(worlds: Worlds, ledger: Ledger) -> None:
    """It comes in one batch with the others each time, so it also kills the process that runs them."""
    world = worlds()
    world.tick_s = 60
    posted_with_poison(world, others=9)
    world.settle(within_s=LIVES_S)
    ends = {world.store.get(ref).request.prompt: world.store.peek(ref) for ref in world.refs()}
    poison = ends.pop(POISON)

    found = alarms(world, may_fail=lambda prompt: prompt == POISON)
    most = max(task.fence for task in ends.values())
    note = f"failed after {poison.fence - 1} claims, the others after at most {most}"
    ledger.enter("poison", world.substrate.name, poison.fence - 1, found, note)
    assert (poison.status, poison.fence) == ("Failed", MAX_DELIVERIES + 1)
    assert {task.status for task in ends.values()} == {"Completed"}


@pytest.mark.attack
@pytest.mark.timeout(300)
def test_a_prompt_that_kills_real_processes_fails_in_the_end(
    ministack_substrate: Emulator, tmp_path: Path, ledger: Ledger
) -> None:
    """SIGKILL comes with the engine call; ten tasks come in one batch."""
    answered = Counter[str]()

    def answer(asked: Any) -> str:
        answered[prompt := asked["messages"][-1]["content"]] += 1
        if POISON in prompt:
            worker.kill()
        return hashed(asked)

    with (
        fake_engine.fake_engine(answer=answer, latency_s=0.2) as engine,
        deployed(ministack_substrate, engine, tmp_path, LLM_SERVER_MAX_ATTEMPTS=str(ATTEMPTS)) as deployment,
    ):
        api = deployment.environment("api", "lambda_api.handler")
        ids = [deployment.post(api, prompt) for prompt in [POISON, *(f"Say {n}." for n in range(9))]]
        with deployment.working(1):
            worker = next(e for e in deployment.environments if e.name == "worker-0")
            final_after_s(deployment)
            final = snapshots_of(deployment.store)
            deployment.wake_all(final)
            emptied(deployment)
        found = of_processes(deployment.store, deployment.acknowledged, answered, final, may_fail=[POISON])
        found += of_queues(deployment.store, deployment.left, deployment.dead_letters())
        poison, *others = [final[TaskRef("local", task_id or "")].task for task_id in ids]

    note = f"failed after {poison.fence - 1} claims, the others after at most {max(task.fence for task in others)}"
    ledger.enter("poison, real processes", "ministack", deployment.kills, found, note)
    assert deployment.kills == poison.fence - 1 == ATTEMPTS


@pytest.mark.parametrize("others", [3, pytest.param(9, marks=pytest.mark.attack)])
def test_a_prompt_that_kills_the_embedded_server_fails_in_the_end(tmp_path: Path, ledger: Ledger, others: int) -> None:
    """SIGKILL comes with the engine call, after each restart of the server."""
    database, answered, acknowledged = tmp_path / "tasks.db", Counter[str](), dict[str, str]()
    running = list[subprocess.Popen[str]]()

    def answer(asked: Any) -> str:
        answered[prompt := asked["messages"][-1]["content"]] += 1
        if POISON in prompt:
            running[-1].kill()
        return hashed(asked)

    with fake_engine.fake_engine(answer=answer, latency_s=0.2) as engine:
        variables = fake_engine.a_config(tmp_path, one=engine) | {"LLM_SERVER_MAX_ATTEMPTS": str(ATTEMPTS)}
        with serving(database, env=variables) as server:
            running.append(server.process)
            for prompt in [*(f"Say {n}." for n in range(others)), POISON]:
                acknowledged[server.submit(prompt, mode="Chat")["task_id"]] = prompt
            server.process.wait(MAX_ROUND_S)
        while lived(database, variables, running):
            assert len(running) <= 2 * ATTEMPTS
        final = woken_again(database, variables)
    found = of_file(database, acknowledged, answered, final, may_fail=[POISON])
    poison = next(snapshot.task for snapshot in final.values() if snapshot.request.prompt == POISON)

    note = f"failed after {answered[POISON]} claims, the others after at most {max(map(claims, final.values()))}"
    ledger.enter("poison, embedded server", "SQLite", answered[POISON], found, note)
    assert answered[POISON] == claims(final[poison.ref]) - 1 == ATTEMPTS


def lived(database: Path, variables: Mapping[str, str], running: list[subprocess.Popen[str]]) -> bool:
    """Start the server and wait until it dies or all tasks are final; return whether a task is still open."""
    with started(database, variables) as process, closing(SqliteStore(Database(database))) as store:
        running.append(process)
        end, is_open = time.monotonic() + MAX_ROUND_S, True
        while is_open and process.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
            is_open = not all(store.peek(ref).status.is_final for ref in every_task(store))
    return is_open


def claims(snapshot: Snapshot) -> int:
    return snapshot.task.fence
