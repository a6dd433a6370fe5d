"""OpenAI's libraries repeat a POST whose answer is lost, without an Idempotency-Key: N requests are N paid tasks."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from clients.conftest import run
from support.fake_engine import FakeEngine
from support.faulty_proxy import FAULTS, Fault, faulty_proxy
from support.server_process import RunningServer

pytestmark = pytest.mark.clients

SCRIPTS = ("many_requests.py", "many_requests.mjs")
MET = {"many_requests.py": FAULTS, "many_requests.mjs": tuple(fault for fault in FAULTS if fault != "cut answer")}
"""What each library repeats a POST after: that for Node raises an error if the body of an answer is cut."""
REQUESTS = 40
DELAY_S = 3.0
"""Longer than the scripts wait for an answer."""


def fault_of(script: str, body: bytes, repeat: int) -> Fault:
    """Return the fault of a POST, by chance, but the same in each run. The second repeat is the last: it meets none."""
    if repeat == 2:
        return "none"
    return random.Random(body + bytes([repeat])).choice(MET[script])


def paid(server: RunningServer, engine: FakeEngine) -> tuple[int, int]:
    """Return how many tasks there are, and how many answers the engine gave, once all tasks are final."""
    tasks, token = [], ""
    while True:
        page = server.call("GET", f"/tasks?page_size=100&page_token={token}").json()
        tasks += [server.finished(task["task_id"]) for task in page["tasks"]]
        token = page["next_page_token"]
        if not token:
            return len(tasks), len(engine.seen)


@pytest.mark.parametrize("script", SCRIPTS)
def test_as_many_tasks_are_paid_as_requests_were_sent(
    script: str, server: RunningServer, engine: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.answer = lambda body: body["messages"][-1]["content"].upper()
    prompts = [f"What is {n} in words?" for n in range(REQUESTS)]
    met = list[Fault]()

    def plan(body: bytes, repeat: int) -> Fault:
        met.append(fault_of(script, body, repeat))
        return met[-1]

    with faulty_proxy(server.url, plan, delay_s=DELAY_S) as proxy:
        answers = run(script, proxy, tmp_path, *prompts)

    tasks, calls = paid(server, engine)
    with capsys.disabled():
        print(f"\n{script}: {REQUESTS} requests, {len(met)} POSTs: {tasks} tasks, {calls} engine calls")
    assert answers == [prompt.upper() for prompt in prompts]
    assert (tasks, calls) == (REQUESTS, REQUESTS)
    assert set(met) == set(MET[script])


@pytest.mark.parametrize("script", SCRIPTS)
def test_equal_requests_whose_answers_are_lost_stay_as_many_tasks(
    script: str, server: RunningServer, engine: FakeEngine, tmp_path: Path
) -> None:
    def plan(_: bytes, repeat: int) -> Fault:
        return "lose answer" if repeat == 0 and random.random() < 0.5 else "none"

    with faulty_proxy(server.url, plan, delay_s=DELAY_S) as proxy:
        run(script, proxy, tmp_path, *["Say it again."] * REQUESTS)

    assert paid(server, engine) == (REQUESTS, REQUESTS)
