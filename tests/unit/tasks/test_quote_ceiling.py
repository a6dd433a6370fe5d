"""No run of a task is charged more than the ceiling of its quote, whatever its engines and workers do."""

from __future__ import annotations

import threading
from contextlib import nullcontext, suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from llm_server.orchestration.dispatch.reservation import max_tokens_in
from llm_server.orchestration.domain import plan as plans
from llm_server.orchestration.domain.engines.call import Completion, EngineCall
from llm_server.orchestration.domain.engines.catalog import EnginePrice, EngineSpec
from llm_server.orchestration.domain.engines.usage import Usage
from llm_server.orchestration.domain.errors import EngineUnavailable, InvalidInput, PromptRefused
from llm_server.orchestration.domain.output import PLAN
from llm_server.orchestration.domain.receipt import MICROUSD_PER_USD
from llm_server.orchestration.domain.snapshot import Limits
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.tasks.new_task import NewTask
from support.deliveries import a_plan
from support.scripted_engine import ScriptedEngine, a_catalog, an_engine, price
from support.scripted_service import LEASE_S, SWEEP_S, Served

PLANS = (
    a_plan(),
    a_plan({"a": "", "b": "", "c": ""}),
    a_plan({"a": "", "b": "a", "c": "ab"}, role="Chat-Agent"),
    '{"goal": "", "steps": []}',
    "no plan",
)
VERDICTS = (
    '{"verdict": "pass", "findings": []}',
    '{"verdict": "fail", "findings": ["Too short."]}',
    "no verdict",
)
SCHEMA = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
RESULTS = (
    '{"n": 5}',
    '{"n": 5, "why": "' + "é" * 3_000 + '"}',
    '{"n": "five"}',
    '["' + "é" * 9_000 + '"]',
    "Five.",
    "",
)
ANSWERS = ("Fine.", "2 + 3 = 6", "", "x" * 400)
MANY_ROUNDS = 25


class Died(BaseException):
    """The worker's process ends during an engine call."""


class Biller:
    """The engines of one task: each call is charged at most what the tokens of the call cost; `billed` is the sum."""

    def __init__(self, random: Random, *, deaths: bool) -> None:
        self.billed_microusd = 0
        self._random = random
        self._kinds = ["answer"] * 12 + ["estimated", "inflated", "late", "broken", "down", "refused"]
        self._kinds += ["death"] if deaths else []
        self._lock = threading.Lock()

    def engine(self, spec: EngineSpec) -> ScriptedEngine:
        return ScriptedEngine(lambda call: self._answer(spec, call))

    def _answer(self, spec: EngineSpec, call: EngineCall) -> Completion | Exception:
        with self._lock:
            kind = self._random.choice(self._kinds)
            most_in, most_out = max_tokens_in(call), call.max_output_tokens + call.max_reasoning_tokens
            whole = self._random.random() < 0.3
            usage = Usage(
                input_tokens=most_in if whole else self._random.randint(0, most_in),
                output_tokens=most_out if whole else self._random.randint(0, most_out),
                estimated=kind == "estimated",
            )
            if kind not in ("down", "refused"):
                self.billed_microusd += price(spec, usage) or 0
            match kind:
                case "death":
                    raise Died
                case "late" | "broken":
                    return EngineUnavailable(
                        "Late.", kind="timeout" if kind == "late" else "busy", may_be_billed=True, outage=kind != "late"
                    )
                case "down":
                    return EngineUnavailable("Down.", kind="unreachable")
                case "refused":
                    return PromptRefused("Refused.")
                case "estimated":
                    usage = Usage(input_tokens=0, output_tokens=0, estimated=True)
                case "inflated":
                    usage = Usage(input_tokens=10**9, output_tokens=10**9)
            return Completion(text=self._text(call), usage=usage)

    def _text(self, call: EngineCall) -> str:
        if call.answer_schema is None:
            return self._random.choice(ANSWERS)
        texts = {"plan": PLANS, "answer": RESULTS}.get(call.answer_schema.name, VERDICTS)
        return self._random.choice(texts)


def some_engines(random: Random) -> dict[str, EngineSpec]:
    engines = dict[str, EngineSpec]()
    for name in "abc"[: random.randint(1, 3)]:
        changes: dict[str, Any] = {"tier": random.choice([None, "fast", "strong"]), "model": f"m-{name}"}
        changes["price"] = EnginePrice(input=random.uniform(0, 3), output=random.uniform(0, 30))
        if random.random() < 0.15:
            changes |= {"source": "local", "price": None}
        elif random.random() < 0.1:
            changes |= {"price": None}
        if random.random() < 0.2:
            changes |= {"max_reasoning_tokens": random.randint(0, 2_000)}
        engines[name] = an_engine(**changes)
    return engines


def a_new_task(random: Random, mode: Mode | None, limit: float | None) -> NewTask:
    return NewTask(
        prompt="What is 2 + 3? " + "é" * random.randint(0, 300),
        mode=mode,
        role=random.choice([None, "Fast-Coder-Agent"]) if mode is not Mode.PLAN else None,
        profile=random.choice([None, "Developer"]) if mode is Mode.PLAN else None,
        limits=Limits(max_cost_usd=limit, max_output_tokens=random.choice([None, 50])),
        plan_approval=mode is Mode.PLAN and random.random() < 0.5,
        output_schema=SCHEMA if random.random() < 0.5 else None,
    )


