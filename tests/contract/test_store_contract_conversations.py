"""What every store promises about conversations: one task at a time, turns as they were, and no trace of others."""

from __future__ import annotations

from typing import Any, Protocol

import pytest
from msgspec.structs import replace

from llm_server.orchestration.domain.conversation import Conversation, Turn
from llm_server.orchestration.domain.errors import (
    ConversationBusy,
    ConversationNotFound,
    TaskNotFound,
    TooManyInFlight,
)
from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.domain.retention import SLACK_MS
from llm_server.orchestration.domain.task import DAY_MS, Task, TaskRef
from support.builders import NOW_MS, a_failure, a_request, a_task, an_output, claimed, noise
from support.concurrency import at_once
from support.scripted_engine import Clock

ID = "c1"
KEY = "0123456789ab"
KEPT_MS = 30 * DAY_MS


class Keeping(Protocol):
    """A store that keeps what has ended for 30 days, and its clock."""

    @property
    def store(self) -> Store: ...

    @property
    def clock(self) -> Clock: ...


def begun(store: Store, tenant: str = "local") -> Conversation:
    conversation = Conversation(tenant=tenant, conversation_id=ID, created_ms=NOW_MS, updated_ms=NOW_MS)
    store.add_conversation(conversation)
    return conversation


def completed(store: Store, prompt: str, result: str, **changes: Any) -> Task:
    task = a_task(**changes)
    store.add(task, a_request(prompt))
    store.save(task, claimed(task))
    answer = an_output(text=result)
    ended = claimed(task).completed(answer)
    store.save(claimed(task), ended, answer)
    return ended


def test_a_task_and_its_place_in_the_conversation_are_stored_together(store: Store) -> None:
    first, task = begun(store), a_task()
    after = first.with_task(task.task_id, now_ms=NOW_MS + 1)

    assert store.add(task, a_request(), conversation=after)

    assert store.conversation("local", ID) == after
    assert store.get(task.ref).request == a_request()


def test_storing_a_conversation_again_forgets_no_task(store: Store) -> None:
    """The reply to the first call was lost, and another caller was faster."""
    first, task = begun(store), a_task()
    after = first.with_task(task.task_id, now_ms=NOW_MS)
    store.add(task, a_request(), conversation=after)

    store.add_conversation(first)

    assert store.conversation("local", ID) == after


def test_of_two_callers_that_add_a_task_at_once_one_is_refused(store: Store) -> None:
    """The refused task leaves nothing behind, so the conversation has no gap and loses no turn."""
    first, tasks = begun(store), [a_task() for _ in range(6)]

    def added(task: Task) -> bool:
        try:
            return store.add(task, a_request(), conversation=first.with_task(task.task_id, now_ms=NOW_MS))
        except ConversationBusy:
            return False

    outcomes = at_once(added, tasks)

    (winner,) = [task for task, is_added in zip(tasks, outcomes, strict=True) if is_added]
    assert store.conversation("local", ID).task_ids == (winner.task_id,)
    for task in tasks:
        if task != winner:
            with pytest.raises(TaskNotFound):
                store.get(task.ref)
    assert store.overview()[0].queued == 1


@pytest.mark.parametrize("limit", [None, 5])
def test_adding_the_same_task_again_changes_nothing(store: Store, limit: int | None) -> None:
    first, task = begun(store), a_task(counted_for=KEY)
    after = first.with_task(task.task_id, now_ms=NOW_MS)
    store.add(task, a_request(), conversation=after, max_in_flight=limit)

    assert not store.add(task, a_request(), conversation=after, max_in_flight=limit)

    assert store.conversation("local", ID) == after


def test_a_task_above_a_key_s_limit_takes_no_place_in_the_conversation(store: Store) -> None:
    first, earlier, task = begun(store), a_task(counted_for=KEY), a_task(counted_for=KEY)
    store.add(earlier, a_request(), max_in_flight=1)
    after = first.with_task(task.task_id, now_ms=NOW_MS)

    with pytest.raises(TooManyInFlight):
        store.add(task, a_request(), conversation=after, max_in_flight=1)
    with pytest.raises(ConversationBusy):
        store.add(task, a_request(), conversation=replace(after, rev=after.rev + 1), max_in_flight=9)
    assert store.conversation("local", ID) == first


def test_a_task_of_an_unknown_conversation_is_refused(store: Store) -> None:
    task = a_task()
    never = Conversation(tenant="local", conversation_id="never", created_ms=NOW_MS, updated_ms=NOW_MS)

    with pytest.raises(ConversationBusy):
        store.add(task, a_request(), conversation=never.with_task(task.task_id, now_ms=NOW_MS))

    with pytest.raises(TaskNotFound):
        store.peek(task.ref)
    with pytest.raises(ConversationNotFound):
        store.conversation("local", "never")


