"""The callers that are told of a task, by task, until the server stops."""

from __future__ import annotations

import threading
from typing import Generic, Protocol, TypeVar

from llm_server.orchestration.domain.task import TaskRef


class Listener(Protocol):
    """A caller that waits for news of one task."""

    ref: TaskRef


T = TypeVar("T", bound=Listener)


class ByTask(Generic[T]):
    """The listeners of one event loop. All methods may be called on any thread; `of` takes no lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: dict[TaskRef, tuple[T, ...]] = {}
        self._is_stopping = False

    def add(self, listener: T) -> bool:
        """Add a listener. Returns False, with nothing added, if the server is stopping."""
        with self._lock:
            if not self._is_stopping:
                self._listeners[listener.ref] = (*self.of(listener.ref), listener)
            return not self._is_stopping

    def remove(self, listener: T) -> None:
        """Remove a listener. Calling this again has no further effect."""
        with self._lock:
            others = tuple(other for other in self._listeners.pop(listener.ref, ()) if other is not listener)
            if others:
                self._listeners[listener.ref] = others

    def of(self, ref: TaskRef) -> tuple[T, ...]:
        """Return the listeners of a task."""
        return self._listeners.get(ref, ())

    def pop(self, ref: TaskRef) -> tuple[T, ...]:
        """Remove the listeners of a task, and return them."""
        with self._lock:
            return self._listeners.pop(ref, ())

    def stop(self) -> list[T]:
        """Remove all listeners, and return them. No more are added."""
        with self._lock:
            self._is_stopping = True
            listeners = [listener for each in self._listeners.values() for listener in each]
            self._listeners.clear()
        return listeners

    @property
    def count(self) -> int:
        """How many listeners there are."""
        return sum(map(len, self._listeners.values()))
