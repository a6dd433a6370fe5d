"""The embedded server is killed around commits, again and again, while 50 readers stream the events of plans."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from faults.ledger import Ledger
from faults.readers import TEXT, wrong_plan
from faults.struck_server import ORDERS
from llm_server.cli.connection import Connection
from llm_server.cli.watching.event_source import EventSource
from support import three_steps
from support.fake_engine import a_config, fake_engine
from support.server_process import RunningServer, serving

READERS, TASKS = 50, 5
MAX_ROUND_S, MAX_READ_S = 30, 240
QUICK_ROUNDS = [("after", 6), ("next", 4)]
"""The server kills itself before its n-th commit, after it, or before the transaction that follows."""
ROUNDS = [(moment, commit) for commit in (2, 4, 6, 8, 10) for moment in ("before", "after", "next")]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("rounds", [QUICK_ROUNDS, pytest.param(ROUNDS, marks=pytest.mark.attack)], ids=len)
def test_fifty_streams_go_on_after_each_start_of_a_server(
    tmp_path: Path, ledger: Ledger, rounds: Sequence[tuple[str, int]]
) -> None:
    """Each reader gets every event once and in order, and the whole text of each step and of the answer."""
    orders = tmp_path / "orders"
    orders.write_text("", encoding="utf-8")
    with (
        fake_engine(answer=three_steps.answer, piece_delay_s=0.15) as engine,
        ThreadPoolExecutor(READERS) as threads,
    ):
        environment = a_config(tmp_path, fake=engine) | {ORDERS: str(orders), "LLM_SERVER_MAX_ATTEMPTS": "100"}
        database, port, reading = tmp_path / "tasks.db", "0", list[Future[Any]]()
        for moment, commit in rounds:
            with serving(database, "--port", port, env=environment, program="faults.struck_server") as server:
                if not reading:
                    tasks = [posted(server) for _ in range(TASKS)]
                    reading = [threads.submit(events, server.url, tasks[n % TASKS]) for n in range(READERS)]
                    port = server.url.rpartition(":")[2]
                posted(server)  # so that there are enough commits
                orders.write_text(f"{moment} {commit}", encoding="utf-8")
                assert server.process.wait(MAX_ROUND_S) == -signal.SIGKILL, f"commit {commit} was not reached"
            orders.write_text("", encoding="utf-8")
        with serving(database, "--port", port, env=environment) as server:
            read = [future.result(MAX_READ_S) for future in reading]
            late = {task: server.call("GET", f"/tasks/{task}/events").json()["events"] for task in tasks}

    found = [f"reader {n}: {what}" for n, shown in enumerate(read) for what in wrong_plan(shown)]
    for n, shown in enumerate(read):
        if without_text(shown) != without_text(late[tasks[n % TASKS]]):
            found.append(f"reader {n} got other events than one who comes late")
    pieces = sum(event["event"] == TEXT for shown in read for event in shown)
    ledger.enter(
        f"{READERS} streams, server killed {len(rounds)} times", "SQLite", len(rounds), found, f"{pieces} pieces"
    )
    assert pieces > READERS * 20


def posted(server: RunningServer) -> str:
    return str(server.submit(three_steps.PROMPT, mode="Plan", stream=True)["task_id"])


def events(url: str, task_id: str) -> list[Any]:
    source = EventSource(Connection(url), task_id, on_lost=lambda _: None)
    return list(source.events(until=time.monotonic() + MAX_READ_S))


def without_text(shown: Sequence[Any]) -> list[tuple[int, str]]:
    return [(event["number"], event["event"]) for event in shown if event["event"] != TEXT]
