"""What every store promises about lists: newest first, each task once over all pages, one tenant's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import pytest

from llm_server.orchestration.domain.errors import InvalidInput
from llm_server.orchestration.domain.ports import Page, Store
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import DAY_MS, Task
from support.builders import NOW_MS, a_failure, a_request, a_task, claimed
from support.scripted_engine import Clock


class Keeping(Protocol):
    """A store that keeps what has ended for 30 days, and its clock."""

    @property
    def store(self) -> Store: ...

    @property
    def clock(self) -> Clock: ...


def added(store: Store, task: Task) -> Task:
    store.add(task, a_request())
    return task


def pages(
    store: Store, *, size: int, tenant: str = "local", status: Status | None = None, role: str | None = None
) -> Iterator[Page]:
    """Every page of a list."""
    token = ""
    for _ in range(100):
        page = store.page(tenant, size=size, token=token, status=status, role=role)
        yield page
        token = page.next_token
        if not token:
            return
    raise AssertionError("the list does not end")


def ids(*listed: Page) -> list[str]:
    return [task.task_id for page in listed for task in page.tasks]


def test_a_tenant_without_tasks_has_one_empty_page(store: Store) -> None:
    assert list(pages(store, size=10)) == [Page([], "")]


def test_a_list_shows_each_task_s_state(store: Store) -> None:
    task = added(store, a_task())
    store.save(task, claimed(task))

    assert store.page("local", size=10, token="", status=None, role=None) == Page([claimed(task)], "")


def test_a_list_is_newest_first_over_all_its_pages(store: Store) -> None:
    """Two were made in the same millisecond: both are listed, whatever page ends between them."""
    for n, at_ms in enumerate([5, 1, 3, 3, 2, 4]):
        added(store, a_task(f"t{n}", created_ms=NOW_MS + at_ms))

    for size in (1, 2, 3, 5, 6, 7, 100):
        listed = list(pages(store, size=size))

        assert ids(*listed) == ["t0", "t5", "t3", "t2", "t4", "t1"]
        assert all(len(page.tasks) == size for page in listed[:-1])
        assert len(listed[-1].tasks) > 0


def test_a_task_that_comes_meanwhile_moves_no_page(store: Store) -> None:
    for n in range(4):
        added(store, a_task(f"t{n}", created_ms=NOW_MS + n))
    first = store.page("local", size=2, token="", status=None, role=None)
    added(store, a_task("new", created_ms=NOW_MS + 100))

    second = store.page("local", size=2, token=first.next_token, status=None, role=None)

    assert ids(first, second) == ["t3", "t2", "t1", "t0"]


def test_a_list_can_be_narrowed_to_a_status_and_a_role(store: Store) -> None:
    for n in range(12):
        task = added(store, a_task(f"t{n:02}", created_ms=NOW_MS + n, role=("Chat-Agent", "Architect-Agent")[n % 2]))
        processing = claimed(task)
        if n % 3:
            store.save(task, processing)
        if n % 3 == 2:
            store.save(processing, processing.failed(a_failure()), a_failure())

    def narrowed(status: Status | None, role: str | None) -> list[str]:
        return ids(*pages(store, size=2, status=status, role=role))

    assert narrowed(Status.QUEUED, None) == ["t09", "t06", "t03", "t00"]
    assert narrowed(Status.FAILED, None) == ["t11", "t08", "t05", "t02"]
    assert narrowed(None, "Architect-Agent") == ["t11", "t09", "t07", "t05", "t03", "t01"]
    assert narrowed(Status.PROCESSING, "Chat-Agent") == ["t10", "t04"]
    assert narrowed(Status.COMPLETED, None) == []


def test_tenants_never_see_each_other_s_tasks(store: Store) -> None:
    for n in range(6):
        added(store, a_task(f"t{n}", tenant=("a", "ab")[n % 2], created_ms=NOW_MS + n))
    foreign = store.page("ab", size=1, token="", status=None, role=None).next_token

    assert ids(*pages(store, size=2, tenant="a")) == ["t4", "t2", "t0"]
    assert ids(store.page("a", size=9, token=foreign, status=None, role=None)) == ["t4", "t2", "t0"]
    assert ids(*pages(store, size=2, tenant="b")) == []


FOREIGN_TOKENS = [
    "x",
    "zz",
    "00",
    "ff",
    "é",
    "1",
    "NaN",
    b"000001760000000".hex(),
    b"000001760000000#".hex(),
    b"1760000000#t1".hex(),
    b"00000176000000x#t1".hex(),
    "²²²²²²²²²²²²²²²#t1".encode().hex(),
    b"000001760000000#t1".hex() + "0",
]


def test_a_token_that_is_none_of_ours_is_refused(store: Store) -> None:
    for token in FOREIGN_TOKENS:
        with pytest.raises(InvalidInput) as refused:
            store.page("local", size=10, token=token, status=None, role=None)
        assert refused.value.field == "page_token"


def test_a_long_list_is_read_to_its_end(store: Store) -> None:
    """More tasks than a database gives at once, and a page of 100; a task that a filter looks for may come last."""
    wanted = added(store, a_task("oldest", created_ms=NOW_MS - 1, role="Architect-Agent"))
    for n in range(105):
        added(store, a_task(f"t{n:03}", created_ms=NOW_MS + n))

    first, second = pages(store, size=100)

    assert ids(first, second) == [*(f"t{n:03}" for n in reversed(range(105))), wanted.task_id]
    assert ids(*pages(store, size=1, role="Architect-Agent")) == [wanted.task_id]


def test_tasks_that_have_expired_end_no_list(keeping: Keeping) -> None:
    """Nor do they make a page shorter; they may still be in the database, between those that are shown."""
    store = keeping.store
    for n in range(8):
        task = added(store, a_task(f"t{n}", created_ms=NOW_MS + n))
        if n % 4:
            store.save(task, task.cancelled(now_ms=NOW_MS + n))
    keeping.clock.now_ms = NOW_MS + 30 * DAY_MS + 5
    added(store, a_task("new", created_ms=keeping.clock()))

    listed = list(pages(store, size=2))

    assert ids(*listed) == ["new", "t7", "t6", "t4", "t0"]
    assert [len(page.tasks) for page in listed] == [2, 2, 1]
