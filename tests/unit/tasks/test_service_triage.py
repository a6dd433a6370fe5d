"""A task whose analysis is unsure: one engine is asked once how to do it, and no failure of that fails the task."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from llm_server.api import views
from llm_server.orchestration.domain.api_key import Account, KeyLimits, Payer
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.engines.catalog import EnginePrice
from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused
from llm_server.orchestration.domain.output import Output
from llm_server.orchestration.domain.ports.listing import TaskFilter
from llm_server.orchestration.domain.snapshot import Limits, Snapshot
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.orchestration.events.history import history
from llm_server.orchestration.execution.triage import MAX_S, SHARE_OF_TIME
from llm_server.orchestration.execution.triage_memory import KEPT_MS, MAX_UNUSABLE
from llm_server.orchestration.tasks.new_task import NewTask
from support.deliveries import a_plan
from support.scripted_engine import Answer, Script, ScriptedEngine, a_completion, a_local_engine, an_engine
from support.scripted_service import Served
from support.triage_answers import triages, triaging, unsure, verdict

KEY = "0123456789ab"
PROMPT = "Why is the sky blue?"
BUSY = EngineUnavailable("The engine is busy.", outage=True)


def use(served: Served, engine: ScriptedEngine, engines: Any = None, **defaults: Any) -> None:
    served.engine = engine
    served.use(unsure(engines, **defaults))


def done(served: Served, prompt: str = PROMPT, **asked: Any) -> Snapshot:
    """Submit a task and carry it out."""
    ref = served.submit(prompt, **asked)
    served.work()
    return served.get(ref)


def purposes(snapshot: Snapshot) -> list[str]:
    return [attempt.purpose for attempt in snapshot.attempts]


def triaged(snapshot: Snapshot) -> str:
    """Return the detail of the event of the triage; "" if the task has none."""
    return next((event.detail for event in history(snapshot) if event.name == "triaged"), "")


def test_an_unsure_task_is_done_as_the_engine_decides(served: Served) -> None:
    """Role, mode and profile change, and the role's own system prompt answers. Both calls are on the receipt."""
    use(served, triaging())
    ref = served.submit(PROMPT)
    accepted = served.get(ref).task
    served.work()
    snapshot = served.get(ref)

    assert (accepted.mode, accepted.role) == (Mode.CHAT, "Chat-Agent")
    assert (snapshot.task.mode, snapshot.task.role) == (Mode.AGENT, "Teacher-Agent")
    assert (snapshot.task.status, snapshot.result) == (Status.COMPLETED, "Hello.")
    assert purposes(snapshot) == ["triage", "answer"]
    assert served.engine.calls[1].system == unsure().roles["Teacher-Agent"].system_prompt
    assert snapshot.task.receipt.calls == 2
    assert snapshot.task.receipt.cost_microusd == 100, "two calls of 10 tokens in and 20 out"


def test_the_task_says_what_was_decided_and_why(served: Served) -> None:
    """The reasons of the analysis decided nothing, so they are not shown."""
    use(served, triaging(verdict(complexity=0.31)))
    snapshot = done(served)
    shown = views.detail(snapshot)

    assert (shown.mode, shown.role, shown.complexity) == (Mode.AGENT, "Teacher-Agent", 0.31)
    assert shown.confidence == snapshot.request.confidence
    assert shown.reasons == [
        "triage: only decided: Agent mode, Teacher-Agent, complexity 0.31",
        f"the analysis had confidence {shown.confidence:.2f} in Chat mode, Chat-Agent",
    ]
    names = [event.event for event in shown.events]
    assert names == ["accepted", "routed", "claimed", "triaged", "completed"]
    details = {event.event: (event.actor, event.detail) for event in shown.events}
    assert details["routed"] == ("server", f"Chat mode, Chat-Agent, confidence {shown.confidence:.2f}")
    assert details["triaged"] == ("worker", "only decided: Agent mode, Teacher-Agent, complexity 0.31")
    assert [attempt.purpose for attempt in shown.attempts] == ["triage", "answer"]


