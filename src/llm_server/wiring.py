"""The composition root: builds a service from its ports. `substrates.py` and `embedded/assembly.py` choose these."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from llm_server.engines import prices
from llm_server.engines.credentials import Credentials, has_credentials
from llm_server.orchestration.access.key_creation import KeyCreation
from llm_server.orchestration.access.keyring import Keyring
from llm_server.orchestration.dispatch.balancer import Balancer
from llm_server.orchestration.dispatch.calls import EngineCalls
from llm_server.orchestration.dispatch.fleet import Fleet
from llm_server.orchestration.dispatch.health import EngineStates
from llm_server.orchestration.dispatch.window import Window
from llm_server.orchestration.domain.engines.call import Engine, Pricer
from llm_server.orchestration.domain.engines.catalog import Catalog, EngineSpec
from llm_server.orchestration.domain.ports.clock import Clock
from llm_server.orchestration.domain.ports.commit import AfterCommit, at_once
from llm_server.orchestration.domain.ports.deltas import LiveText, NoLiveText
from llm_server.orchestration.domain.ports.keys import KeyStore
from llm_server.orchestration.domain.ports.queue import Queue
from llm_server.orchestration.domain.ports.store import EngineStateStore, KnownOverview, Store, never_known
from llm_server.orchestration.domain.retention import Retention
from llm_server.orchestration.events.recent_text import RecentText
from llm_server.orchestration.routing.analysis import analyse, own_roles
from llm_server.orchestration.service import Service
from llm_server.orchestration.tasks.conversation_changes import Conversations
from llm_server.orchestration.tasks.intake import Intake
from llm_server.orchestration.tasks.lifecycle import Lifecycle
from llm_server.orchestration.tasks.sweep import Sweep
from llm_server.orchestration.tasks.wakeups import WakeUps
from llm_server.settings import Settings

if TYPE_CHECKING:
    from llm_server.orchestration.tasks.worker import Worker

Waiting = Callable[[], AbstractContextManager[None]]
"""Makes a context that is entered while a worker waits for something that takes long."""


def now_ms() -> int:
    """Return the time as Unix milliseconds."""
    return time.time_ns() // 1_000_000


def new_id() -> str:
    """Return a new UUIDv7 (RFC 9562, 5.7): Unix milliseconds, then 74 random bits; ids sort by time."""
    random_bits = int.from_bytes(os.urandom(10), "big")
    tail = 1 << 63 | random_bits & (1 << 62) - 1  # the variant 0b10, then 62 bits
    text = f"{now_ms():012x}7{random_bits >> 68:03x}{tail:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def retention(settings: Settings) -> Retention:
    """Return the rule by which the stores delete final tasks."""
    return Retention(clock=now_ms, keep_ms=settings.keep_ms)


def _engines(settings: Settings, catalog: Catalog, secrets: Credentials) -> dict[str, Engine]:
    from llm_server.engines import factory
    from llm_server.engines.parts import EngineParts

    parts = EngineParts(
        catalog=catalog,
        credentials=secrets,
        models_dir=settings.models_dir,
        analyse=partial(analyse, own=own_roles(catalog)),
        on_aws=settings.on_aws,
    )
    return factory.build(parts)


def balancer_of(
    catalog: Catalog,
    engines: Mapping[str, Engine],
    store: EngineStateStore,
    *,
    has_credentials: Callable[[EngineSpec], bool],
    window: Window,
    price: Pricer = prices.price,
    clock: Clock = now_ms,
    waiting: Waiting = nullcontext,
) -> Balancer:
    """Build a balancer. `engines` are the adapters by name; `store` shares the engines' health between processes."""
    states = EngineStates(store, clock)
    fleet = Fleet(configured=catalog.engines, has_credentials=has_credentials, states=states)
    calls = EngineCalls(
        catalog=catalog, engines=engines, fleet=fleet, states=states, price=price, clock=clock, waiting=waiting
    )
    return Balancer(catalog=catalog, fleet=fleet, calls=calls, price=price, window=window)


