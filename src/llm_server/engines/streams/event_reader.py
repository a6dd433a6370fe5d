"""Pass events that another thread reads to the thread of the call, for a library whose waits cannot be interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from queue import Empty, SimpleQueue
from typing import Any, Self

from msgspec import Struct

from llm_server.engines.failures import BROKE_OFF
from llm_server.orchestration.domain.cancellation import Cancellation
from llm_server.orchestration.domain.errors import EngineUnavailable


class _Raised(Struct, frozen=True):
    error: Exception


class _End(Struct, frozen=True):
    """No event follows, or none is wanted any more."""


class EventReader:
    """The events of one stream: `read` puts them in, on a thread of its own; the call iterates over them.

    `until_s` is when the answer must be there, on the monotonic clock. A call that ends earlier leaves the thread
    behind, which then ends at the next event.
    """

    def __init__(self, cancellation: Cancellation, *, idle_s: float, until_s: float) -> None:
        self._cancellation = cancellation
        self._idle_s = idle_s
        self._until_s = until_s
        self._is_limited = False
        self._is_left = False
        self._events = SimpleQueue[Any]()
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        self._exits.enter_context(self._cancellation.on_cancel(lambda: self._events.put(_End())))
        return self

    def __exit__(self, *_: object) -> None:
        self._is_left = True
        self._exits.close()

    def limit_idle_time(self) -> None:
        """Limit the wait for each further event to `idle_s` seconds."""
        self._is_limited = True

    def read(self, stream: Callable[[], Generator[Any]]) -> None:
        """Read the events; what the stream raises is raised where they are iterated over."""
        try:
            with closing(stream()) as events:
                for event in events:
                    if self._is_left:
                        return
                    self._events.put(event)
        except Exception as error:  # raised again on the thread of the call
            self._events.put(_Raised(error))
        else:
            self._events.put(_End())

    def __iter__(self) -> Iterator[Any]:
        while not isinstance(event := self._next(), _End):
            if self._cancellation.is_cancelled:
                break
            if isinstance(event, _Raised):
                raise event.error
            yield event
        if self._cancellation.is_cancelled:
            raise EngineUnavailable(BROKE_OFF, may_be_billed=True)

    def _next(self) -> Any:
        left_s = max(0.0, self._until_s - time.monotonic())
        try:
            return self._events.get(timeout=min(left_s, self._idle_s) if self._is_limited else left_s)
        except Empty:
            raise EngineUnavailable("The engine did not answer in time.", kind="timeout", may_be_billed=True) from None
