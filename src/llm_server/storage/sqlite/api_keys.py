"""API keys and what is counted for them, in the SQLite file of the tasks."""

from __future__ import annotations

import sqlite3

from msgspec.structs import asdict

from llm_server.orchestration.domain.api_key import Account, Charges, Key, KeyUse
from llm_server.storage import records
from llm_server.storage.sqlite.database import Database

USABLE_SINCE = 1
"""The oldest version of the database file whose tables these statements can use unchanged.

`llm-server keys` may open the file while a server of that version runs, so it must not migrate the file.
"""
_OF_A_KEY = ("keys", "in_flight", "key_requests", "key_spending", "key_reservations")
_WITHHELD = "withheld"
"""The name of the row that holds the money withheld on a day. Names of reservations contain a #, so none equals it."""


class SqliteKeys:
    """The KeyStore port over a SQLite file. Processes other than the server may open the file too."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def add_key(self, key: Key) -> bool:
        def work(db: sqlite3.Connection) -> bool:
            db.execute("INSERT OR IGNORE INTO keys VALUES (?, ?)", (key.key_id, records.encode(key)))
            return _key(db, key.key_id) == key

        return self._database.write(work)

    def swap_key(self, before: Key, after: Key) -> bool:
        def work(db: sqlite3.Connection) -> bool:
            if _key(db, before.key_id) != before:
                return False
            db.execute("UPDATE keys SET body = ? WHERE key_id = ?", (records.encode(after), before.key_id))
            return True

        return self._database.write(work)

    def remove_key(self, key_id: str) -> None:
        def work(db: sqlite3.Connection) -> None:
            for table in _OF_A_KEY:
                db.execute(f"DELETE FROM {table} WHERE key_id = ?", (key_id,))

        self._database.write(work)

    def key(self, key_id: str) -> Key | None:
        with self._database.reading() as db:
            return _key(db, key_id)

    def all_keys(self) -> list[Key]:
        with self._database.reading() as db:
            rows = db.execute("SELECT body FROM keys").fetchall()
        return [records.api_key(body) for (body,) in rows]

    def has_keys(self) -> bool:
        with self._database.reading() as db:
            return db.execute("SELECT 1 FROM keys LIMIT 1").fetchone() is not None

    def count_request(self, key_id: str, minute: int, *, most: int) -> int | None:
        count = (
            "INSERT INTO key_requests VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET requests = requests + 1"
            " WHERE requests < ? RETURNING requests"
        )

        def work(db: sqlite3.Connection) -> int | None:
            db.execute("DELETE FROM key_requests WHERE key_id = ? AND minute < ?", (key_id, minute))
            row = db.execute(count, (key_id, minute, most)).fetchone()
            return most - row[0] if row else None

        return self._database.write(work)

    def reserve(self, account: Account, name: str, microusd: int, *, max_microusd: int) -> Charges | None:
        named = "SELECT 1 FROM key_reservations WHERE (key_id, day, name) = (?, ?, ?)"

        def work(db: sqlite3.Connection) -> Charges | None:
            if db.execute(named, (account.key_id, account.day, name)).fetchone():
                return None
            charges = _charges(db, account)
            if microusd > max_microusd - charges.charged_microusd:
                return charges
            _add(db, "key_spending (key_id, day, microusd)", account, microusd)
            _add(db, "key_reservations (key_id, day, name, microusd)", account, name, microusd)
            return None

        return self._database.write(work)

    def settle(
        self, account: Account, name: str, reserved_microusd: int, cost_microusd: int, *, withheld_microusd: int = 0
    ) -> None:
        named = (account.key_id, account.day, name)

        def work(db: sqlite3.Connection) -> None:
            gone = db.execute("DELETE FROM key_reservations WHERE (key_id, day, name) = (?, ?, ?)", named)
            if gone.rowcount:
                change = cost_microusd + withheld_microusd - reserved_microusd
                _add(db, "key_spending (key_id, day, microusd)", account, change)
                if withheld_microusd:
                    _add(db, "key_reservations (key_id, day, name, microusd)", account, _WITHHELD, withheld_microusd)

        self._database.write(work)

    def withhold(self, account: Account, claim: str) -> None:
        named = "FROM key_reservations WHERE (key_id, day) = (?, ?) AND name > ? AND name < ?"
        names = (account.key_id, account.day, f"{claim}#", f"{claim}$")  # $ is the character after #

        def work(db: sqlite3.Connection) -> None:
            if microusd := db.execute(f"SELECT sum(microusd) {named}", names).fetchone()[0]:
                db.execute(f"DELETE {named}", names)
                _add(db, "key_reservations (key_id, day, name, microusd)", account, _WITHHELD, microusd)

        self._database.write(work)

    def use(self, account: Account) -> KeyUse:
        with self._database.reading() as db:
            charges = _charges(db, account)
            flights = db.execute("SELECT sum(tasks) FROM in_flight WHERE key_id = ?", (account.key_id,)).fetchone()
        return KeyUse(**asdict(charges), tasks_in_flight=flights[0] or 0)


def _key(db: sqlite3.Connection, key_id: str) -> Key | None:
    row = db.execute("SELECT body FROM keys WHERE key_id = ?", (key_id,)).fetchone()
    return records.api_key(row[0]) if row else None


def _add(db: sqlite3.Connection, into: str, account: Account, *values: str | int) -> None:
    """Insert a row for an account, or add its last value (micro-USD) to the existing row."""
    row = (account.key_id, account.day, *values)
    places = ", ".join("?" * len(row))
    db.execute(
        f"INSERT INTO {into} VALUES ({places}) ON CONFLICT DO UPDATE SET microusd = microusd + excluded.microusd", row
    )


def _charges(db: sqlite3.Connection, account: Account) -> Charges:
    place = (account.key_id, account.day)
    charged = db.execute("SELECT sum(microusd) FROM key_spending WHERE (key_id, day) = (?, ?)", place).fetchone()
    reserved = dict(db.execute("SELECT name, microusd FROM key_reservations WHERE (key_id, day) = (?, ?)", place))
    withheld = reserved.pop(_WITHHELD, 0)
    return Charges(
        charged_microusd=charged[0] or 0, under_way_microusd=sum(reserved.values()), withheld_microusd=withheld
    )