def test_the_decision_is_stored_before_the_answer_is_asked_for(served: Served) -> None:
    seen = list[tuple[Mode, str, list[str], list[str]]]()
    ref: TaskRef | None = None

    def look(call: EngineCall) -> Answer:
        assert ref is not None
        snapshot = served.get(ref)
        pending = [attempt.purpose for attempt in snapshot.task.pending]
        seen.append((snapshot.task.mode, snapshot.task.role, purposes(snapshot), pending))
        return verdict() if call.answer_schema else "Hello."

    use(served, ScriptedEngine(look))
    ref = served.submit(PROMPT)
    served.work()

    assert seen == [
        (Mode.CHAT, "Chat-Agent", [], ["triage"]),
        (Mode.AGENT, "Teacher-Agent", ["triage"], ["answer"]),
    ]


def test_a_triaged_task_is_saved_once_more_than_another(served: Served) -> None:
    """Create, claim and end are three states; the decision is a fourth."""
    use(served, triaging())
    once_more = done(served).task.rev
    served.use(unsure(triage="off"))
    plain = done(served).task.rev

    assert (plain, once_more) == (3, 4)


@pytest.mark.parametrize(
    ("asked", "mode", "role"),
    [
        ({"role": "Writing-Agent"}, Mode.AGENT, "Writing-Agent"),
        ({"role": "Writing-Agent", "mode": Mode.AGENT}, Mode.AGENT, "Writing-Agent"),
        ({"role": "Writing-Agent", "profile": "General"}, Mode.AGENT, "Writing-Agent"),
        ({"mode": Mode.CHAT}, Mode.CHAT, "Chat-Agent"),
    ],
)
@pytest.mark.parametrize("triage", ["auto", "always"])
def test_what_the_caller_decided_is_not_asked_about(
    served: Served, asked: dict[str, Any], mode: Mode, role: str, triage: str
) -> None:
    """A role decides the mode, and Chat mode the role."""
    use(served, triaging(), triage=triage)
    snapshot = done(served, **asked)

    assert (snapshot.task.mode, snapshot.task.role) == (mode, role)
    assert purposes(snapshot) == ["answer"]
    assert triaged(snapshot) == ""


def test_plan_mode_of_the_caller_is_planned_without_a_question(served: Served) -> None:
    use(served, triaging(plan=a_plan()))

    assert "triage" not in purposes(done(served, mode=Mode.PLAN))


def test_a_mode_of_the_caller_stays_while_the_role_is_asked_for(served: Served) -> None:
    use(served, triaging(verdict(mode="Plan", role="Email-Agent")))
    snapshot = done(served, mode=Mode.AGENT)

    assert (snapshot.task.mode, snapshot.task.role) == (Mode.AGENT, "Email-Agent")
    assert "mode" not in triages(served.engine)[0].answer_schema.schema["properties"]  # type: ignore[union-attr]


def test_a_profile_of_the_caller_stays(served: Served) -> None:
    """A role of another profile is nonsense then."""
    use(served, triaging(verdict(role="Debug-Agent"), verdict(role="Deep-Coder-Agent")))
    inside, outside = done(served, profile="Developer"), done(served, "Something else", profile="General")

    assert (inside.task.profile, inside.task.role) == ("Developer", "Debug-Agent")
    assert (outside.task.profile, outside.task.role) == ("General", "Chat-Agent")


def test_without_a_profile_of_the_caller_the_role_decides_it(served: Served) -> None:
    """As when the analysis chooses a role."""
    use(served, triaging(verdict(role="Deep-Coder-Agent")))
    snapshot = done(served)

    assert (snapshot.task.profile, snapshot.task.role) == ("Developer", "Deep-Coder-Agent")


def test_plan_mode_of_a_triage_is_planned_as_usual(served: Served) -> None:
    use(served, triaging(verdict(mode="Plan", role="Deep-Coder-Agent"), plan=a_plan({"a": ""}, role="Email-Agent")))
    snapshot = done(served)

    assert (snapshot.task.mode, snapshot.task.role) == (Mode.PLAN, "Planner-Agent")
    assert purposes(snapshot) == ["triage", "plan", "step a", "synthesis"]
    assert snapshot.task.status is Status.COMPLETED


def test_a_plan_of_a_triage_waits_for_approval_if_the_caller_asked_for_it(served: Served) -> None:
    use(served, triaging(verdict(mode="Plan"), plan=a_plan({"a": ""}, role="Email-Agent")))
    snapshot = done(served, plan_approval=True)

    assert snapshot.task.awaits_approval
    assert purposes(snapshot) == ["triage", "plan"]


