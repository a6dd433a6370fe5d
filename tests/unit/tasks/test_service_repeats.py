"""A POST without an Idempotency-Key that a client library repeats makes one task; two equal POSTs make two."""

from __future__ import annotations

from typing import Any, cast

import pytest

from llm_server.orchestration.access.repeats import BACKOFF_S, Repeatable
from llm_server.orchestration.domain.errors import InvalidInput, StorageUnavailable, TaskNotFound
from llm_server.orchestration.domain.ports.repeats import Original
from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.tasks.intake import Accepted
from llm_server.orchestration.tasks.new_task import NewTask
from support.in_process_server import FailingStore
from support.scripted_engine import a_catalog, an_engine
from support.scripted_service import Served

TENANT = "local"
READ_S = 600


def post(served: Served, number: int = 0, prompt: str = "Why?", *, fingerprint: str = "f" * 64) -> Accepted:
    repeat = Repeatable(fingerprint=fingerprint, number=number, read_timeout_s=READ_S)
    accepted = served.service.submit_once(TENANT, NewTask(prompt=prompt), repeat)
    if not accepted.replayed:
        served.refs.append(accepted.task.ref)
    return accepted


def stored(served: Served) -> int:
    return len(served.store.page(TENANT, size=100).tasks)


def test_a_repeat_takes_over_the_open_task(served: Served) -> None:
    first = post(served)

    second, third = post(served, 1), post(served, 2)

    assert (second.task.task_id, second.replayed) == (first.task.task_id, True)
    assert third.task.task_id == first.task.task_id
    assert stored(served) == 1


def test_a_repeat_takes_over_a_task_that_is_final(served: Served) -> None:
    """Its answer may not have arrived."""
    first = post(served)
    served.work()

    again = post(served, 1)

    assert (again.task.task_id, again.task.status) == (first.task.task_id, Status.COMPLETED)
    assert again.result is not None


def test_two_equal_posts_are_two_tasks_and_so_are_they_with_their_repeats(served: Served) -> None:
    first, second = post(served).task.task_id, post(served).task.task_id

    repeated = [post(served, 1).task.task_id, post(served, 1).task.task_id]

    assert first != second
    assert sorted(repeated) == sorted([first, second])
    assert post(served, 1).task.task_id not in (first, second)
    assert stored(served) == 3


def test_a_repeat_whose_post_never_arrived_is_one_that_may_be_repeated(served: Served) -> None:
    second, third = post(served, 1), post(served, 2)

    assert not second.replayed
    assert third.task.task_id == second.task.task_id
    assert post(served, 1).task.task_id != second.task.task_id


def test_the_second_repeat_goes_on_with_the_first_one(served: Served) -> None:
    """Not with an equal POST that is older and has not been repeated."""
    post(served)
    served.work()
    repeated = post(served)
    post(served, 1)
    served.work()

    assert post(served, 2).task.task_id == repeated.task.task_id


def test_two_repeats_at_once_take_over_two_tasks(served: Served) -> None:
    """Though both have found the same ones."""
    posts = {post(served).task.task_id, post(served).task.task_id}
    both = list[str]()
    found = served.store.originals

    def originals(*args: Any, **named: Any) -> list[Original]:
        held = found(*args, **named)
        served.store.originals = found  # type: ignore[method-assign]
        both.append(post(served, 1).task.task_id)
        return held

    served.store.originals = originals  # type: ignore[method-assign]
    both.append(post(served, 1).task.task_id)

    assert set(both) == posts


def test_open_tasks_are_taken_over_before_final_ones(served: Served) -> None:
    final = post(served)
    served.work()
    still_open = post(served)

    assert [post(served, 1).task.task_id for _ in range(2)] == [still_open.task.task_id, final.task.task_id]


def test_other_callers_and_bodies_have_other_tasks(served: Served) -> None:
    first = post(served)

    assert post(served, 1, fingerprint="e" * 64).task.task_id != first.task.task_id


@pytest.mark.parametrize(("seconds", "is_taken"), [(READ_S + BACKOFF_S - 1, True), (READ_S + BACKOFF_S, False)])
def test_a_task_is_taken_over_as_long_as_the_client_may_repeat(served: Served, seconds: int, is_taken: bool) -> None:
    first = post(served)
    served.clock.pass_s(seconds)

    assert (post(served, 1).task.task_id == first.task.task_id) == is_taken


def test_a_post_that_was_cut_off_before_its_task_was_stored_is_made_up_for(served: Served) -> None:
    store, catalog = served.store, a_catalog({"only": an_engine()})
    served.use(catalog, store=cast(Store, FailingStore(store, StorageUnavailable("Away."), "add")))
    with pytest.raises(StorageUnavailable):
        post(served)
    served.use(catalog)

    again = post(served, 1)

    [original] = store.originals(TENANT, "f" * 64, now_ms=served.clock())
    assert original.task_id == again.task.task_id
    assert stored(served) == 1


def test_a_deleted_task_is_not_taken_over(served: Served) -> None:
    first = post(served).task
    served.work()
    served.service.delete(first.ref)
    served.refs.remove(first.ref)

    again = post(served, 1)

    assert again.task.task_id != first.task_id
    with pytest.raises(TaskNotFound):
        served.get(first.ref)
    served.audit = lambda: None  # type: ignore[method-assign]  # the counters keep the deleted task


def test_a_refused_body_is_not_noted(served: Served) -> None:
    with pytest.raises(InvalidInput):
        post(served, prompt=" ")

    assert served.store.originals(TENANT, "f" * 64, now_ms=served.clock()) == []
