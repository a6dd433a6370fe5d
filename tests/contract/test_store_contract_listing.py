"""What every store promises about lists: newest first, each task once over all pages, filtered, one tenant's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from llm_server.orchestration.domain.errors import InvalidInput
from llm_server.orchestration.domain.ports.listing import EVERY_TASK, Page, TaskFilter
from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.domain.status import Mode, Status
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


def pages(store: Store, *, size: int, tenant: str = "local", task_filter: TaskFilter = EVERY_TASK) -> Iterator[Page]:
    """Every page of a list."""
    token = ""
    for _ in range(100):
        page = store.page(tenant, size=size, token=token, task_filter=task_filter)
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

    assert store.page("local", size=10) == Page([claimed(task)], "")


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
    first = store.page("local", size=2)
    added(store, a_task("new", created_ms=NOW_MS + 100))

    second = store.page("local", size=2, token=first.next_token)

    assert ids(first, second) == ["t3", "t2", "t1", "t0"]


ROLES, ENGINES = ("Chat-Agent", "Architect-Agent"), (None, "gpt", "claude")
CROWD = tuple(
    a_task(
        f"t{n:02}",
        created_ms=NOW_MS + n // 2,  # two in each millisecond
        status=tuple(Status)[n % 6],
        role=ROLES[n % 2],
        mode=tuple(Mode)[n % 3],
        engine=ENGINES[n % 4 % 3],
        approval=(None, "awaited", "given", "refused")[n // 3 % 4],
        metadata=({}, {"project": "atlas"}, {"project": "atlas", "run": "1"}, {"run": "1", "": ""})[n % 4],
    )
    for n in range(36)
)
"""Tasks that differ in all that a filter compares."""


@pytest.fixture
def crowd(store: Store) -> Store:
    for task in CROWD:
        store.add(task, a_request())
    return store


def having(wanted: Callable[[Task], bool]) -> list[str]:
    """The ids of the tasks of the crowd, newest first."""
    return [task.task_id for task in reversed(CROWD) if wanted(task)]


SINGLE_FILTERS: list[tuple[TaskFilter, Callable[[Task], bool]]] = [
    (EVERY_TASK, lambda task: True),
    *((TaskFilter(statuses=frozenset({s})), lambda task, s=s: task.status is s) for s in Status),
    (TaskFilter(statuses=frozenset({Status.FAILED, Status.QUEUED})), lambda task: task.status in ("Failed", "Queued")),
    (TaskFilter(statuses=frozenset(Status)), lambda task: True),
    (TaskFilter(role="Architect-Agent"), lambda task: task.role == "Architect-Agent"),
    (TaskFilter(role="Other-Agent"), lambda task: False),
    (TaskFilter(mode=Mode.PLAN), lambda task: task.mode is Mode.PLAN),
    (TaskFilter(engine="gpt"), lambda task: task.engine == "gpt"),
    (TaskFilter(metadata={"project": "atlas"}), lambda task: task.metadata.get("project") == "atlas"),
    (TaskFilter(metadata={"project": "1"}), lambda task: False),
    (TaskFilter(metadata={"": ""}), lambda task: "" in task.metadata),
    (
        TaskFilter(metadata={"run": "1", "project": "atlas"}),
        lambda task: len(task.metadata) == 2 and "" not in task.metadata,
    ),
    (TaskFilter(awaiting_approval=True), lambda task: task.approval == "awaited" and not task.status.is_final),
    (TaskFilter(awaiting_approval=False), lambda task: task.approval != "awaited" or task.status.is_final),
    (TaskFilter(awaiting_approval=True, statuses=frozenset({Status.FAILED})), lambda task: False),
    (TaskFilter(created_from_ms=NOW_MS + 5), lambda task: task.created_ms >= NOW_MS + 5),
    (TaskFilter(created_to_ms=NOW_MS + 5), lambda task: task.created_ms < NOW_MS + 5),
    (TaskFilter(created_from_ms=NOW_MS + 5, created_to_ms=NOW_MS + 6), lambda task: task.created_ms == NOW_MS + 5),
    (TaskFilter(created_from_ms=NOW_MS + 6, created_to_ms=NOW_MS + 6), lambda task: False),
    (TaskFilter(created_from_ms=NOW_MS + 9, created_to_ms=NOW_MS + 5), lambda task: False),
    (TaskFilter(created_to_ms=-1), lambda task: False),
    (TaskFilter(created_from_ms=-1, created_to_ms=253_402_300_800_000), lambda task: True),
]


def test_a_list_has_the_tasks_that_pass_its_filter(crowd: Store) -> None:
    """Over all its pages."""
    for task_filter, wanted in SINGLE_FILTERS:
        assert ids(*pages(crowd, size=7, task_filter=task_filter)) == having(wanted), task_filter


def test_a_task_passes_only_if_it_passes_every_filter(store: Store) -> None:
    """Each of the other tasks differs from the one that passes in one point, and passes without that filter."""
    wanted = TaskFilter(
        statuses=frozenset({Status.PLANNED, Status.QUEUED}),
        role="Architect-Agent",
        mode=Mode.PLAN,
        engine="gpt",
        metadata={"project": "atlas", "run": "1"},
        awaiting_approval=True,
        created_from_ms=NOW_MS,
        created_to_ms=NOW_MS + 1,
    )
    fitting = a_task(
        "fitting", status=Status.PLANNED, role="Architect-Agent", mode=Mode.PLAN, engine="gpt", approval="awaited"
    )
    fitting = replace(fitting, metadata={"project": "atlas", "run": "1", "more": "2"})
    others: dict[str, dict[str, object]] = {
        "statuses": {"status": Status.PROCESSING},
        "role": {"role": "Chat-Agent"},
        "mode": {"mode": Mode.AGENT},
        "engine": {"engine": None},
        "metadata": {"metadata": {"project": "atlas"}},
        "awaiting_approval": {"approval": "given"},
        "created_from_ms": {"created_ms": NOW_MS - 1},
        "created_to_ms": {"created_ms": NOW_MS + 1},
    }
    added(store, fitting)
    for name, difference in others.items():
        added(store, replace(fitting, task_id=name, **difference))

    assert ids(*pages(store, size=5, task_filter=wanted)) == ["fitting"]
    for name in others:
        without = replace(wanted, **{name: getattr(EVERY_TASK, name)})
        assert sorted(ids(*pages(store, size=5, task_filter=without))) == sorted(["fitting", name])


filters = st.builds(
    TaskFilter,
    statuses=st.frozensets(st.sampled_from(Status), max_size=3),
    role=st.sampled_from((None, *ROLES)),
    mode=st.sampled_from((None, *Mode)),
    engine=st.sampled_from(ENGINES),
    metadata=st.sampled_from(({}, {"project": "atlas"}, {"run": "1"})),
    awaiting_approval=st.sampled_from((None, True, False)),
    created_from_ms=st.integers(NOW_MS - 1, NOW_MS + 19) | st.just(0),
    created_to_ms=st.integers(NOW_MS - 1, NOW_MS + 19) | st.none(),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(task_filter=filters, size=st.integers(1, 8))
def test_filters_combine_in_every_way(crowd: Store, task_filter: TaskFilter, size: int) -> None:
    """Each page is full, but for the last ones: so few tasks are looked at by one call."""
    wanted = task_filter
    expected = having(
        lambda task: (
            (task.status in wanted.statuses or not wanted.statuses)
            and (wanted.role is None or task.role == wanted.role)
            and (wanted.mode is None or task.mode == wanted.mode)
            and (wanted.engine is None or task.engine == wanted.engine)
            and all(task.metadata.get(key) == value for key, value in wanted.metadata.items())
            and (wanted.awaiting_approval is None or task.awaits_approval is wanted.awaiting_approval)
            and task.created_ms >= wanted.created_from_ms
            and (wanted.created_to_ms is None or task.created_ms < wanted.created_to_ms)
        )
    )

    listed = list(pages(crowd, size=size, task_filter=task_filter))

    assert ids(*listed) == expected
    assert [len(page.tasks) for page in listed[:-1]] == [size] * (len(listed) - 1)


def test_a_list_is_told_by_the_states_as_they_are_now(store: Store) -> None:
    """A task that is claimed leaves one list and comes into another; its labels stay."""
    task = added(store, a_task(metadata={"run": "1"}))
    processing = claimed(task)
    failed = processing.failed(a_failure())

    for before, after in ((None, task), (task, processing), (processing, failed)):
        if before:
            store.save(before, after)
        for status in Status:
            page = store.page(
                "local", size=9, task_filter=TaskFilter(statuses=frozenset({status}), metadata={"run": "1"})
            )
            assert page.tasks == ([after] if status is after.status else [])


def test_a_token_goes_on_where_its_page_ended_also_with_another_filter(crowd: Store) -> None:
    token = crowd.page("local", size=3, task_filter=TaskFilter(role="Architect-Agent")).next_token

    others = crowd.page("local", size=4, token=token, task_filter=TaskFilter(role="Chat-Agent"))
    older = crowd.page("local", size=4, token=token, task_filter=TaskFilter(created_to_ms=NOW_MS + 5))
    newer = crowd.page("local", size=4, token=token, task_filter=TaskFilter(created_from_ms=NOW_MS + 16))

    assert ids(others) == ["t30", "t28", "t26", "t24"]
    assert ids(older) == ["t09", "t08", "t07", "t06"]
    assert newer == Page([], "")


def test_tenants_never_see_each_other_s_tasks(store: Store) -> None:
    for n in range(6):
        added(store, a_task(f"t{n}", tenant=("a", "ab")[n % 2], created_ms=NOW_MS + n))
    foreign = store.page("ab", size=1).next_token

    assert ids(*pages(store, size=2, tenant="a")) == ["t4", "t2", "t0"]
    assert ids(store.page("a", size=9, token=foreign)) == ["t4", "t2", "t0"]
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


def test_a_token_that_no_store_gives_out_is_refused(store: Store) -> None:
    for token in FOREIGN_TOKENS:
        with pytest.raises(InvalidInput) as refused:
            store.page("local", size=10, token=token)
        assert refused.value.field == "page_token"


def test_a_long_list_is_read_to_its_end(store: Store) -> None:
    """More tasks than a database gives at once, and a page of 100; a task that a filter looks for may come last."""
    wanted = added(store, a_task("oldest", created_ms=NOW_MS - 1, role="Architect-Agent"))
    for n in range(105):
        added(store, a_task(f"t{n:03}", created_ms=NOW_MS + n))

    first, second = pages(store, size=100)

    assert ids(first, second) == [*(f"t{n:03}" for n in reversed(range(105))), wanted.task_id]
    assert ids(*pages(store, size=1, task_filter=TaskFilter(role="Architect-Agent"))) == [wanted.task_id]


def test_tasks_that_have_expired_end_no_list(keeping: Keeping) -> None:
    """They do not make a page shorter either. They may still be in the database, between those that are shown."""
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


def test_the_newest_tasks_that_pass_a_filter_are_read(store: Store) -> None:
    """Newest first, of one tenant, and never more than asked for."""
    for n in range(6):
        added(store, a_task(f"t{n}", created_ms=NOW_MS + n, role=("Chat-Agent", "QA-Agent")[n % 2]))
    added(store, a_task("theirs", tenant="other", created_ms=NOW_MS + 9))

    of_role = TaskFilter(role="QA-Agent")
    assert [task.task_id for task in store.newest("local", most=200, task_filter=of_role)] == ["t5", "t3", "t1"]
    assert [task.task_id for task in store.newest("local", most=3, task_filter=EVERY_TASK)] == ["t5", "t4", "t3"]
    assert store.newest("other2", most=200, task_filter=EVERY_TASK) == []


def test_more_tasks_than_a_round_are_read(store: Store) -> None:
    for n in range(130):
        added(store, a_task(f"t{n:03}", created_ms=NOW_MS + n))

    found = store.newest("local", most=120, task_filter=TaskFilter(role="Chat-Agent"))

    assert [task.task_id for task in found] == [f"t{n:03}" for n in range(129, 9, -1)]


def test_the_limit_of_an_approval_is_kept(store: Store) -> None:
    """Through a claim and a failure; a retry keeps it, too."""
    task = added(store, a_task("t1", approval="awaited"))
    approved = task.approved(now_ms=NOW_MS, due_ms=NOW_MS, max_cost_microusd=1_234)
    store.save(task, approved)
    running = claimed(store.peek(task.ref))
    store.save(approved, running)
    failed = running.failed(a_failure())
    store.save(running, failed)
    retried = failed.retried(now_ms=NOW_MS, due_ms=NOW_MS, deadline_ms=None)
    store.save(failed, retried)

    assert store.get(task.ref).task.max_cost_microusd == store.get(task.ref).max_cost_microusd == 1_234
