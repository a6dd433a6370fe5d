"""The overview: totals and gauges, and the engines' records."""

from __future__ import annotations

import sqlite3

from llm_server.orchestration.domain.ports.store import Overview
from llm_server.storage.sqlite import counters, engine_states


def read(db: sqlite3.Connection) -> Overview:
    return counters.read(db), engine_states.read(db)
