"""A process of the server under attack: all its objects are new, and every call to the outside is a point."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from faults.engine import HashEngine
from faults.kinds import ENGINE
from faults.points import Caller, Watched
from faults.substrates import Substrate
from llm_server import wiring
from llm_server.orchestration.dispatch.balancer import Balancer
from llm_server.orchestration.dispatch.window import Window
from llm_server.orchestration.domain.engines.call import Completion, EngineCall
from llm_server.orchestration.domain.engines.catalog import Catalog
from llm_server.orchestration.domain.ports.clock import Clock
from llm_server.orchestration.domain.ports.keys import KeyStore
from llm_server.orchestration.domain.ports.queue import Queue
from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.service import Service
from support.scripted_engine import price

MAX_DELIVERIES = 8
PROMPT_MAX_CHARS = 10_000


class Buyer:
    """The engine as one process calls it.

    `before` is called when a call is decided, not when it arrives, and `after_piece` after each piece of streamed text.
    """

    def __init__(
        self,
        engine: HashEngine,
        caller: Caller,
        before: Callable[[EngineCall], object],
        after_piece: Callable[[Caller], object],
    ) -> None:
        self._watched: Any = Watched(engine, "engine", caller, ENGINE)
        self._caller = caller
        self._before = before
        self._after_piece = after_piece

    def complete(self, call: EngineCall, *, timeout_s: float) -> Completion:
        self._before(replace(call, on_text=None))
        on_text = call.on_text
        if on_text is not None:
            call = replace(call, on_text=lambda piece: (on_text(piece), self._after_piece(self._caller))[0])
        completion: Completion = self._watched.complete(call, timeout_s=timeout_s)
        return completion


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A service without any memory of earlier processes."""

    service: Service
    caller: Caller
    clock: Clock

    @classmethod
    def start(
        cls,
        caller: Caller,
        substrate: Substrate,
        catalog: Catalog,
        engine: HashEngine,
        others: Mapping[str, HashEngine],
        *,
        clock: Clock,
        sleep: Callable[[float], None],
        new_id: Callable[[], str],
        before: Callable[[EngineCall], object],
        after_piece: Callable[[Caller], object],
    ) -> Process:
        """Build a service as the wiring does, with watched clients.

        `before` is called with each engine call, `after_piece` after each piece of streamed text.

        `others` are engines by name; `engine` is the engine of all other names.
        """
        store, queue = substrate.store(caller), substrate.queue(caller)
        balancer = wiring.balancer_of(
            catalog,
            {name: Buyer(others.get(name, engine), caller, before, after_piece) for name in catalog.engines},
            store,
            has_credentials=lambda _: True,
            price=price,
            clock=clock,
            window=Window(lease_s=substrate.lease_s),
        )
        service = _service(
            substrate,
            catalog,
            balancer,
            store=store,
            keys=substrate.keys(caller),
            queue=queue,
            clock=clock,
            sleep=sleep,
            new_id=new_id,
        )
        return cls(service=service, caller=caller, clock=clock)


def _service(
    substrate: Substrate,
    catalog: Catalog,
    balancer: Balancer,
    *,
    store: Store,
    keys: KeyStore,
    queue: Queue,
    clock: Clock,
    sleep: Callable[[float], None],
    new_id: Callable[[], str],
) -> Service:
    return wiring.assemble(
        catalog=catalog,
        store=store,
        key_store=keys,
        queue=queue,
        balancer=balancer,
        max_deliveries=MAX_DELIVERIES,
        clock=clock,
        new_id=new_id,
        random_bytes=os.urandom,
        sweep_s=substrate.sweep_s,
        prompt_max_chars=PROMPT_MAX_CHARS,
        sleep=sleep,
    )
