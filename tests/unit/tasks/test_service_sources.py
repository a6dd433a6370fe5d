"""The sources that a task may use: its own list and the limits of the keys that create, retry or approve it."""

from __future__ import annotations

from typing import Any

import pytest

from llm_server.orchestration.domain.api_key import KeyLimits, NewKey, Payer
from llm_server.orchestration.domain.engines.catalog import Catalog, Sources
from llm_server.orchestration.domain.errors import EngineUnavailable, InvalidInput, PromptRefused, StateConflict
from llm_server.orchestration.domain.plan import digest
from llm_server.orchestration.domain.snapshot import Limits
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.tasks.new_task import NewTask
from support.builders import output_key
from support.deliveries import a_plan, planning
from support.scripted_engine import ScriptedEngine, a_catalog, a_local_engine, an_engine
from support.scripted_service import Served

NO = PromptRefused("No.")
LOCAL: Sources = ("local",)
API: Sources = ("api",)
BOTH: Sources = ("local", "api")


class Two:
    """A service with a local and a hosted engine."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.hosted = ScriptedEngine("Hello from afar.")
        self.use(served.engine)

    def use(self, local: ScriptedEngine, catalog: Catalog | None = None) -> None:
        """Start the service again, as another process does, with this local engine."""
        self.local = self.served.engine = local
        both = {"laptop": a_local_engine(tier="fast"), "hosted": an_engine(tier="strong")}
        self.served.use(catalog or a_catalog(both), hosted=self.hosted)

    def submitted(self, own: Sources | None, of_key: Sources | None = None, **asked: Any) -> TaskRef:
        new = NewTask(prompt="Why?", limits=Limits(sources=own), **asked)
        ref = self.served.service.submit("local", new, payer=payer(of_key)).ref
        self.served.refs.append(ref)
        return ref

    def allowed(self, ref: TaskRef) -> Sources | None:
        return self.served.get(ref).allowed_engines.sources


def payer(sources: Sources | None) -> Payer:
    return Payer(key_id="0123456789ab", limits=KeyLimits(sources=sources))


@pytest.fixture
def two(served: Served) -> Two:
    return Two(served)


# Creating a task


@pytest.mark.parametrize(
    ("own", "of_key", "left"),
    [
        (None, None, None),
        (LOCAL, None, LOCAL),
        (None, LOCAL, LOCAL),
        (BOTH, LOCAL, LOCAL),
        (LOCAL, BOTH, LOCAL),
        (BOTH, None, BOTH),
    ],
)
def test_a_task_is_limited_by_its_own_list_and_by_its_key(
    two: Two, own: Sources | None, of_key: Sources | None, left: Sources | None
) -> None:
    """The limit is stored with the request, which never changes and which older versions do not write again."""
    ref = two.submitted(own, of_key)
    two.served.work()

    assert two.served.get(ref).request.limits.sources == left
    assert two.allowed(ref) == left
    assert two.served.get(ref).task.status is Status.COMPLETED


def test_a_task_with_an_idempotency_key_is_limited_by_its_key(two: Two) -> None:
    """A repeated call finds the task as it was limited, whichever key repeats it: it makes no call."""
    service, new = two.served.service, NewTask(prompt="Why?")
    made = service.submit_once("local", new, "k", payer=payer(LOCAL))
    again = service.submit_once("local", new, "k", payer=payer(API))
    two.served.refs.append(made.task.ref)

    assert (again.task.ref, again.replayed) == (made.task.ref, True)
    assert two.allowed(made.task.ref) == LOCAL


def refused(two: Two, own: Any, of_key: Sources | None = None, **asked: Any) -> tuple[str, str, str]:
    """Return code, place and sentence of the refusal; a quote is refused in the same way, and nothing is stored."""
    new, found = NewTask(prompt="Why?", limits=Limits(sources=own), **asked), []
    service = two.served.service
    for call in (
        lambda: service.quote("local", new, payer=payer(of_key)).decision,
        lambda: service.submit("local", new, payer=payer(of_key)),
        lambda: service.submit_once("local", new, "k", payer=payer(of_key)),
    ):
        with pytest.raises(InvalidInput) as why:
            call()
        found.append((why.value.code, f"{why.value.within}.{why.value.field}".lstrip("."), str(why.value)))
    assert len(set(found)) == 1
    assert service.counters().total == 0
    return found[0]


def test_a_source_that_no_engine_has_is_refused(two: Two) -> None:
    two.use(two.local, a_catalog({"hosted": an_engine()}))
    why = "No configured engine has the source local; the configured sources are: api."

    assert refused(two, LOCAL) == ("sources_not_usable", "limits.sources", why)
    assert refused(two, None, LOCAL) == ("sources_not_usable", "limits.sources", why)


def test_the_embedded_engine_counts_only_if_it_answers_tasks(two: Two) -> None:
    """It is local, but beside a real engine it answers only tasks that name it."""
    embedded = a_local_engine(kind="embedded", base_url=None)
    two.use(two.local, a_catalog({"embedded": embedded, "hosted": an_engine()}))

    assert refused(two, LOCAL)[0] == "sources_not_usable"
    assert two.allowed(two.submitted(LOCAL, engine="embedded")) == LOCAL

    two.use(two.local, a_catalog({"embedded": embedded}))
    two.served.work()
    assert two.served.get(two.submitted(LOCAL)).task.status is Status.QUEUED


def test_a_list_that_the_key_does_not_allow_is_refused(two: Two) -> None:
    why = "The list limits.sources has api, and the key allows only local."

    assert refused(two, API, LOCAL) == ("sources_not_usable", "limits.sources", why)


@pytest.mark.parametrize(("own", "of_key"), [(LOCAL, None), (None, LOCAL)])
def test_a_named_engine_with_another_source_is_refused(two: Two, own: Any, of_key: Any) -> None:
    why = "Engine hosted has the source api; the task may use local."

    assert refused(two, own, of_key, engine="hosted") == ("engine_not_usable", "engine", why)


@pytest.mark.parametrize("words", [(), ("moon",), ("local", "local")])
def test_a_wrong_list_is_refused(two: Two, words: tuple[str, ...]) -> None:
    code, place, why = refused(two, words)

    assert (code, place) == ("invalid_input", "limits.sources")
    assert "known are local, api" in why


def test_a_quote_names_an_engine_that_the_task_may_use(two: Two) -> None:
    new = NewTask(prompt="Prove that the square root of 2 is irrational.", role="Deep-Coder-Agent")

    free = two.served.service.quote("local", new).decision
    limited = two.served.service.quote("local", new, payer=payer(LOCAL)).decision

    assert (free.engine, free.sources) == ("hosted", None)
    assert (limited.engine, limited.sources) == ("laptop", LOCAL)


def test_a_key_that_is_limited_later_does_not_change_accepted_tasks(two: Two) -> None:
    """As with `usd_per_day`: the limits of the key at the time of acceptance count."""
    keys, service = two.served.service.keys, two.served.service
    key, token = keys.create("local", ["tasks"])
    earlier = service.submit("local", NewTask(prompt="Why?"), payer=keys.caller(token).payer).ref
    keys.update(key.key_id, {"limits": {"sources": ["local"]}})
    later = service.submit("local", NewTask(prompt="Why?"), payer=keys.caller(token).payer).ref
    keys.update(key.key_id, {"limits": {"sources": None}})
    two.served.refs += [earlier, later]

    assert (two.allowed(earlier), two.allowed(later)) == (None, LOCAL)
    assert keys.caller(token).payer == Payer(key_id=key.key_id, limits=KeyLimits())


def test_a_limit_holds_for_a_later_claim_by_another_process(two: Two) -> None:
    """The local engine is down in the first claim, and still down in the second; the hosted one is never asked."""
    two.use(ScriptedEngine(EngineUnavailable("Busy.")))
    ref = two.submitted(LOCAL)
    two.served.work()
    two.served.clock.pass_s(400)
    two.use(ScriptedEngine(EngineUnavailable("Busy."), "At last."))
    for _ in range(3):
        two.served.clock.pass_s(400)
        two.served.work()

    snapshot = two.served.get(ref)
    assert (snapshot.result, two.hosted.calls) == ("At last.", [])
    assert [attempt.source for attempt in snapshot.attempts] == ["local"] * 3


def test_a_limited_task_fails_when_no_such_engine_is_configured_any_more(two: Two) -> None:
    ref = two.submitted(LOCAL)
    two.use(two.local, a_catalog({"hosted": an_engine()}))
    for _ in range(4):
        two.served.clock.pass_s(400)
        two.served.work()

    task = two.served.get(ref).task
    why = "No configured engine has the source local; the configured sources are: api."
    assert (task.status, task.error) == (Status.FAILED, why)
    assert (two.hosted.calls, two.local.calls) == ([], [])


# Retry and approval by another key


def failed(two: Two, own: Sources | None, of_key: Sources | None = None, **asked: Any) -> TaskRef:
    """Return a task that has Failed; after it the local engine answers, and the hosted engine forgets its calls."""
    hosted, two.hosted = two.hosted, ScriptedEngine(NO)
    two.use(ScriptedEngine(NO))
    ref = two.submitted(own, of_key, **asked)
    two.served.work()
    assert two.served.get(ref).task.status is Status.FAILED
    two.hosted = hosted
    two.use(ScriptedEngine("Hello from here."))
    return ref


def test_a_retry_is_limited_by_the_key_it_is_made_with(two: Two) -> None:
    """The task may have called a hosted engine before."""
    ref = failed(two, None, None, role="Deep-Coder-Agent")

    two.served.service.retry(ref, payer=payer(LOCAL))
    two.served.work()

    snapshot = two.served.get(ref)
    assert (snapshot.result, two.hosted.calls, two.allowed(ref)) == ("Hello from here.", [], LOCAL)
    assert sorted(attempt.source for attempt in snapshot.attempts) == ["api", "local"]


@pytest.mark.parametrize(("own", "of_key"), [(LOCAL, None), (None, LOCAL)])
@pytest.mark.parametrize("second", [None, BOTH])
def test_a_retry_with_a_freer_key_does_not_widen_the_limit(
    two: Two, own: Sources | None, of_key: Sources | None, second: Sources | None
) -> None:
    """The task was accepted with the promise that no hosted engine sees its prompt."""
    ref = failed(two, own, of_key, role="Deep-Coder-Agent")

    two.served.service.retry(ref, payer=payer(second))
    two.served.work()

    assert (two.served.get(ref).result, two.hosted.calls, two.allowed(ref)) == ("Hello from here.", [], LOCAL)


def test_the_limit_of_a_retry_holds_for_later_retries(two: Two) -> None:
    ref = failed(two, None, None, role="Deep-Coder-Agent")
    two.use(ScriptedEngine(NO, "Hello from here."))
    two.served.service.retry(ref, payer=payer(LOCAL))
    two.served.work()
    assert two.served.get(ref).task.status is Status.FAILED

    two.served.service.retry(ref)
    two.served.work()

    assert (two.served.get(ref).result, two.hosted.calls) == ("Hello from here.", [])


def test_a_retry_with_a_key_that_leaves_no_engine_is_refused(two: Two) -> None:
    """And the task stays as it is."""
    ref = failed(two, LOCAL)
    before = two.served.get(ref)

    with pytest.raises(StateConflict) as why:
        two.served.service.retry(ref, payer=payer(API))

    assert (why.value.code, str(why.value)) == (
        "sources_conflict",
        "The limits of the task and of its keys have no source in common.",
    )
    assert two.served.get(ref) == before


def test_a_retry_is_refused_while_no_allowed_engine_is_configured(two: Two) -> None:
    ref = failed(two, LOCAL)
    two.use(two.local, a_catalog({"hosted": an_engine()}))

    with pytest.raises(StateConflict, match="No configured engine has the source local"):
        two.served.service.retry(ref)


def planned(two: Two) -> tuple[TaskRef, str]:
    """Return a task without limits whose plan waits for approval, and the plan's hash."""
    two.hosted = planning(a_plan())
    two.use(planning(a_plan()))
    ref = two.submitted(None, mode=Mode.PLAN, plan_approval=True)
    two.served.work()
    plan = two.served.get(ref).outputs[output_key("PLAN")]
    two.hosted.calls.clear()
    return ref, digest(plan.text or "")


