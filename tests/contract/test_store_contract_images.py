"""What every store promises about images and function calls: they come back whole, cost others nothing, and go."""

from __future__ import annotations

import pytest

from llm_server.orchestration.domain.conversation import Conversation, Turn
from llm_server.orchestration.domain.engines.message import ToolChoice
from llm_server.orchestration.domain.errors import ConversationBusy, TaskNotFound, TooManyInFlight
from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.domain.task import Task
from llm_server.storage import records
from llm_server.storage.dynamodb import items
from llm_server.storage.dynamodb.store import DynamoStore
from support.aws_emulators import Substrate
from support.builders import NOW_MS, a_request, a_task, an_output, claimed
from support.dynamodb_wire import recording
from support.sent import WEATHER, a_call, an_image, with_images

MB = 1_000_000
LARGE = an_image(4 * MB)
SEEN = a_request(
    messages=with_images("Say hello.", LARGE),
    instructions="Be brief.",
    tools=(WEATHER,),
    tool_choice=ToolChoice(mode="required"),
    needs_before=("tools", "vision"),
)


def completed(store: Store) -> Task:
    """Store a Completed task with an image, whose answer asks for a function call."""
    task = a_task()
    store.add(task, SEEN)
    store.save(task, claimed(task))
    answer = an_output(text="", tool_calls=(a_call(),))
    ended = claimed(task).completed(answer)
    store.save(claimed(task), ended, answer)
    return ended


def test_a_request_with_an_image_comes_back_as_it_went_in(store: Store) -> None:
    """Its 4 MB are more than a DynamoDB item, a page of a query and a transaction can hold."""
    task = a_task()

    assert store.add(task, SEEN)

    assert store.get(task.ref).request == SEEN


def test_calls_of_an_answer_come_back_as_they_went_in(store: Store) -> None:
    task = completed(store)

    found = store.get(task.ref)
    assert (found.result, found.tool_calls, found.is_whole) == ("", (a_call(),), True)


def test_a_turn_has_the_image_and_the_calls(store: Store) -> None:
    first, second, plain = completed(store), completed(store), a_task()
    store.add(plain, a_request("Why is the sky blue?"))

    turn, none, again = store.turns([first.ref, plain.ref, second.ref])

    expected = Turn(prompt="Say hello.", result="", sent=SEEN.messages, tool_calls=(a_call(),))
    assert (turn, none, again) == (expected, None, expected)
    assert [message.role for message in expected.messages] == ["user", "assistant"]


def test_a_counted_task_with_an_image_is_stored_or_refused_whole(store: Store) -> None:
    """The key allows one task: its limit is checked with the write."""
    fits, more = (a_task(counted_for="0123456789ab") for _ in range(2))

    assert store.add(fits, SEEN, max_in_flight=1)
    with pytest.raises(TooManyInFlight):
        store.add(more, SEEN, max_in_flight=1)

    assert store.get(fits.ref).request == SEEN
    with pytest.raises(TaskNotFound):
        store.get(more.ref)


def test_the_same_task_may_be_stored_twice(store: Store) -> None:
    """A repeated call must not take the image from the first one."""
    task = a_task(counted_for="0123456789ab")

    assert [store.add(task, SEEN, max_in_flight=1) for _ in range(2)] == [True, False]
    assert store.get(task.ref).request == SEEN


def test_deleting_a_task_removes_its_image(store: Store) -> None:
    task = completed(store)

    store.delete(task)

    with pytest.raises(TaskNotFound):
        store.get(task.ref)
    assert list(store.turns([task.ref])) == [None]


def test_a_refused_task_leaves_no_image_behind(moto_store: DynamoStore, moto_substrate: Substrate) -> None:
    """Its parts are larger than a transaction, so they are written before it."""
    begun = Conversation(tenant="local", conversation_id="c1", created_ms=NOW_MS, updated_ms=NOW_MS)
    first, second = a_task(), a_task()
    moto_store.add_conversation(begun)
    moto_store.add(first, SEEN, conversation=begun.with_task(first.task_id, now_ms=NOW_MS))

    with pytest.raises(ConversationBusy):
        moto_store.add(second, SEEN, conversation=begun.with_task(second.task_id, now_ms=NOW_MS))

    pages = moto_substrate.dynamodb.get_paginator("scan").paginate(TableName=moto_substrate.table)
    left = [row["pk"]["S"] for page in pages for row in page["Items"]]
    assert left.count(items.partition(first.ref)) >= 13
    assert items.partition(second.ref) not in left


def test_a_list_does_not_read_images(moto_store: DynamoStore, moto_substrate: Substrate) -> None:
    plain, seen = a_task(), a_task()
    moto_store.add(plain, a_request())
    with recording(moto_substrate.dynamodb) as wire:
        moto_store.page("local", size=10)
        before = sum(call.read_units for call in wire.calls)
    moto_store.add(seen, SEEN)
    with recording(moto_substrate.dynamodb) as wire:
        page = moto_store.page("local", size=10)
        read = sum(call.read_units for call in wire.calls)

    assert len(page.tasks) == 2
    assert read - before <= 1


def test_texts_without_images_and_calls_are_stored_as_before() -> None:
    """Each started 1 KB costs a write unit."""
    request, answer = records.encode(a_request()), records.encode(an_output())

    for name in ("messages", "instructions", "tools", "tool_choice", "needs_before", "tool_calls"):
        assert name not in request
        assert name not in answer