def test_a_plan_that_the_analysis_wanted_can_become_an_answer(served: Served) -> None:
    """`always` also asks where the analysis is sure."""
    use(served, triaging(), triage="always", confidence_threshold=0)
    ref = served.submit("Build the API, test it, then deploy it and document it.")
    before = served.get(ref).task.mode
    served.work()
    snapshot = served.get(ref)

    assert (before, snapshot.task.mode, snapshot.task.role) == (Mode.PLAN, Mode.AGENT, "Teacher-Agent")
    assert purposes(snapshot) == ["triage", "answer"]


@pytest.mark.parametrize(
    ("defaults", "asked"),
    [
        ({"triage": "off"}, False),
        ({"triage": "auto", "confidence_threshold": 0}, False),
        ({"triage": "auto", "confidence_threshold": 0, "triage_threshold": 1.01}, True),
        ({"triage": "auto", "triage_threshold": 0}, False),
        ({"triage": "auto"}, True),
        ({"triage": "always", "confidence_threshold": 0}, True),
    ],
)
def test_the_configuration_says_which_tasks_are_triaged(served: Served, defaults: dict[str, Any], asked: bool) -> None:
    """Without a threshold of its own, that of the confidence counts."""
    use(served, triaging(), **defaults)

    assert ("triage" in purposes(done(served))) is asked


@pytest.mark.parametrize(
    "spec",
    [
        an_engine(tier="strong"),
        an_engine(kind="embedded", source="local", model="embedded"),
        an_engine(kind="demonstration", source="local", model="tiny"),
        an_engine(source="local", small=True),
        an_engine(kind="llamacpp", source="local", model="tiny"),
        an_engine(tier="fast", toggle=False),
        an_engine(tier="fast", locked=True),
    ],
)
def test_only_a_real_engine_of_the_fast_tier_is_asked(served: Served, spec: Any) -> None:
    use(served, triaging(), {"only": spec, "other": an_engine(tier="strong")})
    snapshot = done(served)

    assert purposes(snapshot) == ["answer"]
    assert snapshot.task.status is Status.COMPLETED


@pytest.mark.parametrize("kind", ["embedded", "demonstration"])
def test_a_server_without_a_real_engine_triages_no_task(served: Served, kind: Any) -> None:
    """Not even a task that names the engine; its request is stored as before."""
    use(served, triaging(), {"only": an_engine(kind=kind, source="local", model="tiny")})
    usual, named = done(served), done(served, "Another prompt", engine="only")

    assert [purposes(snapshot) for snapshot in (usual, named)] == [["answer"], ["answer"]]
    assert usual.request.undecided == ()


def test_the_cheapest_engine_of_the_fast_tier_is_asked(served: Served) -> None:
    engines = {
        "strong": an_engine(tier="strong", price=None, source="local"),
        "dear": an_engine(tier="fast", price=EnginePrice(input=5, output=5)),
        "cheap": an_engine(tier="fast"),
    }
    use(served, triaging(), engines)
    first, *_ = done(served).attempts

    assert (first.engine, first.purpose, first.why) == ("cheap", "triage", "fast tier, cheapest")


@pytest.mark.parametrize(("sources", "engine"), [(("local",), "near"), (("api",), "far"), (None, "near")])
def test_the_prompt_goes_only_to_engines_that_the_task_may_use(served: Served, sources: Any, engine: str) -> None:
    use(served, triaging(), {"far": an_engine(tier="fast"), "near": a_local_engine(tier="fast")})
    snapshot = done(served, limits=Limits(sources=sources))

    assert [(a.purpose, a.engine) for a in snapshot.attempts] == [("triage", engine), ("answer", engine)]


def test_a_local_task_is_not_triaged_if_only_a_hosted_engine_could(served: Served) -> None:
    use(served, triaging(), {"far": an_engine(tier="fast"), "near": a_local_engine(tier="strong")})
    snapshot = done(served, limits=Limits(sources=("local",)))

    assert [(a.purpose, a.engine) for a in snapshot.attempts] == [("answer", "near")]


