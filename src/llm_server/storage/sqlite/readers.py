"""Connections that read a SQLite file. In WAL mode they wait for no writer and delay none."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llm_server.storage.sqlite.failures import translated, unavailable

MAX_READERS = 8


class Readers:
    """Up to eight connections that threads borrow for one read. Each is opened when it is needed first."""

    def __init__(self, connect: Callable[[], sqlite3.Connection], path: Path) -> None:
        self._connect = connect
        self._path = path
        self._places = threading.BoundedSemaphore(MAX_READERS)
        self._idle: list[sqlite3.Connection] = []
        self._is_closed = False

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Read one consistent state of the database, even with several statements.

        The state has every write that was acknowledged before. Raises StorageUnavailable if SQLite reports an error.
        """
        with self._places:
            try:
                connection = self._borrowed()
                with self._in_transaction(connection):
                    yield connection
            except sqlite3.Error as error:
                raise translated(error, self._path) from error

    def close(self) -> None:
        """Close the idle connections; one in use is closed when it is given back."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()

    @contextmanager
    def _in_transaction(self, connection: sqlite3.Connection) -> Iterator[None]:
        """Hold a transaction during the block. Then keep the connection, or close it if SQLite reported an error."""
        is_usable = True
        try:
            connection.execute("BEGIN")
            try:
                yield
            finally:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            is_usable = False
            raise
        finally:
            if is_usable:
                self._give_back(connection)
            else:
                connection.close()

    def _borrowed(self) -> sqlite3.Connection:
        if self._is_closed:
            raise unavailable()
        try:
            return self._idle.pop()
        except IndexError:
            return self._connect()

    def _give_back(self, connection: sqlite3.Connection) -> None:
        self._idle.append(connection)
        if self._is_closed:
            self.close()
