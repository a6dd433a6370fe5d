"""Connections that read a SQLite file. In WAL mode they wait for no writer and delay none."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llm_server.storage.sqlite.connections.failures import Failures, unavailable
from llm_server.storage.sqlite.file.open_file import FileMissing

MAX_READERS = 8


class Readers:
    """Up to eight connections that threads borrow for one read. Each is opened when it is needed first."""

    def __init__(self, connect: Callable[[], sqlite3.Connection], failures: Failures) -> None:
        self._connect = connect
        self._failures = failures
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
                try:
                    connection.execute("BEGIN")
                    yield connection
                finally:
                    self._give_back(connection)
            except sqlite3.Error as error:
                raise self._failures.of(error) from error

    def close(self) -> None:
        """Close the idle connections; one in use is closed when it is given back."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()

    def _borrowed(self) -> sqlite3.Connection:
        if self._is_closed:
            raise unavailable()
        try:
            return self._idle.pop()
        except IndexError:
            return self._opened()

    def _opened(self) -> sqlite3.Connection:
        """Open a connection to the file that the writer has open. Raises FileMissing if it was replaced."""
        self._failures.file.check()
        connection = self._connect()
        try:
            self._failures.file.check()
        except FileMissing:
            connection.close()
            raise
        return connection

    def _give_back(self, connection: sqlite3.Connection) -> None:
        """End the read and keep the connection, or close it if it cannot end the read."""
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            connection.close()
            raise
        self._idle.append(connection)
        if self._is_closed:
            self.close()
