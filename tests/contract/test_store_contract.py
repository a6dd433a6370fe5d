"""What every store promises about one task: stored once, found by its owner alone, changed by one writer."""

from __future__ import annotations

import pytest

from llm_server.orchestration.domain.counters import Counters, day_of
from llm_server.orchestration.domain.engines.catalog import Sources
from llm_server.orchestration.domain.errors import TaskBusy, TaskFinished, TaskLost, TaskNotFound
from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.domain.snapshot import Limits, Snapshot
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.domain.task import Task, TaskRef
from support.audit import audit
from support.builders import (
    LEASE_MS,
    NOW_MS,
    a_failed_attempt,
    a_failure,
    a_request,
    a_task,
    an_attempt,
    an_output,
    another_tenants,
    by_key,
    claimed,
)


def added(store: Store, task: Task) -> Task:
    store.add(task, a_request())
    return task


def added_and_claimed(store: Store, task: Task | None = None) -> Task:
    """A stored task in the hands of worker w1."""
    queued = added(store, task or a_task())
    processing = claimed(queued)
    store.save(queued, processing)
    return processing


@pytest.mark.parametrize("sources", [None, (), ("local",), ("local", "api")])
def test_the_limit_of_sources_comes_back_with_every_read(store: Store, sources: Sources | None) -> None:
    """The next claim may be that of another process. () allows no engine, and is not the same as no limit."""
    task = added(store, a_task(sources=sources))
    processing = claimed(task)
    store.save(task, processing)

    assert store.get(task.ref).task.sources == store.peek(task.ref).sources == sources
    assert store.page("local", size=1).tasks[0].sources == sources


def test_a_new_task_is_stored_with_all_that_was_asked(store: Store) -> None:
    task = a_task(mode=Mode.PLAN, tenant="acme", role="Architect-Agent", profile="Developer")
    request = a_request(
        "Draw it.",
        engine="gpt",
        limits=Limits(max_cost_usd=0.5, deadline_s=60.0, max_output_tokens=100, sources=("local",)),
        metadata={"ticket": "T-1", "ünï": "cödé"},
        confidence=0.7,
        complexity=0.4,
        reasons=("it says draw",),
    )

    assert store.add(task, request)

    assert store.get(task.ref) == Snapshot(task=task, request=request)
    assert store.peek(task.ref) == task
    assert store.overview()[0] == Counters(total=1, queued=1)


def test_adding_a_task_again_changes_nothing(store: Store) -> None:
    """An acknowledgement that was lost makes a caller add once more, perhaps when a worker is already at it."""
    task = added(store, a_task())
    before = store.get(task.ref)

    assert not store.add(task, a_request("Something else."))
    assert store.get(task.ref) == before
    assert store.overview()[0] == Counters(total=1, queued=1)

    processing = claimed(task)
    store.save(task, processing)
    assert not store.add(task, a_request())
    assert store.peek(task.ref) == processing
    assert store.overview()[0] == Counters(total=1, active=1)


STRANGE_IDS = [
    "unknown",
    "known#REQ",
    "",
    "x" * 5_000,
    "\N{OLD ITALIC LETTER A}",
    "nul\0",
    "\ud800",
    "known'--",
    "KNOWN",
]


def test_an_unknown_task_is_not_found(store: Store) -> None:
    """Whatever a stranger asks for: an id that fits no key is an unknown one too."""
    added(store, a_task("known"))

    for task_id in STRANGE_IDS:
        with pytest.raises(TaskNotFound):
            store.get(TaskRef("local", task_id))
        with pytest.raises(TaskNotFound):
            store.peek(TaskRef("local", task_id))


def test_another_tenant_does_not_find_the_task(store: Store) -> None:
    task = added(store, a_task())

    with pytest.raises(TaskNotFound):
        store.get(another_tenants(task.ref))
    with pytest.raises(TaskNotFound):
        store.peek(another_tenants(task.ref))