def assemble(
    *,
    catalog: Catalog,
    store: Store,
    key_store: KeyStore,
    queue: Queue,
    balancer: Balancer,
    clock: Clock,
    new_id: Callable[[], str],
    random_bytes: Callable[[int], bytes],
    max_deliveries: int,
    sweep_s: int,
    prompt_max_chars: int,
    remote_images: bool = False,
    sleep: Callable[[float], None] = time.sleep,
    waiting: Waiting = nullcontext,
    after_commit: AfterCommit = at_once,
    known_overview: KnownOverview = never_known,
    live: LiveText | None = None,
    works: bool = True,
) -> Service:
    """Build a service from its ports. `random_bytes(n)` returns n cryptographically random bytes.

    `live` is told of each piece of text of streamed tasks; None if no reader of this process waits for them. If `works`
    is False, the service cannot process tasks.
    """
    sweep_ms = sweep_s * 1000
    recent = RecentText(live or NoLiveText())
    keyring, wakeups = Keyring(key_store, clock, random_bytes, after_commit=after_commit), WakeUps(queue)
    return Service(
        catalog=catalog,
        prompt_max_chars=prompt_max_chars,
        store=store,
        keyring=keyring,
        key_creation=KeyCreation(keyring=keyring, store=store, clock=clock),
        fleet=balancer.fleet,
        structured_output=balancer.calls.structured_output,
        intake=Intake(
            catalog=catalog,
            store=store,
            keyring=keyring,
            wakeups=wakeups,
            balancer=balancer,
            clock=clock,
            new_id=new_id,
            sweep_ms=sweep_ms,
            prompt_max_chars=prompt_max_chars,
            remote_images=remote_images,
        ),
        conversations=Conversations(store=store, ledger=key_store, clock=clock, new_id=new_id),
        worker=_worker(
            catalog=catalog,
            store=store,
            key_store=key_store,
            wakeups=wakeups,
            balancer=balancer,
            clock=clock,
            sleep=sleep,
            max_deliveries=max_deliveries,
            sweep_s=sweep_s,
            waiting=waiting,
            recent=recent,
        )
        if works
        else None,
        lifecycle=Lifecycle(
            store=store,
            ledger=key_store,
            keyring=keyring,
            fleet=balancer.fleet,
            wakeups=wakeups,
            clock=clock,
            sweep_ms=sweep_ms,
        ),
        sweep=Sweep(store=store, wakeups=wakeups, fleet=balancer.fleet, clock=clock, sweep_ms=sweep_ms),
        clock=clock,
        recent=recent,
        after_commit=after_commit,
        known_overview=known_overview,
    )


def _worker(
    *,
    catalog: Catalog,
    store: Store,
    key_store: KeyStore,
    wakeups: WakeUps,
    balancer: Balancer,
    clock: Clock,
    sleep: Callable[[float], None],
    max_deliveries: int,
    sweep_s: int,
    waiting: Waiting,
    recent: RecentText,
) -> Worker:
    """Build the worker. Its modules are imported here, because the API function carries out no tasks."""
    from llm_server.orchestration.execution.orchestrator import Orchestrator
    from llm_server.orchestration.tasks.worker import Worker

    orchestrator = Orchestrator(
        catalog=catalog,
        balancer=balancer,
        clock=clock,
        max_deliveries=max_deliveries,
        sweep_s=sweep_s,
        waiting=waiting,
    )
    return Worker(
        store=store,
        ledger=key_store,
        wakeups=wakeups,
        orchestrator=orchestrator,
        clock=clock,
        sleep=sleep,
        fleet=balancer.fleet,
        window=balancer.window,
        sweep_ms=sweep_s * 1000,
        deltas=store,
        recent=recent,
    )


def service_of(
    settings: Settings,
    *,
    store: Store,
    key_store: KeyStore,
    queue: Queue,
    catalog: Catalog,
    new_id: Callable[[], str] = new_id,
    works: bool = True,
    waiting: Waiting = nullcontext,
    after_commit: AfterCommit = at_once,
    known_overview: KnownOverview = never_known,
    live: LiveText | None = None,
) -> Service:
    """Build a service from the settings; its tasks get their ids from `new_id`. `live` is as in `assemble`.

    If `works` is False, it has no engine adapters and cannot process tasks.
    """
    secrets = Credentials(settings.environ)
    balancer = balancer_of(
        catalog,
        _engines(settings, catalog, secrets) if works else {},
        store,
        has_credentials=partial(has_credentials, secrets),
        window=settings.window,
        waiting=waiting,
    )
    return assemble(
        catalog=catalog,
        store=store,
        key_store=key_store,
        queue=queue,
        balancer=balancer,
        clock=now_ms,
        new_id=new_id,
        random_bytes=os.urandom,
        max_deliveries=settings.max_attempts,
        sweep_s=settings.sweep_s,
        prompt_max_chars=settings.prompt_max_chars,
        remote_images=settings.remote_images,
        sleep=partial(_sleep, waiting),
        waiting=waiting,
        after_commit=after_commit,
        known_overview=known_overview,
        live=live,
        works=works,
    )


def _sleep(waiting: Waiting, pause_s: float) -> None:
    with waiting():
        time.sleep(pause_s)
