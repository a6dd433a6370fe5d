"""The embedded store's API keys and what is counted for them, in the tasks' file."""

from __future__ import annotations

from pathlib import Path

from llm_server.orchestration.key import Account, Key, KeyUse
from llm_server.storage import records
from llm_server.storage.sqlite_file import Database


class SqliteKeys:
    """The KeyStore port over a SQLite file; a process beside the server's may open it too."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path, durable=True)

    def close(self) -> None:
        self._database.close()

    def put_key(self, key: Key) -> None:
        with self._database.transaction() as db:
            db.execute("INSERT OR REPLACE INTO keys VALUES (?, ?)", (key.key_id, records.encode(key)))

    def key(self, key_id: str) -> Key | None:
        with self._database.reading() as db:
            row = db.execute("SELECT body FROM keys WHERE key_id = ?", (key_id,)).fetchone()
        return records.KEY.decode(row[0]) if row else None

    def all_keys(self) -> list[Key]:
        with self._database.reading() as db:
            rows = db.execute("SELECT body FROM keys").fetchall()
        return [records.KEY.decode(body) for (body,) in rows]

    def has_keys(self) -> bool:
        with self._database.reading() as db:
            return db.execute("SELECT 1 FROM keys LIMIT 1").fetchone() is not None

    def count_request(self, key_id: str, minute: int, *, most: int) -> int | None:
        count = (
            "INSERT INTO key_requests VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET requests = requests + 1"
            " WHERE requests < ? RETURNING requests"
        )
        with self._database.transaction() as db:
            db.execute("DELETE FROM key_requests WHERE key_id = ? AND minute < ?", (key_id, minute))
            row = db.execute(count, (key_id, minute, most)).fetchone()
        return most - row[0] if row else None

    def reserve(self, account: Account, name: str, microusd: int, *, most_microusd: int) -> int | None:
        place = (account.key_id, account.day)
        named = "SELECT 1 FROM key_reservations WHERE (key_id, day, name) = (?, ?, ?)"
        with self._database.transaction() as db:
            if db.execute(named, (*place, name)).fetchone():
                return None
            db.execute("INSERT INTO key_spending VALUES (?, ?, 0) ON CONFLICT DO NOTHING", place)
            query = "SELECT microusd FROM key_spending WHERE (key_id, day) = (?, ?)"
            left = most_microusd - int(db.execute(query, place).fetchone()[0])
            if microusd > left:
                return max(0, left)
            charge = "UPDATE key_spending SET microusd = microusd + ? WHERE (key_id, day) = (?, ?)"
            db.execute(charge, (microusd, *place))
            db.execute("INSERT INTO key_reservations VALUES (?, ?, ?, ?)", (*place, name, microusd))
        return None

    def settle(self, account: Account, name: str, reserved_microusd: int, cost_microusd: int) -> None:
        place = (account.key_id, account.day)
        with self._database.transaction() as db:
            gone = db.execute("DELETE FROM key_reservations WHERE (key_id, day, name) = (?, ?, ?)", (*place, name))
            if gone.rowcount:
                charge = "UPDATE key_spending SET microusd = microusd + ? WHERE (key_id, day) = (?, ?)"
                db.execute(charge, (cost_microusd - reserved_microusd, *place))

    def use(self, account: Account) -> KeyUse:
        place = (account.key_id, account.day)
        sums = (
            ("SELECT sum(microusd) FROM key_spending WHERE (key_id, day) = (?, ?)", place),
            ("SELECT sum(microusd) FROM key_reservations WHERE (key_id, day) = (?, ?)", place),
            ("SELECT sum(tasks) FROM in_flight WHERE key_id = ?", (account.key_id,)),
        )
        with self._database.reading() as db:
            charged, unsettled, tasks = (db.execute(*each).fetchone()[0] or 0 for each in sums)
        return KeyUse(charged_microusd=charged, unsettled_microusd=unsettled, tasks_in_flight=tasks)