def test_two_tenants_can_use_the_same_id(store: Store) -> None:
    mine, theirs = a_task("same", tenant="a"), a_task("same", tenant="b", role="Architect-Agent")
    added(store, mine)
    added(store, theirs)

    store.save(mine, claimed(mine))

    assert store.peek(theirs.ref) == theirs
    assert store.overview()[0] == Counters(total=2, queued=1, active=1)


def test_a_claim_is_stored(store: Store) -> None:
    processing = added_and_claimed(store)

    stored = store.peek(processing.ref)
    assert stored == processing
    assert (stored.status, stored.owner, stored.fence) == (Status.PROCESSING, "w1", 1)
    assert stored.lease_ms == NOW_MS + LEASE_MS


def test_of_two_claims_of_the_same_state_one_wins(store: Store) -> None:
    task = added(store, a_task())
    first, second = claimed(task, owner="w1"), claimed(task, owner="w2")

    store.save(task, first)

    with pytest.raises(TaskLost):
        store.save(task, second)
    assert store.peek(task.ref) == first
    assert store.overview()[0] == Counters(total=1, active=1)


def test_a_task_is_busy_until_its_lease_ends(store: Store) -> None:
    """Then the next claim works: a crashed worker's task is not lost."""
    first = added_and_claimed(store)

    with pytest.raises(TaskBusy):
        claimed(store.peek(first.ref), now_ms=NOW_MS + LEASE_MS - 1, owner="w2")
    second = claimed(store.peek(first.ref), now_ms=NOW_MS + LEASE_MS, owner="w2")
    store.save(first, second)
    assert (store.peek(first.ref).owner, store.peek(first.ref).fence) == ("w2", 2)
    assert store.overview()[0] == Counters(total=1, active=1)


def test_a_zombie_writes_nothing(store: Store) -> None:
    """A worker that outlived its lease comes back: its state, output, counts and spending are all refused."""
    first = added_and_claimed(store)
    second = claimed(first, now_ms=NOW_MS + LEASE_MS, owner="w2")
    store.save(first, second)
    before = store.get(first.ref)
    output = a_failure(attempts=(an_attempt(),))

    for after in (first.failed(output), first.released(output, due_ms=NOW_MS), first.progressed(output)):
        with pytest.raises(TaskLost):
            store.save(first, after, output)

    assert store.get(first.ref) == before
    assert store.overview()[0] == Counters(total=1, active=1)
    assert store.spent_microusd("local", day_of(NOW_MS)) == 0


@pytest.mark.parametrize("length", [10, 900_000])
def test_a_zombie_does_not_touch_the_text_of_the_winner(store: Store, length: int) -> None:
    """Both did the same step; a text longer than an item must not be put together from both."""
    first = added_and_claimed(store, a_task(mode=Mode.PLAN))
    second = claimed(first, now_ms=NOW_MS + LEASE_MS, owner="w2")
    store.save(first, second)
    won, lost = an_output("STEP#a", "w" * length), an_output("STEP#a", "l" * (length + 1))
    store.save(second, second.progressed(won), won)

    with pytest.raises(TaskLost):
        store.save(first, first.progressed(lost), lost)

    assert store.get(first.ref).outputs == by_key(won)


def test_a_final_task_stays_as_it_is(store: Store) -> None:
    processing = added_and_claimed(store)
    answer = an_output()
    store.keep(processing.ref, answer)
    store.save(processing, processing.completed(answer))

    with pytest.raises(TaskFinished):
        claimed(store.peek(processing.ref), now_ms=NOW_MS + LEASE_MS)
    with pytest.raises(TaskLost):
        store.save(processing, processing.failed(a_failure()), a_failure())
    assert store.get(processing.ref).result == "Hello."
    audit(store, [processing.ref])


def test_a_task_that_is_not_there_cannot_be_saved(store: Store) -> None:
    task = a_task()

    with pytest.raises(TaskLost):
        store.save(task, claimed(task))
    with pytest.raises(TaskNotFound):
        store.peek(task.ref)
    assert store.overview()[0] == Counters()


