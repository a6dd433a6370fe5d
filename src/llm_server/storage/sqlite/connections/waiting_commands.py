"""The commands that wait for the writer: those of workers first, then those of requests by turns between tenants."""

from __future__ import annotations

import threading
from collections import deque
from queue import SimpleQueue
from typing import Generic, TypeVar

from llm_server.orchestration.domain.turns import Line, Turns

C = TypeVar("C")


class WaitingCommands(Generic[C]):
    """Commands of any thread for one other thread, which alone takes them.

    A command without a line comes from a thread that waits for it, and goes before the requests. There are few such
    threads, so requests are not starved. Many requests of one tenant hold up neither the workers nor another tenant.
    """

    def __init__(self) -> None:
        self._first = deque[C]()
        self._requests = Turns[C]()
        self._lock = threading.Lock()
        """Guards the requests. A deque needs no lock."""
        self._signals = SimpleQueue[bool]()
        """One True for each command, sent when the command is there, and a False at the end."""

    def put(self, command: C, line: Line | None) -> None:
        if line is None:
            self._first.append(command)
        else:
            with self._lock:
                self._requests.put(line, command)
        self._signals.put(True)

    def end(self) -> None:
        """Let `get` return None once it has returned all commands. No command may be added after this."""
        self._signals.put(False)

    def get(self) -> C | None:
        """Wait for the next command; None at the end."""
        if not self._signals.get():
            self._signals.put(False)  # nothing comes after the end
            return None
        if self._first:
            return self._first.popleft()
        with self._lock:
            line, command = self._requests.take()
            self._requests.give_back(line)
            return command

    def get_now(self) -> C | None:
        """Return the next command, or None if none waits now."""
        return None if self._signals.empty() else self.get()
