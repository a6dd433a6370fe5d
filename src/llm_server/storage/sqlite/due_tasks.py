"""What is open and due in the embedded store: read page by page, what must be looked at on time first."""

from __future__ import annotations

from collections.abc import Iterator

from llm_server.orchestration.domain.ports import Due
from llm_server.orchestration.domain.task import TaskRef
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.schema import SURE

PAGE = 100
_DUE = "SELECT due_ms, tenant, task_id FROM tasks WHERE due_ms <= ? AND ({}) AND (due_ms, tenant, task_id) > (?, ?, ?)"
_IN_ORDER = f" ORDER BY due_ms, tenant, task_id LIMIT {PAGE}"
SURE_DUE = _DUE.format(SURE) + _IN_ORDER
OTHERS_DUE = _DUE.format(f"({SURE}) IS NOT TRUE") + _IN_ORDER


def due(database: Database, now_ms: int) -> Iterator[Due]:
    """Those with a worker or a near deadline, then the others; an entry that stays due does not come again."""
    for query in (SURE_DUE, OTHERS_DUE):
        last, more = (-1, "", ""), True
        while more:
            with database.reading() as db:
                rows = db.execute(query, (now_ms, *last)).fetchall()
            yield from (Due(TaskRef(tenant, task_id), due_ms) for due_ms, tenant, task_id in rows)
            more = len(rows) == PAGE
            last = rows[-1] if more else last