def test_a_task_that_names_an_engine_is_triaged_by_no_other(served: Served) -> None:
    use(served, triaging(), {"fast": an_engine(tier="fast"), "strong": an_engine(tier="strong")})
    by_strong, by_fast = done(served, engine="strong"), done(served, "Another prompt", engine="fast")

    assert [(a.purpose, a.engine) for a in by_strong.attempts] == [("answer", "strong")]
    assert [(a.purpose, a.engine) for a in by_fast.attempts] == [("triage", "fast"), ("answer", "fast")]


@pytest.mark.parametrize(
    ("failure", "why"),
    [
        ("What a nice prompt!", "only named no mode and role of the catalogue"),
        (verdict(role="Root-Agent"), "only named no mode and role of the catalogue"),
        (a_completion(verdict(), truncated=True), "only named no mode and role of the catalogue"),
        ("", "only gave no answer"),
        (PromptRefused("No."), "only gave no answer"),
        (EngineUnavailable("Broken.", kind="garbage"), "only gave no answer"),
        (EngineUnavailable("Slow.", kind="timeout"), "only did not answer in time"),
    ],
)
def test_without_a_usable_answer_the_analysis_decides(served: Served, failure: Script, why: str) -> None:
    """The call is paid for, or failed, and is on the receipt; the task goes on with another engine."""
    engines = {"only": an_engine(tier="fast"), "second": an_engine(tier="strong")}
    use(served, triaging(failure), engines)
    ref = served.submit(PROMPT)
    before = served.get(ref)
    served.work()
    snapshot = served.get(ref)

    assert snapshot.task.status is Status.COMPLETED
    assert (snapshot.task.mode, snapshot.task.role) == (before.task.mode, before.task.role)
    assert purposes(snapshot) == ["triage", "answer"]
    assert triaged(snapshot) == f"{why}, so the analysis decides"
    shown = views.detail(snapshot)
    assert shown.reasons == [*before.request.reasons, f"triage: {why}, so the analysis decides"]
    assert shown.complexity == before.request.complexity


def test_a_failed_triage_is_not_asked_for_again_of_another_engine(served: Served) -> None:
    """One engine, one call."""
    use(served, triaging(BUSY), {"one": an_engine(tier="fast"), "two": an_engine(tier="fast")})
    snapshot = done(served)

    assert [(a.engine, a.purpose, a.failure) for a in snapshot.attempts] == [
        ("one", "triage", "busy"),
        ("two", "answer", None),
    ]


def test_an_engine_that_failed_at_a_triage_rests_as_after_any_other_call(served: Served) -> None:
    """The task waits for it, as it would have waited after the failure of its answer, and is not triaged again."""
    use(served, triaging(BUSY))
    ref = served.submit(PROMPT)
    served.work()
    waiting = served.get(ref)
    served.clock.pass_s(60)
    served.work()
    snapshot = served.get(ref)

    assert waiting.task.is_waiting
    assert served.service.engines()["only"].status == "online"
    assert snapshot.task.status is Status.COMPLETED
    assert purposes(snapshot) == ["triage", "answer"]


def test_while_no_engine_can_be_asked_a_task_waits_without_a_triage(served: Served) -> None:
    """It is triaged when an engine is back: a wait makes no call."""
    use(served, ScriptedEngine(BUSY, verdict(), "Hello."))
    done(served, "Another prompt", role="Writing-Agent")
    ref = served.submit(PROMPT)
    served.work()
    waiting = served.get(ref)
    served.clock.pass_s(60)
    served.work()

    assert (waiting.task.is_waiting, waiting.attempts) == (True, [])
    assert "triage" in [p for each in served.refs for p in purposes(served.get(each))]
    assert all(served.get(each).task.status is Status.COMPLETED for each in served.refs)


