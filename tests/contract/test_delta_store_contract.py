"""The text of streamed tasks in each store: a reader with any cursor gets the rest, and deletion leaves nothing."""

from __future__ import annotations

import math
import time

import pytest

from llm_server.orchestration.domain import event_numbers
from llm_server.orchestration.domain.errors import TaskLost
from llm_server.orchestration.domain.ports.deltas import Delta
from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.domain.task import DAY_MS, Task
from llm_server.orchestration.events.recent_text import RecentText
from llm_server.orchestration.events.text_stream import TextStream
from llm_server.storage.dynamodb.store import DynamoStore
from llm_server.storage.sqlite.store import SqliteStore
from support.aws_emulators import Substrate
from support.builders import NOW_MS, a_request, a_task, an_output, claimed, prose
from support.dynamodb_wire import Wire, size


class NoReaders:
    """No reader of this process."""

    def publish(self, *_: object) -> None:
        """Do nothing."""


def a_claim(store: Store) -> Task:
    task = a_task(tenant="acme")
    store.add(task, a_request(stream=True))
    store.save(task, claimed(task))
    return claimed(task)


def deltas(rev: int, *texts: str, first: int = 0, item: int = event_numbers.FIRST_CALL, step: str = "") -> list[Delta]:
    numbers = (event_numbers.number(rev, event_numbers.TEXT + first + n) for n in range(len(texts)))
    return [
        Delta(number=number, item=item, text=text, at_ms=NOW_MS + n, step=step)
        for n, (number, text) in enumerate(zip(numbers, texts, strict=True))
    ]


def test_the_groups_of_an_item_are_its_text(store: Store) -> None:
    task = a_claim(store)
    store.append(task.ref, deltas(2, "One ", "by "))
    store.append(task.ref, deltas(2, "one ", "\u00e9\U0001f600", first=2))

    found = store.deltas(task.ref)
    assert "".join(delta.text for delta in found) == "One by one \u00e9\U0001f600"
    assert {delta.item for delta in found} == {event_numbers.FIRST_CALL}
    assert [delta.number for delta in found] == sorted(delta.number for delta in found)


def test_the_deltas_of_parallel_steps_keep_apart(store: Store) -> None:
    task = a_claim(store)
    one, two = deltas(2, "a", step="s1", item=7), deltas(2, "b", "c", step="s2", item=9, first=1)
    store.append(task.ref, [*one, *two])

    found = store.deltas(task.ref)
    assert [(d.item, d.step) for d in found if d.text == "a"] == [(7, "s1")]
    assert "".join(d.text for d in found if (d.item, d.step) == (9, "s2")) == "bc"


def test_a_group_that_is_stored_again_is_there_once(store: Store) -> None:
    """The reply to the first write was lost."""
    task, group = a_claim(store), deltas(2, "One ", "by ")
    for _ in range(2):
        store.append(task.ref, group)

    assert "".join(delta.text for delta in store.deltas(task.ref)) == "One by "


def test_a_reader_with_any_cursor_that_was_shown_gets_exactly_the_rest(store: Store) -> None:
    task = a_claim(store)
    store.append(task.ref, deltas(2, "a", "b", "c"))
    store.append(task.ref, deltas(2, "d", "e", first=3))
    shown = store.deltas(task.ref)

    for index, delta in enumerate(shown):
        assert store.deltas(task.ref, after=delta.number) == shown[index + 1 :]


def test_a_reader_of_sqlite_may_stop_in_the_middle_of_a_group(sqlite_store: SqliteStore) -> None:
    """The readers of the embedded server see pieces before they are stored."""
    task, group = a_claim(sqlite_store), deltas(2, "a", "b", "c")
    sqlite_store.append(task.ref, group)

    assert sqlite_store.deltas(task.ref) == group
    assert sqlite_store.deltas(task.ref, after=group[0].number) == group[1:]


def test_sqlite_refuses_the_text_of_a_claim_that_lost_its_task(sqlite_store: SqliteStore) -> None:
    task = a_claim(sqlite_store)
    sqlite_store.save(task, task.cancelled(now_ms=NOW_MS))
    with pytest.raises(TaskLost):
        sqlite_store.append(task.ref, deltas(2, "late"))

    assert sqlite_store.deltas(task.ref) == []


def test_no_text_is_left_that_comes_after_its_task_was_deleted(store: Store) -> None:
    """SQLite refuses it. On DynamoDB a worker whose save is refused completes the removal."""
    task = a_claim(store)
    answer = an_output(text="Hello.")
    store.save(task, task.completed(answer), answer)
    store.delete(task.completed(answer))
    if isinstance(store, SqliteStore):
        with pytest.raises(TaskLost):
            store.append(task.ref, deltas(2, "late"))
    else:
        store.append(task.ref, deltas(2, "late"))
        store.purge(task.ref)

    assert store.deltas(task.ref) == []