def work_through(served: Served, ref: TaskRef, random: Random, biller: Biller) -> None:
    """Carry a task out to its end: take over from dead workers, wait for engines, approve, and retry it once."""
    may_retry = True
    for _ in range(MANY_ROUNDS):
        with suppress(Died):
            served.work()
        snapshot = served.get(ref)
        if snapshot.task.status is Status.FAILED and may_retry:
            may_retry = False
            served.service.retry(ref)
        elif snapshot.task.status.is_final:
            return
        elif snapshot.task.awaits_approval:
            approve(served, ref, random, biller)
        else:
            served.clock.pass_s(LEASE_S + SWEEP_S + 300)
            served.service.sweep()


def approve(served: Served, ref: TaskRef, random: Random, biller: Biller) -> None:
    """Approve a plan, with a limit or without; from then on no more is charged than its quote and the limit allow."""
    snapshot = served.get(ref)
    quote = served.service.quote_of_plan(snapshot)
    more = random.choice([None, -1, 0, 500, 20_000, 200_000, 10**7])
    limit = None if more is None else max(0, snapshot.spent_microusd + more)
    plan_hash = plans.digest(snapshot.outputs[PLAN].text or "")
    try:
        served.service.approve(ref, plan_hash, approve=True, max_cost_microusd=limit)
    except InvalidInput:
        limit = None
        served.service.approve(ref, plan_hash, approve=True)
    BOUNDS.append((biller.billed_microusd, quote.ceiling_microusd, limit))


BOUNDS = list[tuple[int, int | None, int | None]]()
"""What was charged before each approval, the ceiling of the rest, and the limit of the approval."""


@settings(max_examples=120, deadline=None)
@example(4048568968, Mode.PLAN, 0.02, "off")  # a step's call ends in an exception while another step is stored
@given(
    st.integers(0, 2**32),
    st.sampled_from([None, Mode.CHAT, Mode.AGENT, Mode.PLAN, Mode.PLAN]),
    st.sampled_from([None, 0.0005, 0.002, 0.02, 0.3]),
    st.sampled_from(["off", "always"]),
)
def test_no_run_is_charged_more_than_its_ceiling(
    seed: int, mode: Mode | None, limit: float | None, triage: str
) -> None:
    """The engines' own bills are counted: those of late, broken-off and lost calls too, which no receipt can know.

    What is withheld may be more: a call that was announced for a step, and never made, is booked as lost (ADR 56).
    """
    random = Random(seed)
    biller, engines = Biller(random, deaths=True), some_engines(random)
    BOUNDS.clear()
    with TemporaryDirectory() as folder:
        served = Served(Path(folder))
        served.use(
            a_catalog(engines, triage=triage),
            None,
            nullcontext,
            **{n: biller.engine(spec) for n, spec in engines.items()},
        )
        new = a_new_task(random, mode, limit)
        quote = served.service.quote("local", new).quote
        task = served.service.submit("local", new)
        work_through(served, task.ref, random, biller)
        cost = served.get(task.ref).task.receipt.cost_microusd
        served.close()

    assert (quote.ceiling_microusd is None) == (limit is None and any(e.source == "api" for e in engines.values()))
    if quote.ceiling_microusd is not None:
        assert biller.billed_microusd <= quote.ceiling_microusd
        assert cost <= quote.ceiling_microusd
    for before, ceiling, bound in BOUNDS:
        assert ceiling is None or biller.billed_microusd - before <= ceiling
        assert bound is None or biller.billed_microusd <= bound


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([Mode.CHAT, Mode.AGENT]))
def test_one_claim_is_charged_its_worst_case_at_the_most(seed: int, mode: Mode) -> None:
    """With failover, escalation and repairs. A limit of that amount shortens no call."""
    random = Random(seed)
    biller, engines = Biller(random, deaths=False), some_engines(random)
    with TemporaryDirectory() as folder:
        served = Served(Path(folder))
        scripted = {name: biller.engine(spec) for name, spec in engines.items()}
        served.use(a_catalog(engines), None, nullcontext, **scripted)
        new = a_new_task(random, mode, None)
        worst = served.service.quote("local", new).quote.worst_case_microusd
        limits = new.limits
        if worst is not None:
            new = replace(new, limits=replace(limits, max_cost_usd=(worst + 0.5) / MICROUSD_PER_USD))
        ref = served.service.submit("local", new).ref
        assert served.queue.receive(0)
        served.service.process(ref, owner="w")
        booked, role = served.get(ref).spent_microusd, served.service.catalog.role(served.get(ref).task.role)
        full = limits.max_output_tokens or role.max_output_tokens or served.service.catalog.defaults.max_output_tokens
        asked = {call.max_output_tokens for engine in scripted.values() for call in engine.calls}
        served.close()

    assert (worst is None) == any(spec.source == "api" and spec.price is None for spec in engines.values())
    if worst is not None:
        assert biller.billed_microusd <= worst
        assert booked <= worst
        assert asked == {full}
