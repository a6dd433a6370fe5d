"""A state that only a newer version can read is left alone, and is in no other task's way (ADR 18)."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from llm_server.orchestration.domain.errors import RecordUnreadable
from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.domain.task import Task
from llm_server.storage import records
from support.aws_emulators import Substrate
from support.builders import NOW_MS, a_request, a_task

Spoil = Callable[[Task], None]


@pytest.fixture
def spoil(adapter: str, tmp_path: Path, request: pytest.FixtureRequest) -> Spoil:
    """Give a stored task a status that this version does not know."""

    def newer(task: Task) -> str:
        return json.dumps(json.loads(records.encode(task)) | {"status": "Paused"})

    def in_file(task: Task) -> None:
        connection = sqlite3.connect(tmp_path / "tasks.db")
        connection.execute("UPDATE tasks SET body = ? WHERE task_id = ?", (newer(task), task.task_id))
        connection.commit()
        connection.close()

    if adapter == "sqlite":
        return in_file
    on: Substrate = request.getfixturevalue(f"{adapter}_substrate")

    def in_table(task: Task) -> None:
        on.dynamodb.update_item(
            TableName=on.table,
            Key={"pk": {"S": f"T#{task.tenant}#{task.task_id}"}, "sk": {"S": "STATE"}},
            UpdateExpression="SET body = :body",
            ExpressionAttributeValues={":body": {"S": newer(task)}},
        )

    return in_table


def test_a_state_of_a_newer_version_is_refused_by_name(store: Store, spoil: Spoil) -> None:
    """Not with an error of the decoder: callers are asked to come again, and workers give the message back."""
    task = a_task()
    store.add(task, a_request())
    spoil(task)

    with pytest.raises(RecordUnreadable):
        store.get(task.ref)
    with pytest.raises(RecordUnreadable):
        store.peek(task.ref)


def test_the_listing_goes_on_without_it(store: Store, spoil: Spoil) -> None:
    """Page by page: the token after a page that it would have been on leads on."""
    tasks = [a_task(created_ms=NOW_MS + n) for n in range(3)]
    for task in tasks:
        store.add(task, a_request())
    spoil(tasks[1])

    found, token = list[str](), ""
    for _ in tasks:
        page = store.page("local", size=1, token=token)
        found += [task.task_id for task in page.tasks]
        token = page.next_token
        if not token:
            break

    assert found == [tasks[2].task_id, tasks[0].task_id]


def test_it_is_told_from_one_that_is_not_there(store: Store, spoil: Spoil) -> None:
    """The sweep puts it off, and looks at the others."""
    newer, other, unknown = a_task(), a_task(), a_task()
    store.add(newer, a_request())
    store.add(other, a_request())
    spoil(newer)

    assert store.peek_each([newer.ref, other.ref, unknown.ref]) == {newer.ref: None, other.ref: other}