def test_the_steps_are_limited_by_the_key_that_approves_the_plan(two: Two) -> None:
    """The synthesis would go to the strong engine, which is hosted."""
    ref, plan_hash = planned(two)

    two.served.service.approve(ref, plan_hash, approve=True, payer=payer(LOCAL))
    two.served.service.approve(ref, plan_hash, approve=True)  # repeated with another key, it has no effect
    two.served.work()

    assert (two.served.get(ref).task.status, two.hosted.calls) == (Status.COMPLETED, [])
    assert {a.source for a in two.served.get(ref).attempts if a.purpose != "plan"} == {"local"}


def test_without_such_a_key_the_strong_engine_writes_the_synthesis(two: Two) -> None:
    ref, plan_hash = planned(two)

    two.served.service.approve(ref, plan_hash, approve=True, payer=payer(None))
    two.served.work()

    assert two.hosted.calls
    assert two.allowed(ref) is None


def test_an_approval_that_leaves_no_engine_is_refused_and_a_rejection_is_not(two: Two) -> None:
    two.hosted = planning(a_plan())
    two.use(planning(a_plan()))
    ref = two.submitted(LOCAL, mode=Mode.PLAN, plan_approval=True)
    two.served.work()
    plan_hash = digest(two.served.get(ref).outputs[output_key("PLAN")].text or "")

    with pytest.raises(StateConflict) as why:
        two.served.service.approve(ref, plan_hash, approve=True, payer=payer(API))

    assert why.value.code == "sources_conflict"
    assert two.served.get(ref).task.awaits_approval
    two.served.service.approve(ref, plan_hash, approve=False, payer=payer(API))
    assert two.served.get(ref).task.status is Status.CANCELLED


