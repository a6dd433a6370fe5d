"""The commands that wait for the writer, by turns between tenants."""

from __future__ import annotations

from collections import deque
from queue import SimpleQueue
from typing import Generic, TypeVar

from llm_server.orchestration.domain.turns import Line, Turns

C = TypeVar("C")


class WaitingCommands(Generic[C]):
    """Commands of any thread for one other thread, which alone takes them.

    Those of one line keep their order, so workers do not start while the requests of a burst still come in, and many
    requests of one tenant hold up no other.

    There is no lock, because the event loop would wait for it while its holder waits for the processor: `put` only
    appends to a deque, and the thread that takes commands sorts them into their lines.
    """

    def __init__(self) -> None:
        self._arrived = deque[tuple[Line, C]]()
        self._turns = Turns[C]()
        """Only for the thread that takes commands."""
        self._signals = SimpleQueue[bool]()
        """One True for each command, sent when the command is there, and a False at the end."""

    def put(self, line: Line, command: C) -> None:
        self._arrived.append((line, command))
        self._signals.put(True)

    def end(self) -> None:
        """Let `get` return None once it has returned all commands. No command may be added after this."""
        self._signals.put(False)

    def get(self) -> C | None:
        """Wait for the next command; None at the end."""
        if not self._signals.get():
            self._signals.put(False)  # nothing comes after the end
            return None
        while self._arrived:
            self._turns.put(*self._arrived.popleft())
        line, command = self._turns.take()
        self._turns.give_back(line)
        return command

    def get_now(self) -> C | None:
        """Return the next command, or None if none waits now."""
        return None if self._signals.empty() else self.get()
