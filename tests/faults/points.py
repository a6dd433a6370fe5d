"""The points of attack: every call of a process to the outside, numbered, with the fault it will meet."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from faults.kinds import Failures, Killed, Kind

Made = TypeVar("Made")
TEXT_THREAD = "text-stream"
COMMIT = " commit"
"""The suffix of a point's name if the point is not a call, but the commit of a transaction inside a call."""


@dataclass(frozen=True, slots=True)
class Point:
    """One call of one caller, numbered from 1, and the name of the called function.

    `in_command` says that it is part of a command of SQLite's writer, so that no other process can write meanwhile.
    """

    caller: str
    number: int
    name: str
    in_command: bool = False

    def __str__(self) -> str:
        return f"{self.caller} {self.number} ({self.name})"


class Caller:
    """One process as the attack sees it: its calls so far, and whether it lives.

    `faults` are by number of the call, among the calls whose name begins with `of`. `meanwhile` is what the rest of the
    world does while a call of this process hangs; `stall` is what happens if all other processes have to wait for it.
    After a kill, every later call raises too, so that a `finally` block writes nothing.
    """

    def __init__(
        self,
        name: str,
        faults: Mapping[int, Kind] | None = None,
        *,
        of: str = "",
        meanwhile: Callable[[], object] = lambda: None,
        stall: Callable[[], object] = lambda: None,
    ) -> None:
        self.name = name
        self.points: list[Point] = []
        self.met: list[tuple[Point, Kind]] = []
        self.is_dead = False
        self.texts_tried = 0
        """How many writes of streamed text have ended, in whatever way. They are made by a thread of their own."""
        self._faults = faults or {}
        self._of = of
        self._of_those = 0
        self._meanwhile = meanwhile
        self._stall = stall
        self._lock = threading.Lock()
        self._on_this_thread = threading.local()

    @property
    def _in_command(self) -> bool:
        return getattr(self._on_this_thread, "commands", 0) > 0

    @property
    def _hang(self) -> Callable[[], object]:
        """What a hanging call does: inside a command all other writers wait for it, otherwise they go on."""
        return self._stall if self._in_command else self._meanwhile

    def call(self, name: str, act: Callable[[], Made], failures: Failures) -> Made:
        """Make one call, with the fault that is planned for it."""
        kind = self._arrive(name)
        self._before(kind, name, failures, hang=self._hang)
        try:
            if kind is Kind.TWICE:
                act()
            made = act()
        except Killed:  # by the other side: a prompt can kill
            self.is_dead = True
            raise
        self._after(kind, name, failures)
        return made

    def call_of_a_thread(self, name: str, act: Callable[[], Made], failures: Failures) -> Made:
        """Make one call as `call` does, and count it if it stores streamed text."""
        try:
            return self.call(name, act, failures)
        finally:
            if threading.current_thread().name == TEXT_THREAD:
                self.texts_tried += 1

    def commit(
        self, name: str, write: Callable[..., Any], failures: Failures, work: Callable[[Any], Any], *line: object
    ) -> Any:
        """Let the commit of a write meet its planned fault; until it is over, no other caller can write."""
        kinds = list[Kind | None]()

        def worked(connection: Any) -> Any:
            here = self._on_this_thread
            here.commands = getattr(here, "commands", 0) + 1
            try:
                result = work(connection)
            finally:
                here.commands -= 1
            kinds.append(self._arrive(name))
            self._before(kinds[0], name, failures, hang=self._stall)
            return result

        result = write(worked, *line)
        self._after(kinds[0], name, failures)
        return result

    def _before(self, kind: Kind | None, name: str, failures: Failures, *, hang: Callable[[], object]) -> None:
        match kind:
            case Kind.ERROR:
                raise failures.error(name)
            case Kind.THROTTLED:
                raise failures.throttled(name)
            case Kind.KILLED_BEFORE:
                self.kill()
            case Kind.DELAYED:
                hang()

    def _after(self, kind: Kind | None, name: str, failures: Failures) -> None:
        if kind is Kind.KILLED_AFTER:
            self.kill()
        if kind is Kind.LATE:
            self._hang()
        if self.is_dead:
            raise Killed(self.name)
        if kind is Kind.LOST:
            raise failures.lost(name)

    def kill(self) -> None:
        self.is_dead = True
        raise Killed(self.name)

    def _arrive(self, name: str) -> Kind | None:
        with self._lock:
            if self.is_dead:
                raise Killed(self.name)
            point = Point(self.name, len(self.points) + 1, name, self._in_command)
            self.points.append(point)
            if not name.startswith(self._of):
                return None
            self._of_those += 1  # counted on: to count the points anew at each call takes longer with every call
            kind = self._faults.get(self._of_those)
            if kind:
                self.met.append((point, kind))
            return kind


class Unseen(Caller):
    """The test itself: its calls meet no fault. One object serves the whole run, so it keeps no list of calls."""

    def _arrive(self, name: str) -> Kind | None:
        return None


class Watched:
    """Wraps an object; each call of a method is a point of its caller."""

    def __init__(self, target: Any, name: str, caller: Caller, failures: Failures) -> None:
        self._target = target
        self._name = name
        self._caller = caller
        self._failures = failures

    def __getattr__(self, name: str) -> Any:
        return partial(self._through, f"{self._name}.{name}", getattr(self._target, name))

    def _through(self, name: str, method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return self._caller.call_of_a_thread(name, partial(method, *arguments, **named), self._failures)


class Commits:
    """A database as one caller writes to it; each commit is a point, where a kill rolls back or leaves half a method.

    The beginning of a transaction is not a point: a fault there is the same as one at the commits around it.
    """

    def __init__(self, database: Any, name: str, caller: Caller, failures: Failures) -> None:
        self.reading = database.reading
        self.after_commit = database.after_commit
        self.write = partial(caller.commit, f"{name}{COMMIT}", database.write, failures)
