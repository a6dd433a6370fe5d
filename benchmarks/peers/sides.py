"""The sides of the comparison: this server, and each queue with its HTTP front, one worker and Redis."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path

from benchmarks import aws, environments  # noqa: F401 - `aws` puts tests/ on the path
from benchmarks.peers import load
from benchmarks.peers.engine import Engine, prompt, result
from benchmarks.peers.processes import background, free_port
from support.server_process import RunningServer, serving

OURS = "this server"
QUEUES = {
    "arq": "benchmarks.peers.arq_app",
    "taskiq": "taskiq worker benchmarks.peers.taskiq_app:broker --workers 1 --max-async-tasks 64 --log-level WARNING",
}
"""The worker of each queue: a Python module and its arguments."""
FRONT = "--http httptools --loop uvloop --timeout-keep-alive 60 --log-level warning --no-access-log"
STARTED_S = 20.0
CONFIG = """
[engines.fake]
kind = "openai"
source = "local"
model = "fake-1"
base_url = "{url}"
max_concurrency = {max_concurrency}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A running side: where tasks are posted, and the processes whose CPU time counts."""

    port: int
    path: str
    wait: str = ""
    processes: tuple[int, ...]

    def request(self, number: int) -> bytes:
        """Return a POST that is answered when the task is final."""
        headers = {"Prefer": self.wait} if self.wait else {}
        return load.post(self.path, {"prompt": prompt(number)}, **headers)

    def tasks(self, count: int, *, first: int = 0, in_flight: int, max_s: float = float("inf")) -> list[load.Answer]:
        """Post up to `count` tasks, none after `max_s`, and wait for all results.

        Raises AssertionError unless each task is Completed with its own result.
        """
        end_s = time.perf_counter() + max_s
        numbers = takewhile(lambda _: time.perf_counter() < end_s, range(first, first + count))
        answers = load.send(self.port, map(self.request, numbers), in_flight=in_flight)
        wrong = [answer for answer in answers if answer.status != 200]
        assert not wrong, f"{len(wrong)} of {len(answers)} answers are not 200; the first: {wrong[0]}"
        results = {(answer["status"], answer["result"]) for answer in (answer.json() for answer in answers)}
        assert results == {("Completed", result(number)) for number in range(first, first + len(answers))}
        return answers


Start = Callable[[Engine, float], AbstractContextManager[Side]]
"""Start a side with an engine and the seconds between two looks for a result (the queues look; this server may not)."""


@contextmanager
def llm_server(
    engine_url: str, *, max_concurrency: int, db: Path | None = None
) -> Iterator[tuple[RunningServer, Side]]:
    """Start this server with its defaults, SQLite and one engine."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "engines.toml"
        config.write_text(CONFIG.format(url=engine_url, max_concurrency=max_concurrency))
        env = {
            "LLM_SERVER_CONFIG": str(config),
            "LLM_SERVER_LOG_LEVEL": "WARNING",
            "PYTHONDONTWRITEBYTECODE": "",
        }
        with serving(db or Path(folder) / "tasks.db", env=env) as server:
            port = int(server.url.rpartition(":")[2])
            yield server, Side(port=port, path="/api/v1/tasks", wait="wait=25", processes=(server.process.pid,))


@contextmanager
def ours(engine: Engine, poll_s: float) -> Iterator[Side]:
    with llm_server(engine.base_url, max_concurrency=64) as (_, side):
        yield side


@contextmanager
def queue(name: str, engine: Engine, poll_s: float) -> Iterator[Side]:
    """Start Redis with its defaults, the front of a queue and one worker of it, all with uvloop."""
    python = environments.python(name)
    redis_port, port = free_port(), free_port()
    env = {
        "PEERS_REDIS_PORT": str(redis_port),
        "PEERS_POLL_S": str(poll_s),
        "PEERS_ENGINE": engine.base_url,
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPATH": str(environments.ROOT),
    }
    front = f"uvicorn benchmarks.peers.{name}_app:app --port {port} {FRONT}"
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        redis = f"redis-server --port {redis_port} --bind 127.0.0.1 --dir {folder}".split()
        pids = [stack.enter_context(background(redis))]
        _await_port(redis_port)
        pids += [
            stack.enter_context(background([python, "-m", *part.split()], env=env)) for part in (QUEUES[name], front)
        ]
        _await_port(port)
        yield Side(port=port, path="/tasks", processes=tuple(pids))


def _await_port(port: int) -> None:
    """Wait until a server accepts connections. Raises ConnectionError after 20 s."""
    end = time.monotonic() + STARTED_S
    while True:
        try:
            load.send(port, [])
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def starts() -> dict[str, Start]:
    """Return how to start each side. Without Redis, print that the queues are left out."""
    sides: dict[str, Start] = {OURS: ours}
    if shutil.which("redis-server") is None:
        print("  arq and taskiq are left out: redis-server is not installed (Debian's package: redis-server)")
        return sides
    for name in QUEUES:
        environments.make(name)
    return sides | {name: partial(queue, name) for name in QUEUES}
