"""A triage is stored with the task's new mode and role in one save, counted once, and deleted with its task."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from llm_server.orchestration.domain.errors import TaskLost, TaskNotFound
from llm_server.orchestration.domain.output import TRIAGE, Output
from llm_server.orchestration.domain.ports.listing import TaskFilter
from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.domain.snapshot import Request
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.domain.task import Task
from llm_server.orchestration.domain.triage import WHOLE, Triage
from support.audit import audit
from support.builders import NOW_MS, a_request, a_task, an_attempt, an_output, claimed
from support.triage_answers import DECIDED


def a_triage(fence: int = 1, triage: Triage = DECIDED) -> Output:
    attempt = an_attempt(purpose="triage")
    text = triage.to_json()
    return Output(key=TRIAGE, created_ms=NOW_MS + 2_500, text=text, attempts=(attempt,), fence=fence)


def triaged(task: Task, output: Output) -> Task:
    return task.triaged(output, mode=DECIDED.mode, role=DECIDED.role, profile=DECIDED.profile)


def unsure_request() -> Request:
    return a_request(undecided=WHOLE, complexity=0.7, reasons=("haiku (+3.0 Writing)",))


def working(store: Store, **fields: Any) -> Task:
    """Store a task and claim it; the call for its triage is pending."""
    task = a_task(**fields)
    store.add(task, unsure_request())
    pending = an_attempt(purpose="triage", tokens_in=0, tokens_out=0, duration_ms=0).lost(500)
    taken = replace(claimed(task), pending=(pending,))
    store.save(task, taken)
    return taken


def test_a_triage_comes_back_as_it_was_stored(store: Store) -> None:
    taken = working(store)
    output = a_triage()
    store.save(taken, triaged(taken, output), output)
    snapshot = store.get(taken.ref)

    assert snapshot.triage == DECIDED
    assert (snapshot.task.status, snapshot.task.mode, snapshot.task.role) == (
        Status.PROCESSING,
        Mode.AGENT,
        "Teacher-Agent",
    )
    assert (snapshot.decided_request.complexity, snapshot.decided_request.reasons) == (0.25, DECIDED.reasons)
    assert (snapshot.request, snapshot.attempts) == (unsure_request(), [an_attempt(purpose="triage")])
    assert not snapshot.may_be_triaged
    audit(store, [taken.ref])


def test_what_the_caller_left_open_is_stored_with_the_request(store: Store) -> None:
    taken = working(store)

    assert store.get(taken.ref).request.undecided == WHOLE
    assert store.get(taken.ref).may_be_triaged


def test_only_one_of_two_workers_stores_a_triage(store: Store) -> None:
    """The second one's task was taken meanwhile: neither its decision nor its call counts."""
    late = working(store)
    store.save(late, claimed(late, now_ms=late.lease_ms))
    other = a_triage(1, replace(DECIDED, role="Email-Agent"))

    with pytest.raises(TaskLost):
        store.save(late, late.triaged(other, mode=Mode.AGENT, role="Email-Agent", profile="General"), other)
    snapshot = store.get(late.ref)
    assert (snapshot.task.role, snapshot.triage, snapshot.attempts) == ("Chat-Agent", None, [])
    audit(store, [late.ref])


def test_a_triage_that_is_saved_twice_counts_once(store: Store) -> None:
    """The reply to the first save was lost."""
    taken, output = working(store), a_triage()
    after = triaged(taken, output)
    for _ in range(2):
        store.save(taken, after, output)

    assert store.overview()[0].calls == 1
    audit(store, [taken.ref])


@pytest.mark.parametrize("ended", [False, True])
def test_a_listing_filters_by_the_role_and_the_mode_of_the_triage(store: Store, ended: bool) -> None:
    """Also by a label, and while the task is open."""
    taken, output = working(store, metadata={"team": "docs"}), a_triage()
    task = triaged(taken, output)
    store.save(taken, task, output)
    if ended:
        answer = an_output("RES#1")
        store.save(task, task.completed(answer), answer)

    def found(**wanted: Any) -> list[str]:
        page = store.page("local", size=10, task_filter=TaskFilter(**wanted))
        return [each.task_id for each in page.tasks]

    for labels in ({}, {"team": "docs"}):
        assert found(role="Teacher-Agent", mode=Mode.AGENT, metadata=labels) == [task.task_id]
        assert found(role="Chat-Agent", metadata=labels) == []
        assert found(mode=Mode.CHAT, metadata=labels) == []


def test_a_triage_is_deleted_with_its_task(store: Store) -> None:
    taken, output = working(store), a_triage()
    task = triaged(taken, output)
    store.save(taken, task, output)
    answer = an_output("RES#1")
    done = task.completed(answer)
    store.save(task, done, answer)
    store.delete(done)

    with pytest.raises(TaskNotFound):
        store.get(task.ref)


def test_a_triage_is_erased_with_its_tenant(store: Store) -> None:
    taken, output = working(store, tenant="acme"), a_triage()
    task = triaged(taken, output)
    store.save(taken, task, output)
    answer = an_output("RES#1")
    store.save(task, task.completed(answer), answer)

    assert store.erase("acme").tasks == 1
    with pytest.raises(TaskNotFound):
        store.get(task.ref)