def test_a_task_is_read_as_before_beside_its_text(store: Store) -> None:
    task = a_claim(store)
    store.append(task.ref, deltas(2, "Hello."))
    answer = an_output(text="Hello.")
    store.save(task, task.completed(answer), answer)

    snapshot = store.get(task.ref)
    assert snapshot.result == "Hello."
    assert [key.kind for key in snapshot.outputs] == ["answer"]


def test_a_deleted_task_leaves_no_text(store: Store) -> None:
    task = a_claim(store)
    store.append(task.ref, deltas(2, "Hello."))
    answer = an_output(text="Hello.")
    store.save(task, task.completed(answer), answer)
    store.delete(task.completed(answer))

    assert store.deltas(task.ref) == []


def test_the_text_of_a_tenant_is_erased(store: Store) -> None:
    task = a_claim(store)
    store.append(task.ref, deltas(2, "Hello."))
    answer = an_output(text="Hello.")
    store.save(task, task.completed(answer), answer)
    store.erase("acme")

    assert store.deltas(task.ref) == []


def test_no_text_is_found_under_a_name_that_no_task_can_have(store: Store) -> None:
    assert store.deltas(a_task("\ud800").ref) == []


def test_text_expires_with_its_task_on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> None:
    from llm_server.orchestration.domain.retention import Retention
    from llm_server.storage.sqlite.database import Database
    from support.scripted_engine import Clock

    clock = Clock()
    path = tmp_path_factory.mktemp("expiry") / "tasks.db"
    store = SqliteStore(Database(path), Retention(clock=clock, keep_ms=DAY_MS))
    task = a_claim(store)
    store.append(task.ref, deltas(2, "Hello."))
    answer = an_output(text="Hello.")
    store.save(task, task.completed(answer), answer)
    clock.pass_s(2 * DAY_MS / 1000)
    store.prune(10)

    assert store.deltas(task.ref) == []
    store.close()


def test_text_is_kept_as_long_as_the_other_texts_of_its_task_on_dynamodb(moto_substrate: Substrate) -> None:
    from llm_server.orchestration.domain.retention import SLACK_MS, Retention

    retention = Retention(clock=lambda: NOW_MS + DAY_MS, keep_ms=30 * DAY_MS)
    store = DynamoStore(moto_substrate.dynamodb, moto_substrate.table, draw=lambda _: 0, retention=retention)
    task = a_claim(store)
    [delta] = group = deltas(2, "Hello.")
    store.append(task.ref, group)

    def ttl() -> int:
        key = {"pk": {"S": f"T#acme#{task.task_id}"}, "sk": {"S": f"TEXT~{delta.number:016d}"}}
        return int(moto_substrate.dynamodb.get_item(TableName=moto_substrate.table, Key=key)["Item"]["ttl"]["N"])

    assert ttl() == (NOW_MS + SLACK_MS + 30 * DAY_MS) // 1000
    store.retain(task)
    assert ttl() == (NOW_MS + DAY_MS + SLACK_MS + 30 * DAY_MS) // 1000


def test_an_answer_of_2000_tokens_costs_at_most_12_write_units(moto_store: DynamoStore, wire: Wire) -> None:
    """Natural text, one piece for each token of about 4.5 characters, from an engine that is faster than the pace."""
    task = a_claim(moto_store)
    text = "".join(prose(1_000)[:9])
    pieces = [text[start : start + 5] for start in range(0, len(text), 5)]
    before = len(wire.calls)
    stream = TextStream(
        task.ref,
        task.rev,
        store=moto_store,
        recent=RecentText(NoReaders()),
        clock=lambda: NOW_MS,
        is_over=lambda: False,
    )
    take = stream.open_item(event_numbers.FIRST_CALL, "")
    for piece in pieces:
        take(piece)
        time.sleep(0.001)  # the thread that stores the groups needs a moment
    stream.freeze()
    assert stream.flush()
    stream.close()

    puts = [item for call in wire.calls[before:] for item in call.puts]
    assert "".join(delta.text for delta in moto_store.deltas(task.ref)) == text
    assert len(moto_store.deltas(task.ref)) == len(puts)  # each group is joined
    assert len(text.encode()) > 8_000
    assert len(puts) > 5
    assert sum(math.ceil(size(item) / 1024) for item in puts) <= 12
