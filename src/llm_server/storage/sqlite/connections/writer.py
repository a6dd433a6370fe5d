"""Group commit: one thread makes all writes of this process to a SQLite file, and commits together what waits together.

A commit waits for the disk (synchronous=FULL). While it does, further commands arrive; they share the next commit.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar, cast

from llm_server.orchestration.domain.errors import StorageBroken
from llm_server.orchestration.domain.turns import OF_NO_TENANT, Line
from llm_server.storage.sqlite.connections.failures import Failures, unavailable
from llm_server.storage.sqlite.connections.latest_read import LatestRead
from llm_server.storage.sqlite.connections.waiting_commands import WaitingCommands

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

WARNING_S = 10.0
"""How often at most the log says that writes fail."""
MAX_BATCH_S = 0.005
"""How long commands join a transaction before it is committed."""

_log = logging.getLogger(__name__)


class Command(Generic[T]):
    """Work for another thread, and its outcome.

    `finished` is called on that thread when the outcome is known, for the writer after the commit. It must not block or
    raise. `withdrawn` is set when the caller waits no longer; a withdrawn command that has not begun is skipped.
    """

    __slots__ = ("after_commit", "error", "finished", "is_known", "result", "withdrawn", "work")

    def __init__(self, work: Callable[[], T], finished: Callable[[], object]) -> None:
        self.work = work
        self.finished = finished
        self.withdrawn = False
        self.after_commit: list[Callable[[], None]] = []
        self.result: T | None = None
        self.error: BaseException | None = None
        self.is_known = False

    def run(self) -> None:
        """Do the work; keep its result or its error."""
        try:
            self.result = self.work()
        except BaseException as error:  # the caller gets it; the thread goes on
            self.error = error

    def forget(self) -> None:
        """Forget the outcome, because the work is done again."""
        self.result, self.error = None, None
        self.after_commit.clear()

    def finish(self) -> None:
        """Make the outcome known."""
        self.is_known = True
        self.finished()

    def outcome(self) -> T:
        """Return the result. If it is not known yet, withdraw the command.

        Raises:
            StorageUnavailable: SQLite reported an error, or the outcome is not known; it may be stored or not.
            BaseException: whatever the work raised; nothing of it is stored.
        """
        if not self.is_known:
            self.withdrawn = True
            raise unavailable()
        if self.error is not None:
            raise self.error
        return cast(T, self.result)


class Writer:
    """Carries out commands one after the other, and commits them in groups.

    A command may be carried out a second time, if another command of its group fails after it has written something:
    the group is rolled back then. Savepoints would avoid that, at the cost of two more statements for each command.
    """

    def __init__(self, connection: sqlite3.Connection, failures: Failures, latest: LatestRead[Any]) -> None:
        self.connection = connection
        """Only for use inside a command."""
        self._failures = failures
        self._latest = latest
        self._commands = WaitingCommands[Command[Any]]()
        self._guard = threading.Lock()
        self._thread = threading.Thread(target=self._write, name="writer", daemon=True)
        self._is_closed = False
        self._current: Command[Any] | None = None
        self._has_failed_part = False
        self._next_warning_s = 0.0
        self._thread.start()

    @property
    def is_this_thread(self) -> bool:
        """Whether the caller runs on the writer's thread, so inside a command."""
        return self._thread.ident == threading.get_ident()

    def run(self, work: Work[T], line: Line) -> T:
        """Wait in a line, carry out `work`, and return its result after the commit.

        Inside a command, `work` becomes part of that command, and the commit comes later.

        Raises:
            StorageUnavailable: SQLite reported an error; the work may or may not be stored.
            BaseException: whatever `work` raises; nothing of it is stored.
        """
        if self.is_this_thread:
            return self._joined(work)
        committed = threading.Lock()
        committed.acquire()
        command = Command(partial(work, self.connection), committed.release)
        self.put(command, line)
        committed.acquire()
        return command.outcome()

    def put(self, command: Command[Any], line: Line = OF_NO_TENANT) -> None:
        """Hand over a command, which waits in a line, without waiting for it.

        Raises StorageUnavailable if the writer is closed.
        """
        with self._guard:
            if self._is_closed:
                raise unavailable()
            self._commands.put(line, command)

    def after_commit(self, call: Callable[[], None]) -> None:
        """Call `call` once the running command is committed, before its caller goes on; outside a command, at once."""
        if self._current is not None and self.is_this_thread:
            self._current.after_commit.append(call)
        else:
            call()

    def close(self) -> None:
        """Carry out the commands that wait, then end the thread and close the connection."""
        with self._guard:
            self._is_closed = True
            self._commands.end()
        self._thread.join()
        self.connection.close()

    def _write(self) -> None:
        while (command := self._commands.get()) is not None:
            self._commit_group(command)

    def _commit_group(self, first: Command[Any]) -> None:
        """Carry out a command, and those that wait, in one transaction; then make their outcomes known."""
        again = self._commit(first, self._commands.get_now)
        while again:
            waiting = deque(again)
            undone = self._commit(waiting.popleft(), partial(_first, waiting))
            again = [*undone, *waiting]

    def _commit(self, first: Command[Any], following: Callable[[], Command[Any] | None]) -> list[Command[Any]]:
        """Carry out and commit a command and those that follow, for `MAX_BATCH_S`.

        Returns the commands to be carried out again: those before a command that failed after it had written something.
        """
        group = [first]
        self._roll_back()  # only needed if the rollback of an earlier group failed
        try:
            self._failures.file.check()
            self.connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:  # another process holds the lock: all that wait would wait as long again
            while (waiting := following()) is not None:
                group.append(waiting)
            self._fail(group, error)
            return []
        end_s = time.monotonic() + MAX_BATCH_S
        try:
            is_clean = self._carry_out(first)
            while is_clean and time.monotonic() < end_s and (command := following()) is not None:
                group.append(command)
                is_clean = self._carry_out(command)
            if is_clean:
                self._latest.before_commit(self.connection)
                self.connection.execute("COMMIT")
                self._failures.file.check()  # or the next start would not find what is acknowledged now
        except sqlite3.Error as error:
            self._latest.forget()
            self._roll_back()
            self._fail(group, error)
            return []
        if is_clean:
            self._latest.committed()
            for command in group:
                _finish(command)
            return []
        self._roll_back()
        *others, failed = group
        _finish(failed)
        for command in others:
            command.forget()
        return others

    def _fail(self, group: list[Command[Any]], error: sqlite3.Error) -> None:
        """End the commands of a transaction that was not committed. Errors that commands raised themselves stay."""
        failure = self._failures.of(error)
        is_logged = isinstance(failure, StorageBroken)
        if not is_logged and time.monotonic() >= self._next_warning_s:
            self._next_warning_s = time.monotonic() + WARNING_S
            _log.warning("the database takes no writes", extra={"cause": str(error), "commands": len(group)})
        for command in group:
            if command.error is None:
                command.error = failure
            command.finish()

    def _carry_out(self, command: Command[Any]) -> bool:
        """Carry out one command in the open transaction.

        Returns whether the transaction can be committed. It cannot if the command has failed after it had written
        something. Raises sqlite3.Error if SQLite has rolled the transaction back, because further commands would write
        without one.
        """
        if command.withdrawn:
            command.error = unavailable()
            return True
        before = self.connection.total_changes
        self._current, self._has_failed_part = command, False
        command.run()
        self._current = None
        if self._has_failed_part and command.error is None:
            command.error = unavailable()
        if command.error is not None:
            command.error = self._told_apart(command.error)
            command.after_commit.clear()
        if not self.connection.in_transaction:
            raise sqlite3.OperationalError("the transaction was rolled back")
        if command.error is None:
            return True
        return self.connection.total_changes == before

    def _roll_back(self) -> None:
        """Roll back the transaction if one is open. If that fails, the next group tries again."""
        try:
            if self.connection.in_transaction:  # SQLite rolls back by itself after some errors
                self.connection.execute("ROLLBACK")
        except sqlite3.Error:
            _log.exception("a transaction was not rolled back")

    def _joined(self, work: Work[T]) -> T:
        """Carry out a part of the running command.

        If the part fails after it has written something, the whole command is rolled back, even if the command handles
        the error.
        """
        before = self.connection.total_changes
        try:
            return work(self.connection)
        except BaseException as error:
            self._has_failed_part |= self.connection.total_changes != before
            if isinstance(error, sqlite3.Error):
                raise self._failures.of(error) from error
            raise

    def _told_apart(self, error: BaseException) -> BaseException:
        """Return what an error of SQLite means to a caller, and any other error unchanged."""
        return self._failures.of(error) if isinstance(error, sqlite3.Error) else error


def _first(commands: deque[Command[Any]]) -> Command[Any] | None:
    return commands.popleft() if commands else None


def _finish(command: Command[Any]) -> None:
    for call in command.after_commit:
        try:
            call()
        except Exception:  # the command is committed, so its caller must learn that
            _log.exception("a call after the commit failed")
    command.finish()
