"""Engines with scripted answers, a manual clock, and the catalogue and balancer to use them with.

A pytest plugin, for the fixtures at its end.
"""

from __future__ import annotations

import threading
import tomllib
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import nullcontext
from importlib import resources
from math import ceil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llm_server import wiring
from llm_server.orchestration.configuration import catalog_file
from llm_server.orchestration.dispatch.balancer import Balancer
from llm_server.orchestration.dispatch.fleet import Fleet
from llm_server.orchestration.dispatch.health import EngineStates
from llm_server.orchestration.dispatch.terms import CallTerms
from llm_server.orchestration.dispatch.window import Window
from llm_server.orchestration.domain.engines.allowed import AllowedEngines
from llm_server.orchestration.domain.engines.call import Completion, EngineCall
from llm_server.orchestration.domain.engines.catalog import Catalog, EnginePrice, EngineSpec, Sources
from llm_server.orchestration.domain.engines.state import EngineRecords, EngineState, SwitchName
from llm_server.orchestration.domain.engines.usage import Usage
from llm_server.orchestration.domain.errors import StorageUnavailable
from llm_server.orchestration.domain.ports.store import EngineStateStore
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.store import SqliteStore
from support.builders import NOW_MS

WAIT_S = 10.0
"""How long a test waits for another thread before it gives up."""

_PACKAGED = tomllib.loads((resources.files("llm_server") / "data" / "catalog.toml").read_text(encoding="utf-8"))


class Clock:
    """A clock in Unix milliseconds that a test moves."""

    def __init__(self, now_ms: int = NOW_MS) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms

    def pass_s(self, seconds: float) -> None:
        self.now_ms += round(seconds * 1000)


Answer = str | Completion | Exception
Script = Answer | Callable[[EngineCall], Answer]


def a_usage(tokens_in: int = 10, tokens_out: int = 20, **changes: Any) -> Usage:
    """Return the tokens of a call without a prompt cache."""
    return Usage(**{"input_tokens": tokens_in, "output_tokens": tokens_out} | changes)


def a_completion(text: str = "Hello.", *, truncated: bool = False, **tokens: Any) -> Completion:
    """Return an answer of 20 tokens to a prompt of 10; `tokens` are the arguments of `a_usage`."""
    return Completion(text=text, usage=a_usage(**tokens), truncated=truncated)


class ScriptedEngine:
    """Gives its answers in turn and repeats the last one; an exception among them is raised."""

    def __init__(self, *answers: Script) -> None:
        self._answers: deque[Script] = deque(answers or ["Hello."])
        self._lock = threading.Lock()
        self.calls: list[EngineCall] = []
        self.timeouts_s: list[float] = []

    def complete(self, call: EngineCall, *, timeout_s: float) -> Completion:
        with self._lock:
            self.calls.append(call)
            self.timeouts_s.append(timeout_s)
            answer = self._answers.popleft() if len(self._answers) > 1 else self._answers[0]
        if callable(answer):
            answer = answer(call)
        if isinstance(answer, Exception):
            raise answer
        return a_completion(answer) if isinstance(answer, str) else answer


def call_terms(*, engine: str | None = None, sources: Sources | None = None, **changes: Any) -> CallTerms:
    """Return the terms of a call for a fast engine, without limits."""
    allowed = AllowedEngines(engine=engine, sources=sources)
    wanted: dict[str, Any] = {"purpose": "answer", "tier": "fast", "until_ms": NOW_MS + 10**9, "allowed": allowed}
    return CallTerms(**wanted | changes)


def an_engine(**changes: Any) -> EngineSpec:
    """Return an API engine at 1 and 2 USD for a million tokens in and out."""
    wanted: dict[str, Any] = {
        "kind": "openai",
        "source": "api",
        "model": "m-1",
        "base_url": "http://127.0.0.1:1",
        "price": EnginePrice(input=1, output=2),
    }
    return EngineSpec(**wanted | changes)


def a_local_engine(**changes: Any) -> EngineSpec:
    """Return an engine that costs nothing."""
    return an_engine(**{"source": "local", "price": None} | changes)


def a_catalog(engines: Mapping[str, EngineSpec], **defaults: Any) -> Catalog:
    """Return the packaged roles and profiles with only these engines.

    Without `triage` among the defaults, no task is triaged, so that the number of calls does not depend on how sure the
    analysis is of a test's prompt.
    """
    packaged = catalog_file.load(_PACKAGED)
    changed = msgspec.structs.replace(packaged.defaults, **{"triage": "off"} | defaults)
    return msgspec.structs.replace(packaged, engines=dict(engines), defaults=changed)


def price(spec: EngineSpec, usage: Usage) -> int | None:
    """Return the cost in micro-USD by the configured price alone; the prompt cache changes nothing."""
    if spec.source == "local":
        return 0
    if spec.price is None:
        return None
    return ceil(spec.price.input * usage.tokens_in + spec.price.output * usage.output_tokens)


def a_balancer(
    catalog: Catalog,
    engines: Mapping[str, ScriptedEngine],
    store: SqliteStore,
    clock: Clock,
    *,
    without_credentials: Collection[str] = (),
    waiting: wiring.Waiting = nullcontext,
    lease_s: int = 210,
) -> Balancer:
    """Return a balancer as the wiring makes it; the models in `without_credentials` have no key."""

    def has_credentials(spec: EngineSpec) -> bool:
        return spec.model not in without_credentials

    return wiring.balancer_of(
        catalog,
        engines,
        store,
        has_credentials=has_credentials,
        price=price,
        clock=clock,
        waiting=waiting,
        window=Window(lease_s=lease_s),
    )


def a_fleet(store: EngineStateStore, clock: Clock, **engines: EngineSpec) -> Fleet:
    """Return the fleet of these engines, which all have credentials."""
    return Fleet(configured=engines, has_credentials=lambda _: True, states=EngineStates(store, clock))


class WatchedStore(SqliteStore):
    """The embedded store; counts reads and writes of engines' records, and fails on demand."""

    down = False
    reads = 0
    writes = 0

    def engines(self) -> EngineRecords:
        self._answer()
        self.reads += 1
        return super().engines()

    def switch_engine(
        self, engine: str, changes: Mapping[SwitchName, bool | None], *, now_ms: int = 0
    ) -> EngineRecords:
        self._answer()
        return super().switch_engine(engine, changes, now_ms=now_ms)

    def save_engine_state(self, engine: str, state: EngineState) -> None:
        self._answer()
        self.writes += 1
        super().save_engine_state(engine, state)

    def swap_engine_state(self, engine: str, before: EngineState, after: EngineState) -> bool:
        self._answer()
        self.writes += 1
        return super().swap_engine_state(engine, before, after)

    def _answer(self) -> None:
        if self.down:
            raise StorageUnavailable("The database does not answer; try again.")


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[WatchedStore]:
    store = WatchedStore(Database(tmp_path / "tasks.db"))
    yield store
    store.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


Balanced = Callable[..., Balancer]


@pytest.fixture
def balanced(watched: WatchedStore, clock: Clock) -> Balanced:
    """Make a balancer for engines given as name=(spec, engine); the first argument names models without a key."""

    def make(without_credentials: str = "", **given: tuple[EngineSpec, ScriptedEngine]) -> Balancer:
        catalog = a_catalog({name: spec for name, (spec, _) in given.items()})
        engines = {name: engine for name, (_, engine) in given.items()}
        return a_balancer(catalog, engines, watched, clock, without_credentials=without_credentials.split())

    return make
