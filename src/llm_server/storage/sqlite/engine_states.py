"""The records of the engines: one row for each state and one for each switch."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from llm_server.orchestration.domain.engines.state import EngineRecords, EngineState, EngineSwitch, SwitchName
from llm_server.storage import records


def read(db: sqlite3.Connection) -> EngineRecords:
    states = db.execute("SELECT name, body FROM engines").fetchall()
    switches = db.execute("SELECT name, body FROM switches").fetchall()
    return EngineRecords(
        states={name: records.engine_state(body) for name, body in states},
        switches={name: records.engine_switch(body) for name, body in switches},
    )


def switch(
    db: sqlite3.Connection, engine: str, changes: Mapping[SwitchName, bool | None], now_ms: int
) -> EngineRecords:
    changed = read(db).switches.get(engine, EngineSwitch()).changed(changes, now_ms)
    db.execute("INSERT OR REPLACE INTO switches VALUES (?, ?)", (engine, records.encode(changed)))
    return read(db)


def save(db: sqlite3.Connection, engine: str, state: EngineState) -> None:
    db.execute("INSERT OR REPLACE INTO engines VALUES (?, ?)", (engine, records.encode(state)))


def swap(db: sqlite3.Connection, engine: str, before: EngineState, after: EngineState) -> bool:
    """Replace a state if it is still `before`. Return whether it was replaced."""
    if read(db).state(engine) != before:
        return False
    save(db, engine, after)
    return True