class SwitchingStore:
    """The store; the engine `only` is switched off as soon as a task is claimed."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._is_off = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._served.store, name)

    def save(self, before: Task, after: Task, output: Output | None = None, **more: Any) -> None:
        self._served.store.save(before, after, output, **more)
        if not self._is_off:
            self._is_off = True
            self._served.service.switch_engine("only", {"toggle": False})


def test_an_announced_triage_that_cannot_be_made_any_more_is_not_booked(served: Served) -> None:
    """The engine was switched off after the claim: the analysis decides, and the next engine answers."""
    served.engine = triaging()
    store: Any = SwitchingStore(served)
    served.use(unsure({"only": an_engine(tier="fast"), "strong": an_engine(tier="strong")}), store)
    snapshot = done(served)

    assert triaged(snapshot) == "no engine could be asked, so the analysis decides"
    assert [(a.purpose, a.engine) for a in snapshot.attempts] == [("answer", "strong")]
    assert (snapshot.task.status, snapshot.task.role) == (Status.COMPLETED, "Chat-Agent")


def test_a_hanging_engine_delays_a_task_by_ten_seconds_at_most(served: Served) -> None:
    """That it hung for a triage does not make it rest: the bound is ours."""

    def hang(call: EngineCall) -> Answer:
        served.clock.pass_s(MAX_S)
        return EngineUnavailable("No answer.", kind="timeout", may_be_billed=True)

    use(served, triaging(hang))
    snapshot = done(served)
    first, second = snapshot.attempts

    assert served.engine.timeouts_s[0] == MAX_S
    assert (first.purpose, first.failure, second.purpose, second.failure) == ("triage", "timeout", "answer", None)
    assert second.started_ms - first.started_ms <= MAX_S * 1000
    assert triaged(snapshot) == "only did not answer in time, so the analysis decides"
    assert snapshot.task.status is Status.COMPLETED


def test_a_triage_leaves_most_of_the_time_before_the_deadline(served: Served) -> None:
    use(served, triaging())
    done(served, limits=Limits(deadline_s=20))
    late = done(served, "Another prompt", limits=Limits(deadline_s=2))

    assert served.engine.timeouts_s[0] == pytest.approx(20 * SHARE_OF_TIME)
    assert purposes(late) == ["answer"]


@pytest.mark.parametrize(("limit", "asked"), [(59, False), (60, True)])
def test_the_limit_of_output_tokens_holds_for_the_triage(served: Served, limit: int, asked: bool) -> None:
    use(served, triaging())
    snapshot = done(served, limits=Limits(max_output_tokens=limit))

    assert ("triage" in purposes(snapshot)) is asked
    assert all(call.max_output_tokens <= max(limit, 60) for call in served.engine.calls)


def test_a_triage_takes_only_a_tenth_of_the_money(served: Served) -> None:
    """Its highest cost is about 4,000 micro-USD here, one for each byte; the answer has to be paid for as well."""
    use(served, triaging())
    poor, rich = Limits(max_cost_usd=0.02), Limits(max_cost_usd=0.2)
    without, within = done(served, limits=poor), done(served, "Another prompt", limits=rich)

    assert (purposes(without), without.task.status) == (["answer"], Status.COMPLETED)
    assert purposes(within) == ["triage", "answer"]


def test_what_a_triage_cost_is_taken_from_the_tasks_money(served: Served) -> None:
    """An engine that uses all it may: the answer still fits, and both stay within the limit."""

    def costly(call: EngineCall) -> Answer:
        text = verdict() if call.answer_schema else "Hello."
        return a_completion(text, tokens_in=4_000, tokens_out=call.max_output_tokens)

    use(served, ScriptedEngine(costly))
    limit_usd = 0.06
    snapshot = done(served, limits=Limits(max_cost_usd=limit_usd))

    assert purposes(snapshot) == ["triage", "answer"]
    assert snapshot.task.receipt.cost_microusd <= limit_usd * 1_000_000


def test_an_engine_without_a_price_does_not_triage_a_task_with_a_limit(served: Served) -> None:
    use(served, triaging(), {"only": an_engine(price=None), "priced": an_engine(tier="strong")})

    assert purposes(done(served, limits=Limits(max_cost_usd=1))) == ["answer"]
    assert purposes(done(served, "Another prompt")) == ["triage", "answer"]


@pytest.mark.parametrize(("day_microusd", "calls"), [(100_000, ["triage", "answer"]), (1_500, ["answer"])])
def test_a_triage_is_charged_to_the_key(served: Served, day_microusd: int, calls: list[str]) -> None:
    """If the day's money does not suffice for it, the analysis decides, and the answer may still fit."""
    use(served, triaging())
    payer = Payer(key_id=KEY, limits=KeyLimits(microusd_per_day=day_microusd))
    task = served.service.submit("local", NewTask(prompt=PROMPT), payer=payer)
    served.refs.append(task.ref)
    served.work()
    snapshot = served.get(task.ref)

    assert (snapshot.task.status, purposes(snapshot)) == (Status.COMPLETED, calls)
    assert served.keys.use(Account(KEY, "2025-10-09")).charged_microusd == snapshot.task.receipt.cost_microusd
    assert triaged(snapshot).startswith("only decided: " if len(calls) == 2 else "only was not asked, ")


