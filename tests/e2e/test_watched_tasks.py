"""Readers of a task's events, while the real server is killed, started again, stopped and called by many."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llm_server.cli.connection import Connection
from llm_server.cli.watching.event_source import EventSource
from support import three_steps
from support.command_line import COMMAND
from support.fake_engine import FakeEngine, a_config, fake_engine
from support.server_process import RunningServer, serving

READERS = 50


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with fake_engine(latency_s=0.2, piece_delay_s=0.1, answer=three_steps.answer) as engine:
        yield engine


@contextmanager
def again(server: RunningServer, tmp_path: Path, environment: dict[str, str]) -> Iterator[RunningServer]:
    """Start a server at the address of one that has ended."""
    with serving(tmp_path / "tasks.db", "--port", server.url.rpartition(":")[2], env=environment) as next_one:
        yield next_one


class Terminal:
    """A command on a terminal, and what it has shown so far."""

    def __init__(self, *arguments: str) -> None:
        self.shown = ""
        self._master, terminal = pty.openpty()
        self.process = subprocess.Popen(
            [*COMMAND, *arguments], stdout=terminal, stderr=terminal, env={**os.environ, "TERM": "xterm-256color"}
        )
        os.close(terminal)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def until(self, text: str, within_s: float = 30) -> None:
        end = time.monotonic() + within_s
        while text not in self.shown:
            assert time.monotonic() < end, self.shown
            time.sleep(0.02)

    def ended(self) -> int:
        code = self.process.wait(60)
        self._reader.join(10)
        os.close(self._master)
        return code

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # Linux reports the end of a terminal as an error
                return
            self.shown += data.decode()


def test_watching_a_plan_goes_on_after_the_server_was_killed(engine: FakeEngine, tmp_path: Path) -> None:
    """The same command shows the plan, the steps word by word and one answer, although the server dies meanwhile."""
    environment = a_config(tmp_path, fake=engine)
    with serving(tmp_path / "tasks.db", env=environment) as server:
        arguments = ["submit", "--stream", "--mode", "Plan", "--url", server.url, three_steps.PROMPT]
        terminal = Terminal(*arguments)
        terminal.until("] The text about")
        server.kill()
        at_death = terminal.shown
        terminal.until("Connecting again.")
        with again(server, tmp_path, environment):
            code = terminal.ended()

    assert code == 0, terminal.shown
    assert "in a few words." not in at_death.rpartition("] The text")[2]
    assert terminal.shown.count("-- planned") == 1
    for step in three_steps.STEPS:
        assert terminal.shown.count(f"[{step}] -- step completed") == 1
        assert terminal.shown.count(f"[{step}] The text about {step}, in a few words.\r\n") == 1
    assert terminal.shown.count("-- completed") == 1
    assert terminal.shown.count("The text about everything, in a few words.\r\n") == 1


def test_ctrl_c_detaches_and_the_task_goes_on(engine: FakeEngine, tmp_path: Path) -> None:
    with serving(tmp_path / "tasks.db", env=a_config(tmp_path, fake=engine)) as server:
        terminal = Terminal("submit", "--stream", "--mode", "Plan", "--url", server.url, "Write of alpha.")
        terminal.until("-- planned")
        terminal.process.send_signal(signal.SIGINT)
        code = terminal.ended()
        (task_id,) = set(re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", terminal.shown))
        done = server.finished(task_id)
        rest = subprocess.run([*COMMAND, "watch", task_id, "--url", server.url], capture_output=True, check=True)

    assert code == 130
    assert f"llm-server watch {task_id}" in terminal.shown.replace("\r\n", "")
    assert done["status"] == "Completed"
    assert json.loads(rest.stdout.splitlines()[-1])["event"] == "receipt"


def test_fifty_readers_miss_nothing_while_the_server_is_killed(engine: FakeEngine, tmp_path: Path) -> None:
    """Each of them gets every event once and in order, and the whole text of the answer.

    Text that was shown and not yet stored when the server died is not seen by other readers; its calls are made again.
    """
    environment = a_config(tmp_path, fake=engine)
    with ThreadPoolExecutor(READERS) as threads:
        with serving(tmp_path / "tasks.db", env=environment) as server:
            tasks = [server.submit("Write of alpha.", mode="Plan", stream=True)["task_id"] for _ in range(5)]
            reading = [threads.submit(_events, server.url, tasks[reader % 5]) for reader in range(READERS)]
            time.sleep(1.5)
            server.kill()
        with again(server, tmp_path, environment) as server:
            read = [future.result(60) for future in reading]
            told = {task: server.call("GET", f"/tasks/{task}/events").json()["events"] for task in tasks}

    for reader, events in enumerate(read):
        numbers = [event["number"] for event in events]
        assert numbers == sorted(set(numbers))
        assert _without_text(events) == _without_text(told[tasks[reader % 5]])
        assert _answer(events) == "The text about everything, in a few words."
        assert sum(event["event"] == "text.delta" for event in events) > 20


def _events(url: str, task_id: str) -> list[Any]:
    source = EventSource(Connection(url), task_id, on_lost=lambda _: None)
    return list(source.events(until=time.monotonic() + 60))


def _without_text(events: list[Any]) -> list[tuple[int, str]]:
    return [(event["number"], event["event"]) for event in events if event["event"] != "text.delta"]


def _answer(events: list[Any]) -> str:
    """The text of the last item, however it was grouped."""
    pieces = [event for event in events if event["event"] == "text.delta"]
    return "".join(piece["text"] for piece in pieces if piece["item"] == pieces[-1]["item"])


def test_a_stopping_server_lets_its_readers_go_at_once(engine: FakeEngine, tmp_path: Path) -> None:
    """They get no `end`, so that they connect again. The stop does not wait for them."""
    engine.latency_s = 30
    with serving(tmp_path / "tasks.db", env=a_config(tmp_path, fake=engine)) as server:
        task_id = server.submit("Say hello.")["task_id"]
        with ThreadPoolExecutor(20) as threads:
            reading = [threads.submit(_body, server.url, task_id) for _ in range(20)]
            time.sleep(0.5)
            began_s = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            bodies = [future.result(20) for future in reading]
            ended_s = time.monotonic() - began_s
        log = server.log.read_text()

    assert ended_s < 2.5
    assert {body.endswith(b"connect again with Last-Event-ID\n\n") for body in bodies} == {True}
    assert b"event: end" not in b"".join(bodies)
    assert "Traceback" not in log


def _body(url: str, task_id: str) -> bytes:
    with Connection(url).stream(f"/tasks/{task_id}/events", {"Accept": "text/event-stream"}, read_s=30) as stream:
        return b"".join(stream.chunks())


def test_readers_that_leave_harm_nothing(engine: FakeEngine, tmp_path: Path) -> None:
    """Hundreds of streams are broken off; the task is completed, and a later reader gets everything."""
    engine.latency_s = 3
    with serving(tmp_path / "tasks.db", env=a_config(tmp_path, fake=engine)) as server:
        task_id = server.submit("Say hello.", stream=True)["task_id"]
        with ThreadPoolExecutor(8) as threads:
            left: list[Future[None]] = [threads.submit(_leave, server.url, task_id) for _ in range(300)]
            for future in left:
                future.result(30)
        done = server.finished(task_id)
        events = server.call("GET", f"/tasks/{task_id}/events").json()
        log = server.log.read_text()

    assert done["status"] == "Completed"
    assert events["ended"] is True
    assert "Traceback" not in log


def _leave(url: str, task_id: str) -> None:
    connection = Connection(url)
    with connection.stream(f"/tasks/{task_id}/events", {"Accept": "text/event-stream"}, read_s=30) as stream:
        next(stream.chunks())