@pytest.mark.parametrize("name", ["", "no", "x" * 2000, "\ud800"])
def test_a_conversation_of_another_tenant_or_name_is_not_found(store: Store, name: str) -> None:
    begun(store, "acme")

    with pytest.raises(ConversationNotFound):
        store.conversation("acme", name)
    with pytest.raises(ConversationNotFound):
        store.conversation("acm", ID)


def test_a_conversation_is_removed_only_as_it_was_read(store: Store) -> None:
    first, task = begun(store), a_task()
    after = first.with_task(task.task_id, now_ms=NOW_MS)
    store.add(task, a_request(), conversation=after)

    assert not store.remove_conversation(first)
    assert store.remove_conversation(after)
    assert not store.remove_conversation(after)

    with pytest.raises(ConversationNotFound):
        store.conversation("local", ID)
    assert store.peek(task.ref) == task


@pytest.mark.parametrize("length", [10, 900_000])
def test_the_turns_of_tasks_are_read_in_order(store: Store, length: int) -> None:
    """Texts that are too long for one item are whole; a turn is what the task's answer was, not an older try."""
    texts = [(noise(length, seed=n), noise(length, seed=n + 1)) for n in (0, 2)]
    tasks = [completed(store, prompt, result) for prompt, result in texts]

    found = list(store.turns([tasks[1].ref, tasks[0].ref]))

    assert found == [Turn(prompt=prompt, result=result) for prompt, result in reversed(texts)]


def test_a_task_without_a_result_has_no_turn(store: Store) -> None:
    """Open, Failed, deleted or unknown; and one of another tenant with the same id."""
    waiting, failed, deleted = a_task(), a_task(), completed(store, "Say 1.", "One.")
    store.add(waiting, a_request())
    store.add(failed, a_request())
    store.save(failed, claimed(failed))
    failure = a_failure()
    store.save(claimed(failed), claimed(failed).failed(failure), failure)
    store.delete(deleted)
    others = completed(store, "The secret of Acme.", "It is.", tenant="acme")
    refs = [waiting.ref, failed.ref, deleted.ref, TaskRef("local", "unknown"), TaskRef("local", others.task_id)]

    assert list(store.turns(refs)) == [None] * 5


def test_the_turn_of_a_task_is_its_tenant_s(store: Store) -> None:
    """Ids are unique in a tenant only."""
    ours = completed(store, "Say 1.", "One.", task_id="same")
    theirs = completed(store, "The secret of Acme.", "It is.", task_id="same", tenant="acme")

    assert list(store.turns([ours.ref])) == [Turn(prompt="Say 1.", result="One.")]
    assert list(store.turns([theirs.ref])) == [Turn(prompt="The secret of Acme.", result="It is.")]


def test_many_turns_are_read(store: Store) -> None:
    """More than a batch read of DynamoDB takes."""
    tasks = [completed(store, f"Say {n}.", f"This is {n}.") for n in range(60)]

    found = list(store.turns([task.ref for task in tasks]))

    assert found == [Turn(prompt=f"Say {n}.", result=f"This is {n}.") for n in range(60)]


def test_expired_turns_and_conversations_are_not_shown(keeping: Keeping) -> None:
    store, clock = keeping.store, keeping.clock
    begun(store)
    ended = completed(store, "Say 1.", "One.")
    assert ended.finished_ms is not None

    clock.now_ms = ended.finished_ms + KEPT_MS - 1
    before = list(store.turns([ended.ref]))
    clock.now_ms += 1
    after = list(store.turns([ended.ref]))
    clock.now_ms = NOW_MS + KEPT_MS + SLACK_MS - 1
    kept = store.conversation("local", ID)
    clock.now_ms += 1

    assert (before, after) == ([Turn(prompt="Say 1.", result="One.")], [None])
    assert kept.conversation_id == ID
    for _ in range(2):
        with pytest.raises(ConversationNotFound):
            store.conversation("local", ID)
        while store.prune(10):
            pass


def test_a_tenant_s_conversations_are_erased_with_it(store: Store) -> None:
    for tenant in ("acme", "acme-2", "acm"):
        begun(store, tenant)

    assert store.erase("acme").conversations == 1

    with pytest.raises(ConversationNotFound):
        store.conversation("acme", ID)
    assert [store.conversation(tenant, ID).tenant for tenant in ("acme-2", "acm")] == ["acme-2", "acm"]
