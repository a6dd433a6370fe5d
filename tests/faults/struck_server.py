"""The command line with a disk that a test controls: `python -m faults.struck_server serve ...`.

The environment variable FAULTS_DISK names a file. Its text says what befalls the writer's transactions:

- `before N`, `after N`, `next N`: the process kills itself before the N-th commit from now on, after it and before the
  commands are acknowledged, or before the transaction that follows.
- `slow S`: each commit takes S seconds longer.
- `full`: the database cannot become larger.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

ORDERS = "FAULTS_DISK"
_NO_LIMIT = 2**30


class Disk(sqlite3.Connection):
    """A connection that reads the orders before each transaction of the writer and before its commit."""

    orders = ""
    commits = 0
    """Since the orders came."""
    is_full = False

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        if threading.current_thread().name != "writer" or sql not in ("BEGIN IMMEDIATE", "COMMIT"):
            return super().execute(sql, *values)
        orders = Path(os.environ[ORDERS]).read_text(encoding="utf-8")
        if orders != self.orders:
            self.orders, self.commits = orders, 0
        order, _, number = orders.partition(" ")
        if sql == "BEGIN IMMEDIATE":
            if order == "next" and self.commits == int(number):
                os.kill(os.getpid(), signal.SIGKILL)
            self._limit(order == "full")
            return super().execute(sql)
        self.commits += 1
        if order == "slow":
            time.sleep(float(number))
        if order == "before" and self.commits == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        done = super().execute(sql)
        if order == "after" and self.commits == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    def _limit(self, is_full: bool) -> None:
        if is_full is not self.is_full:
            self.is_full = is_full
            pages = super().execute("PRAGMA page_count").fetchone()[0] if is_full else _NO_LIMIT
            super().execute(f"PRAGMA max_page_count = {pages}")


if __name__ == "__main__":
    connect = sqlite3.connect
    sqlite3.connect = lambda *path, **options: connect(*path, factory=Disk, **options)  # type: ignore[assignment]
    from llm_server.__main__ import main

    main()