# Idempotency


def test_the_order_of_the_list_does_not_make_another_body(two: Two) -> None:
    first, other = (NewTask(prompt="Why?", limits=Limits(sources=words)) for words in (BOTH, ("api", "local")))

    made = two.served.service.submit_once("local", first, "k")
    two.served.refs.append(made.task.ref)

    assert two.served.service.submit_once("local", other, "k").replayed
    with pytest.raises(InvalidInput, match="another body"):
        two.served.service.submit_once("local", NewTask(prompt="Why?", limits=Limits(sources=LOCAL)), "k")


def test_bodies_without_the_limit_have_the_hash_that_earlier_versions_gave_them() -> None:
    """So a call that is repeated after an update finds its task, or its key."""
    key = NewKey(tenant="acme", scopes=("tasks",), limits=KeyLimits(requests_per_minute=60))

    hashes = [
        NewTask(prompt="Why?").digest(),
        NewTask(prompt="Why?", limits=Limits(max_cost_usd=0.5)).digest(),
        key.digest(),
    ]

    assert hashes == [
        "22520f319d43d8515d0342b1a58edd43a6467e9d80400f7acf1291d322c3b085",
        "31d9e8393482a6aaf36447e02e1a88e70e96825f948a2e7e56e9d362cfb41b2b",
        "791ef395bea6dcbc30a88d536d8af5d3b2f7161ee7fd2467fe2239624232f4fb",
    ]
    assert NewTask(prompt="Why?", limits=Limits(max_cost_usd=0.5, sources=LOCAL)).digest() not in hashes