def test_an_identical_prompt_is_decided_without_a_call(served: Served) -> None:
    """Its receipt shows no call for a triage; its history says that the engine decided before."""
    use(served, triaging())
    first, again = done(served), done(served)

    assert (purposes(first), purposes(again)) == (["triage", "answer"], ["answer"])
    assert (again.task.mode, again.task.role) == (Mode.AGENT, "Teacher-Agent")
    assert again.task.receipt.calls == 1
    assert triaged(again) == "only decided for the same prompt before: Agent mode, Teacher-Agent, complexity 0.25"
    served.clock.now_ms += KEPT_MS
    assert purposes(done(served)) == ["triage", "answer"]


@pytest.mark.parametrize("asked", [{"profile": "Productivity"}, {"mode": Mode.AGENT}])
def test_an_identical_prompt_with_another_question_is_asked_about(served: Served, asked: dict[str, Any]) -> None:
    use(served, triaging())
    done(served)

    assert purposes(done(served, **asked)) == ["triage", "answer"]


def test_another_tenant_does_not_learn_from_a_decision(served: Served) -> None:
    use(served, triaging())
    done(served)
    other = served.service.submit("acme", NewTask(prompt=PROMPT)).ref
    served.refs.append(other)
    served.work()

    assert purposes(served.get(other)) == ["triage", "answer"]


def test_nonsense_is_not_remembered(served: Served) -> None:
    use(served, triaging("Nonsense.", verdict()))
    done(served)

    assert done(served).task.role == "Teacher-Agent"


def test_an_engine_that_talks_nonsense_again_and_again_is_not_asked_for_a_while(served: Served) -> None:
    """A model that thinks in more than 60 tokens would cost money at each unsure prompt."""
    use(served, triaging("Nonsense."))
    asked = [purposes(done(served, f"Prompt {number}")) for number in range(MAX_UNUSABLE + 1)]

    assert asked == [["triage", "answer"]] * MAX_UNUSABLE + [["answer"]]


def test_a_retry_does_not_triage_again(served: Served) -> None:
    """The decision of the first run holds."""
    engine = triaging(answer=PromptRefused("No."))
    use(served, engine)
    ref = served.submit(PROMPT)
    served.work()
    served.service.retry(ref)
    served.work()

    assert len(triages(engine)) == 1
    snapshot = served.get(ref)
    assert (snapshot.task.role, purposes(snapshot)) == ("Teacher-Agent", ["triage", "answer", "answer"])


def test_a_retry_of_a_task_that_was_not_triaged_is_not_triaged_either(served: Served) -> None:
    use(
        served,
        triaging(answer=PromptRefused("No.")),
        {"only": an_engine(tier="strong"), "off": an_engine(toggle=False)},
    )
    ref = served.submit(PROMPT)
    served.work()
    served.service.switch_engine("off", {"toggle": True})
    served.service.retry(ref)
    served.work()

    assert "triage" not in purposes(served.get(ref))


def test_the_engines_complexity_chooses_the_tier_of_the_answer(served: Served) -> None:
    """With `strong_share`, which refers to the scale of the analysis, its own complexity stays."""
    engines = {"only": an_engine(tier="fast"), "strong": an_engine(tier="strong")}
    use(served, triaging(verdict(complexity=0.9)), engines)
    by_engine = done(served)
    use(served, triaging(verdict(complexity=0.9)), engines, strong_share=0.0)
    by_share = done(served)

    assert [a.engine for a in by_engine.attempts] == ["only", "strong"]
    assert [a.engine for a in by_share.attempts] == ["only", "only"]
    assert views.detail(by_share).complexity == by_share.request.complexity
    assert "strong_share is 0: fast tier" in views.detail(by_share).reasons[-1]


