"""Fixtures of the attack, and the table it ends with."""

from __future__ import annotations

import importlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from support.aws_emulators import Substrate as Emulator

pytest.register_assert_rewrite("support.audit", "faults.audits")

from faults.ledger import Ledger  # noqa: E402 - after its modules are told to be rewritten
from faults.substrates import Aws, Embedded, Substrate  # noqa: E402
from faults.time_limits import TimeLimits  # noqa: E402
from faults.world import World  # noqa: E402
from llm_server import wiring  # noqa: E402
from llm_server.orchestration.domain.task import DAY_MS  # noqa: E402
from support.builders import NOW_MS  # noqa: E402
from support.scripted_engine import Clock  # noqa: E402

LEDGER = pytest.StashKey[Ledger]()
WORKER = "llm_server.lambda_worker"


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(TimeLimits(config))


@pytest.fixture
def ledger(pytestconfig: pytest.Config) -> Ledger:
    ledger = pytestconfig.stash.setdefault(LEDGER, Ledger())
    ledger.started_s = time.monotonic()
    return ledger


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    ledger = config.stash.get(LEDGER, None)
    if ledger and ledger.rows:
        terminalreporter.section("attack")
        for line in ledger.table():
            terminalreporter.write_line(line)


Worlds = Callable[[], World]


@pytest.fixture
def sqlite_worlds(tmp_path: Path) -> Iterator[Worlds]:
    yield from _worlds(lambda clock: Embedded(tmp_path, clock))


@pytest.fixture
def moto_worlds(moto_substrate: Emulator, handle: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worlds]:
    """Make worlds on moto; the queue uses the world's clock for delays, visibility time-outs and dead letters."""
    now, asked = Clock(), count()
    # a message is visible after, not at, the time it was sent: so no two looks at the clock are the same
    monkeypatch.setattr("moto.sqs.models.unix_time_millis", lambda *_: now() + next(asked) / 1e6)
    monkeypatch.setattr("moto.sqs.models.unix_time", lambda *_: now() / 1000)

    def substrate(clock: Clock) -> Substrate:
        nonlocal now
        now = clock
        return Aws(moto_substrate, handle, clock)

    yield from _worlds(substrate)


@pytest.fixture
def ministack_worlds(ministack_substrate: Emulator, handle: Any) -> Iterator[Worlds]:
    """Make worlds on ministack, whose parallel calls run over HTTP; its queue and its TTL use the wall clock."""
    morning_ms = wiring.now_ms() // DAY_MS * DAY_MS + 8 * 3600 * 1000
    yield from _worlds(lambda clock: Aws(ministack_substrate, handle, clock), morning_ms)


@pytest.fixture(scope="session")
def handle() -> Any:
    """What the worker function does with a batch, over any service.

    Its module is imported once in a run, as Lambda does it: the module makes clients of its own and ends with
    `gc.freeze()`. Imported for each test it left clients of 10 MB behind each time, and froze the garbage that was
    there, which is then never freed.
    """
    ours = logging.getLogger("llm_server")
    level = ours.level
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_SERVER_TABLE", "not-used")
        patch.setenv("LLM_SERVER_QUEUE_URL", "http://127.0.0.1:1/queue")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.delitem(sys.modules, WORKER, raising=False)
        made = importlib.import_module(WORKER).handle
        sys.modules.pop(WORKER)
    ours.setLevel(level)  # the import has set it
    return made


@pytest.fixture(params=["sqlite", pytest.param("ministack", marks=pytest.mark.attack)])
def racing_worlds(request: pytest.FixtureRequest) -> Worlds:
    """Make empty worlds on substrates that take many parallel calls without faults of their own."""
    made: Worlds = request.getfixturevalue(f"{request.param}_worlds")
    return made


@pytest.fixture(params=["sqlite", "moto", pytest.param("ministack", marks=pytest.mark.attack)])
def all_worlds(request: pytest.FixtureRequest) -> Worlds:
    """Make empty worlds on every substrate; moto takes one call at a time, in any order of its callers."""
    made: Worlds = request.getfixturevalue(f"{request.param}_worlds")
    return made


@pytest.fixture(params=["sqlite", "moto"])
def worlds(request: pytest.FixtureRequest) -> Worlds:
    """Make empty worlds, on each substrate in turn."""
    made: Worlds = request.getfixturevalue(f"{request.param}_worlds")
    return made


def _worlds(substrate: Callable[[Clock], Substrate], now_ms: int = NOW_MS) -> Iterator[Worlds]:
    made: list[World] = []

    def make() -> World:
        if made:
            made.pop().substrate.close()
        clock = Clock(now_ms)
        made.append(World(substrate(clock), clock))
        return made[0]

    yield make
    for world in made:
        world.substrate.close()