def test_a_save_can_be_repeated(store: Store) -> None:
    """Its reply may be lost; the write counts once."""
    processing = added_and_claimed(store)
    output = a_failure(attempts=(an_attempt(),))
    failed = processing.failed(output)

    store.save(processing, failed, output)
    store.save(processing, failed, output)

    assert store.get(processing.ref).outputs == {output.key: output}
    assert store.spent_microusd("local", day_of(NOW_MS)) == 300
    audit(store, [processing.ref])


def test_a_save_repeated_after_somebody_went_on_is_refused(store: Store) -> None:
    task = added(store, a_task())
    processing = claimed(task)
    store.save(task, processing)
    store.save(processing, processing.progressed(an_output("PLAN")), an_output("PLAN"))

    with pytest.raises(TaskLost):
        store.save(task, processing)


def test_an_output_is_stored_together_with_its_state(store: Store) -> None:
    processing = added_and_claimed(store, a_task(mode=Mode.PLAN))
    plan, step = an_output("PLAN", "{}"), an_output("STEP#a", None, error="No.", attempts=())
    planned = processing.progressed(plan)
    further = planned.progressed(step)

    store.save(processing, planned, plan)
    store.save(planned, further, step)

    stored = store.get(processing.ref)
    assert stored == Snapshot(task=further, request=a_request(), outputs=by_key(plan, step))


def test_what_a_newer_version_noted_is_kept(store: Store) -> None:
    """A letter that is unknown here is read, and written again with the next state."""
    task = added(store, a_task(notes=(("z", 1_000),)))
    processing = claimed(task)
    store.save(task, processing)

    stored = store.get(task.ref).task

    assert stored.notes[0] == ("z", 1_000)
    assert stored == processing


def test_an_attempt_comes_back_with_its_facts(store: Store) -> None:
    """Also with those that most attempts lack."""
    first = a_failed_attempt(fault="empty", tier="fast", why="fast tier, cheapest, probe", probe=True)
    second = an_attempt(engine="claude", failover_from="gpt", why="failover from gpt", started_ms=NOW_MS + 2_000)
    processing = added_and_claimed(store)
    answer = an_output(attempts=(first, second))
    store.save(processing, processing.completed(answer), answer)

    assert store.get(processing.ref).attempts == [first, second]


def test_the_fault_of_a_result_is_known_from_the_stored_attempts(store: Store) -> None:
    """The stores have no field for it, so telling it costs no write."""
    processing = added_and_claimed(store)
    answer = an_output(attempts=(an_attempt(fault="a refusal"),))
    store.save(processing, processing.completed(answer), answer)

    assert store.get(processing.ref).fault == "a refusal"


def test_an_answer_whose_worker_died_is_found_by_the_next_claim(store: Store) -> None:
    """It is paid for: the next worker adopts it, and its cost is on the receipt from then on."""
    first = added_and_claimed(store)
    answer = an_output("RES#1")
    store.keep(first.ref, answer)
    assert store.overview()[0] == Counters(total=1, active=1)
    second = claimed(first, now_ms=NOW_MS + LEASE_MS, owner="w2")
    store.save(first, second)

    orphan = store.get(first.ref).orphan

    assert orphan == answer
    store.save(second, second.completed(answer))
    snapshot = store.get(first.ref)
    assert (snapshot.result, snapshot.orphan, snapshot.task.answer_fence) == ("Hello.", None, 1)
    audit(store, [first.ref])


def test_an_answer_to_a_cancelled_task_is_kept_although_its_state_is_not_saved(store: Store) -> None:
    """If the worker dies before it has settled the task, the next delivery finds what the answer cost."""
    processing = added_and_claimed(store)
    store.save(processing, processing.cancelled(now_ms=NOW_MS))
    answer = an_output(attempts=(an_attempt(),))

    with pytest.raises(TaskLost):
        store.save(processing, processing.completed(answer), answer)

    snapshot = store.get(processing.ref)
    assert (snapshot.task.status, snapshot.unsettled(NOW_MS)) == (Status.CANCELLED, answer.as_a_try())


def test_an_answer_can_be_kept_twice(store: Store) -> None:
    processing = added_and_claimed(store)

    store.keep(processing.ref, an_output())
    store.keep(processing.ref, an_output())

    assert store.get(processing.ref).outputs == by_key(an_output())
