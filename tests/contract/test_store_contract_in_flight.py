"""A key's tasks in flight: counted with the task's own change, and never more than the key allows."""

from __future__ import annotations

from random import Random

import pytest
from msgspec.structs import replace

from llm_server.orchestration.domain.api_key import Account, KeyLimits, Payer
from llm_server.orchestration.domain.errors import TaskLost, TaskNotFound, TooManyInFlight
from llm_server.orchestration.domain.ports.keys import KeyStore
from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.domain.task import Task
from support.builders import NOW_MS, a_failure, a_request, a_task, an_output, claimed, noise
from support.concurrency import at_once

KEY = "0123456789ab"


def a_counted_task() -> Task:
    return a_task(tenant="acme", counted_for=KEY)


def in_flight(key_store: KeyStore, key_id: str = KEY) -> int:
    return key_store.use(Account(key_id, "2025-10-09")).tasks_in_flight


def added(store: Store, *, most: int) -> bool:
    try:
        store.add(a_counted_task(), a_request(), max_in_flight=most)
    except TooManyInFlight:
        return False
    return True


def test_a_task_is_in_flight_until_it_is_final(store: Store, key_store: KeyStore) -> None:
    """Completed, failed or cancelled; a claim and a release change nothing."""
    tasks = [a_counted_task() for _ in range(3)]
    for task in tasks:
        store.add(task, a_request(), max_in_flight=3)
    working = [claimed(task) for task in tasks]
    for before, after in zip(tasks, working, strict=True):
        store.save(before, after)
    open_tasks = in_flight(key_store)
    failure = a_failure()
    store.save(working[0], working[0].completed(an_output()))
    store.save(working[1], working[1].failed(failure), failure)
    left = in_flight(key_store)
    store.save(working[2], working[2].rejected(now_ms=NOW_MS))

    assert (open_tasks, left, in_flight(key_store)) == (3, 1, 0)


def test_a_task_above_the_limit_is_refused_and_leaves_nothing(store: Store, key_store: KeyStore) -> None:
    assert [added(store, most=2) for _ in range(2)] == [True, True]
    refused = a_counted_task()
    with pytest.raises(TooManyInFlight):
        store.add(refused, a_request(), max_in_flight=2)

    with pytest.raises(TaskNotFound):
        store.get(refused.ref)
    assert in_flight(key_store) == 2
    assert store.overview()[0].total == 2


def test_adding_the_same_task_again_is_not_refused_nor_counted(store: Store, key_store: KeyStore) -> None:
    """Also when it was the last that fitted: a reply that was lost is asked for again."""
    task = a_counted_task()
    for _ in range(2):
        store.add(task, a_request(), max_in_flight=1)

    assert (in_flight(key_store), store.overview()[0].total) == (1, 1)


def test_a_task_nobody_counts_is_in_no_keys_way(store: Store, key_store: KeyStore) -> None:
    store.add(a_task(tenant="acme"), a_request())

    assert in_flight(key_store) == 0
    assert added(store, most=1)


def test_a_finish_that_is_repeated_is_counted_once(store: Store, key_store: KeyStore) -> None:
    task = a_counted_task()
    store.add(task, a_request(), max_in_flight=5)
    working = claimed(task)
    store.save(task, working)
    done = working.completed(an_output())
    for _ in range(2):
        store.save(working, done)

    assert in_flight(key_store) == 0


def test_64_racers_never_have_more_in_flight_than_allowed(store: Store, key_store: KeyStore) -> None:
    fits = at_once(lambda _: added(store, most=10), range(64))

    assert (fits.count(True), in_flight(key_store), store.overview()[0].total) == (10, 10, 10)


def test_the_longest_prompt_comes_back_whole_from_a_counted_task(store: Store) -> None:
    """As long as it can be configured, and of characters that no packing makes shorter."""
    astral = range(0x10000, 0x110000)
    task, request = a_counted_task(), a_request("".join(map(chr, Random(7).choices(astral, k=1_000_000))))
    store.add(task, request, max_in_flight=1)

    assert store.get(task.ref).request == request


def test_of_8_twins_with_a_long_prompt_none_takes_it_from_the_others(store: Store, key_store: KeyStore) -> None:
    """They name the same parts of it; all but one find the task there, while other tasks are refused."""
    task, request = a_counted_task(), a_request(noise(800_000))

    at_once(lambda n: added(store, most=1) if n % 2 else store.add(task, request, max_in_flight=9), range(16))

    assert store.get(task.ref).request == request
    assert in_flight(key_store) in (1, 2)


def test_a_retry_is_held_to_the_limit_of_its_key(store: Store, key_store: KeyStore) -> None:
    """The task would be in flight again. If that is refused it stays Failed, and the retry can be repeated."""
    task, failure = a_counted_task(), a_failure()
    store.add(task, a_request(), max_in_flight=1)
    store.save(task, claimed(task))
    failed = claimed(task).failed(failure)
    store.save(claimed(task), failed, failure)
    assert added(store, most=1)
    payer = Payer(key_id=KEY, limits=KeyLimits(tasks_in_flight=1))
    retried = failed.retried(now_ms=NOW_MS, due_ms=NOW_MS, deadline_ms=None, payer=payer)

    with pytest.raises(TooManyInFlight):
        store.save(failed, retried, max_in_flight=1)
    refused = (store.peek(task.ref), in_flight(key_store))
    store.save(failed, retried, max_in_flight=2)

    assert refused == (failed, 1)
    assert (store.peek(task.ref), in_flight(key_store)) == (retried, 2)
    with pytest.raises(TaskLost):
        store.save(failed, replace(retried, due_ms=1), max_in_flight=3)