def test_a_task_cancelled_during_its_triage_keeps_the_call_on_its_receipt(served: Served) -> None:
    ref: TaskRef | None = None

    def cancel(call: EngineCall) -> Answer:
        assert ref is not None
        served.service.cancel(ref)
        return verdict()

    use(served, triaging(cancel))
    ref = served.submit(PROMPT)
    served.work()
    snapshot = served.get(ref)

    assert snapshot.task.status is Status.CANCELLED
    assert purposes(snapshot) == ["triage"]
    assert (snapshot.task.receipt.calls, snapshot.task.pending) == (1, ())
    assert (snapshot.task.mode, snapshot.task.role) == (Mode.CHAT, "Chat-Agent")


def test_a_listing_finds_a_triaged_task_by_its_new_role_and_mode(served: Served) -> None:
    use(served, triaging())
    task = done(served, metadata={"team": "docs"}).task

    def found(**wanted: Any) -> list[str]:
        return [t.task_id for t in served.service.page("local", size=10, task_filter=TaskFilter(**wanted)).tasks]

    assert found(role="Teacher-Agent", metadata={"team": "docs"}) == [task.task_id]
    assert found(mode=Mode.AGENT) == [task.task_id]
    assert found(role="Chat-Agent") == []
    assert found(mode=Mode.CHAT, metadata={"team": "docs"}) == []


def test_api_costs_are_the_sum_of_the_receipts(served: Served) -> None:
    """Triages that decided, failed and were remembered."""
    use(served, triaging(verdict(), "Nonsense.", PromptRefused("No."), verdict(role="Email-Agent")))
    snapshots = [done(served, prompt) for prompt in ("one", "two", "three", "four", "one")]
    costs = sum(snapshot.task.receipt.cost_microusd for snapshot in snapshots)

    assert served.service.metrics()["api_costs"] == costs / 1_000_000
    assert [purposes(s) for s in snapshots] == [["triage", "answer"]] * 4 + [["answer"]]


def test_a_quote_says_that_and_at_what_price_a_task_would_be_triaged(served: Served) -> None:
    """The expected price is in the order of the tokens; no call may cost more than the highest one."""
    use(served, triaging())
    quote = served.service.quote("local", NewTask(prompt=PROMPT)).decision.triage
    attempt = done(served).attempts[0]

    assert quote is not None
    assert quote.engine == "only"
    assert quote.expected_microusd is not None
    assert quote.ceiling_microusd is not None
    assert attempt.cost_microusd is not None
    assert attempt.cost_microusd <= quote.expected_microusd < quote.ceiling_microusd
    assert 500 < quote.expected_microusd < 900, "400 to 800 tokens at 1 USD, and 60 at 2 USD, for a million"


@pytest.mark.parametrize(
    "asked",
    [
        {"role": "Writing-Agent"},
        {"mode": Mode.CHAT},
        {"limits": Limits(max_cost_usd=0.001)},
        {"limits": Limits(max_output_tokens=10)},
        {"limits": Limits(deadline_s=1)},
        {"engine": "strong"},
        {"limits": Limits(sources=("local",))},
    ],
)
def test_a_quote_says_no_where_a_task_would_not_be_triaged(served: Served, asked: dict[str, Any]) -> None:
    use(
        served,
        triaging(),
        {"only": an_engine(), "strong": an_engine(tier="strong"), "near": a_local_engine(tier="strong")},
    )

    assert served.service.quote("local", NewTask(prompt=PROMPT, **asked)).decision.triage is None
    assert "triage" not in purposes(done(served, **asked))


def test_a_task_of_an_earlier_version_is_not_triaged(served: Served) -> None:
    """Its stored request does not say what the caller left open."""
    use(served, triaging(), triage="off")
    ref = served.submit(PROMPT)
    served.use(unsure())
    served.work()

    assert purposes(served.get(ref)) == ["answer"]


def test_a_worker_with_triage_off_triages_no_task_that_was_accepted_before(served: Served) -> None:
    use(served, triaging())
    ref = served.submit(PROMPT)
    served.use(unsure(triage="off"))
    served.work()

    assert purposes(served.get(ref)) == ["answer"]


def test_a_worker_loads_what_a_triage_needs_only_for_a_triage() -> None:
    """It takes 6 ms of a cold start."""
    code = (
        "import sys, llm_server.orchestration.tasks.worker, llm_server.orchestration.tasks.intake\n"
        "print([name for name in sys.modules if 'execution.triage' in name])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert run.stdout.strip() == "[]"
