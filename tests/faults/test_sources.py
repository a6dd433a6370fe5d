"""A task that is limited to local engines is never sent to a hosted one: not by another process, key or substrate."""

from __future__ import annotations

import pytest

from faults.audits import alarms
from faults.conftest import Worlds
from faults.engine import HashEngine
from faults.kinds import Kind
from faults.ledger import Ledger
from faults.strikes import IN_TIME_S
from faults.substrates import UNSEEN
from faults.world import World
from llm_server.orchestration.access.tokens import format_token
from llm_server.orchestration.dispatch.calls import EngineCalls
from llm_server.orchestration.dispatch.fleet import Fleet
from llm_server.orchestration.dispatch.health import EngineStates
from llm_server.orchestration.domain.api_key import KeyLimits
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.engines.catalog import Sources
from llm_server.orchestration.domain.engines.message import user
from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import TaskRef
from support.builders import a_key
from support.scripted_engine import a_catalog, a_local_engine, an_engine, call_terms, price

LOCAL_KEY, FREE_KEY = "00000000beef", "00000000feed"
MAX_SETTLE_S = 40 * 60
"""The local engine fails now and then, and each time the task waits for it."""


def token(key_id: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {format_token(key_id, '0' * 64)}"}


@pytest.fixture
def world(worlds: Worlds) -> World:
    """A local engine, a hosted one that always answers, a key for local engines, and a key without limits."""
    world = worlds()
    engines = {"laptop": a_local_engine(tier="fast"), "hosted": an_engine(tier="strong")}
    world.catalog = a_catalog(engines, parallel_steps=1)
    world.others["hosted"] = HashEngine()
    limits: dict[str, Sources | None] = {LOCAL_KEY: ("local",), FREE_KEY: None}
    for key_id, sources in limits.items():
        world.substrate.keys(UNSEEN).add_key(a_key(key_id=key_id, limits=KeyLimits(sources=sources)))
    return world


def sources_of(world: World, ref: TaskRef) -> set[str]:
    return {attempt.source for attempt in world.store.get(ref).attempts}


def every_other(world: World) -> None:
    """Let every other call of the local engine fail."""
    turns = iter(range(1_000))

    def fail(call: EngineCall) -> None:
        if next(turns) % 2 == 1:
            raise EngineUnavailable("Busy.", retry_after_s=10, outage=True)

    world.engine.before = fail


@pytest.mark.parametrize(
    ("key_id", "limits", "limited_by"),
    [
        (LOCAL_KEY, {}, "its key"),
        (LOCAL_KEY, {"sources": ["api", "local"]}, "its key, list wider"),
        (FREE_KEY, {"sources": ["local"]}, "its list"),
    ],
)
def test_no_call_of_a_plan_leaves_the_local_engine(
    world: World, key_id: str, limits: dict[str, list[str]], limited_by: str, ledger: Ledger
) -> None:
    """A worker dies after its first call, other processes go on, and every other call of the local engine fails."""
    every_other(world)
    world.post("Build a cache.", headers=token(key_id), mode="Plan", profile="Developer", limits=limits)
    (ref,) = world.acknowledged
    world.deliver(world.process("worker", {1: Kind.KILLED_AFTER}, of="engine."))
    world.settle(within_s=MAX_SETTLE_S)

    met, found = sum(len(caller.met) for caller in world.callers), alarms(world)
    note = f"{len(world.engine.calls)} calls local, {len(world.others['hosted'].calls)} hosted"
    ledger.enter(f"plan limited to local by {limited_by}", world.substrate.name, met, found, note)
    assert met == 1
    assert world.others["hosted"].calls == []
    assert world.store.get(ref).task.status is Status.COMPLETED
    assert sources_of(world, ref) == {"local"}


def test_without_a_limit_the_hosted_engine_does_its_part(world: World) -> None:
    """So the test above would notice a call that leaves the limit out."""
    every_other(world)
    world.post("Build a cache.", headers=token(FREE_KEY), mode="Plan", profile="Developer")
    world.settle(within_s=MAX_SETTLE_S)

    assert world.others["hosted"].calls


def test_a_retry_never_widens_the_limit(world: World) -> None:
    """The first key has no limit, the second one has, and the third one has none again."""

    def refuse(call: EngineCall) -> None:
        raise PromptRefused("No.")

    world.engine.before = world.others["hosted"].before = refuse
    world.post("Say hello.", headers=token(FREE_KEY), mode="Agent", role="Deep-Coder-Agent")
    (ref,) = world.acknowledged
    world.settle(within_s=IN_TIME_S)
    assert sources_of(world, ref) == {"api"}
    world.others["hosted"].before = lambda call: None

    for key_id in (LOCAL_KEY, FREE_KEY):
        world.final.clear()
        assert world.insist("POST", f"/tasks/{ref.task_id}/retry", world.process("retry"), token(key_id)) == 202
        world.settle(within_s=IN_TIME_S)
        assert world.store.get(ref).task.status is Status.FAILED
        if key_id == LOCAL_KEY:
            assert sources_of(world, ref) == {"api", "local"}

    assert world.others["hosted"].calls == []
    assert not alarms(world, may_fail=lambda prompt: True)


def test_the_last_check_refuses_an_engine_that_is_not_allowed(world: World) -> None:
    """Whatever chose the engine: this is checked just before the call."""
    states = EngineStates(world.store, world.clock)
    fleet = Fleet(configured=world.catalog.engines, has_credentials=lambda _: True, states=states)
    calls = EngineCalls(
        catalog=world.catalog, engines=world.others, fleet=fleet, states=states, price=price, clock=world.clock
    )
    call = EngineCall(system="s", messages=user("p"), max_output_tokens=10)

    result = calls.ask("hosted", call, call_terms(sources=("local",)), after=())

    assert (result.completion, result.attempt) == (None, None)
    assert world.others["hosted"].calls == []
