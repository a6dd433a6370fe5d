"""A prompt that kills the process it is worked on in, each time: it ends, and takes nobody along."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

import fake_engine
from aws_emulators import Substrate as Emulator
from faults.audits import alarms
from faults.conftest import Worlds
from faults.deployment import deployed, hashed
from faults.kinds import Killed
from faults.ledger import Ledger
from faults.processes import MAX_DELIVERIES
from faults.world import World
from llm_server.orchestration.ports import EngineCall
from llm_server.orchestration.task import Status, TaskRef
from llm_server.storage.dynamodb import DynamoStore

POISON = "This prompt kills."
LOCKSTEP_S = {"SQLite": 0.0, "moto": 0.2}
"""How long those in one process wait for one another; the embedded worker has one task at a time here."""
LIVES_S = (MAX_DELIVERIES + 2) * 600


def posted_with_poison(world: World, others: int) -> None:
    """The worst case: the poison strikes when everybody in its batch is at work, and nobody has finished."""
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
    """Also when it comes in one batch with the others each time, and so kills the process that has them too."""
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
    """SIGKILL as soon as the engine is asked; ten tasks come in one batch."""

    def answer(asked: Any) -> str:
        if POISON in asked["messages"][-1]["content"]:
            worker.kill()
        return hashed(asked)

    with (
        fake_engine.fake_engine(answer=answer, latency_s=0.2) as engine,
        deployed(ministack_substrate, engine, tmp_path, LLM_SERVER_MAX_ATTEMPTS="4") as deployment,
    ):
        api = deployment.environment("api", "lambda_api.handler")
        ids = [deployment.post(api, prompt) for prompt in [POISON, *(f"Say {n}." for n in range(9))]]
        with deployment.working(1):
            worker = next(e for e in deployment.environments if e.name == "worker-0")
            store, end = (
                DynamoStore(deployment.on.dynamodb, deployment.on.table, draw=lambda n: 0),
                time.monotonic() + 240,
            )
            refs = [TaskRef("local", task_id or "") for task_id in ids]
            while not all(store.peek(ref).status.is_final for ref in refs) and time.monotonic() < end:
                time.sleep(0.5)
        poison, *others = [store.peek(ref) for ref in refs]

    found = [f"{task.task_id} is {task.status}: {task.error}" for task in others if task.status is not Status.COMPLETED]
    note = f"failed after {poison.fence - 1} claims, the others after at most {max(task.fence for task in others)}"
    ledger.enter("poison, real processes", "ministack", deployment.kills, found, note)
    assert poison.status is Status.FAILED
    assert deployment.kills == 4
