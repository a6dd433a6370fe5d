"""A key never spends more than its `usd_per_day`, in any race and with any fault at the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from faults.audits import alarms
from faults.conftest import Worlds
from faults.kinds import AWS, Kind
from faults.ledger import Ledger
from faults.strikes import IN_TIME_S, Faults, quickly, strike
from faults.substrates import UNSEEN, again
from faults.world import World
from llm_server.orchestration.access.tokens import format_token
from llm_server.orchestration.domain.api_key import Account, KeyLimits, KeyUse
from llm_server.orchestration.domain.counters import day_of
from llm_server.orchestration.domain.engines.catalog import EnginePrice
from llm_server.orchestration.domain.status import Status
from support.builders import a_key
from support.concurrency import at_once
from support.scripted_engine import a_catalog, an_engine, price

CAP_MICROUSD = 1_000_000
RACERS = 64
KEY = "00000000cafe"
TOKEN = {"Authorization": f"Bearer {format_token(KEY, '0' * 64)}"}
COSTLY = an_engine(price=EnginePrice(input=5, output=25))
"""USD for a million tokens: the longest answer costs about a tenth of the limit."""
CLAIMS_S = 1200
"""The reservation of a dead worker's call is not released, so other tasks wait for it until their last claim."""
FAULTS = [Kind.ERROR, Kind.LOST, Kind.THROTTLED, Kind.KILLED_BEFORE, Kind.KILLED_AFTER, Kind.TWICE]


def capped(world: World) -> World:
    """Give the world an API key with a limit, and an engine that uses its whole output limit."""
    world.substrate.keys(UNSEEN).add_key(a_key(key_id=KEY, limits=KeyLimits(microusd_per_day=CAP_MICROUSD)))
    world.catalog = a_catalog({"only": COSTLY}, parallel_steps=1)
    world.engine.is_costly = True
    return world


def use(world: World) -> KeyUse:
    return world.substrate.keys(UNSEEN).use(Account(KEY, day_of(world.clock())))


def bill_microusd(world: World) -> int:
    """Return what the engine charges for its answers."""
    return sum(price(COSTLY, world.engine.usage(call)) or 0 for call in world.engine.calls)


def overspent(world: World) -> list[str]:
    """Return what is wrong with the money, after any faults."""
    charged, open_still = use(world).charged_microusd, use(world).unsettled_microusd
    bill, receipts = bill_microusd(world), receipts_microusd(world)
    spent = world.store.spent_microusd("local", day_of(world.clock()))
    laws = {
        f"{charged} charged of {CAP_MICROUSD}": charged <= CAP_MICROUSD,
        f"{bill} bought and {charged} charged": bill <= charged,
        f"{charged} charged, {open_still} of it unsettled, and {bill} bought": charged - open_still <= bill,
        f"all is settled, {charged} charged and {bill} bought": bool(open_still) or charged == bill,
        f"{receipts} on receipts and {bill} bought": receipts <= bill,
        f"{receipts} on receipts and {spent} in the usage": receipts == spent,
    }
    return [law for law, holds in laws.items() if not holds]


def receipts_microusd(world: World) -> int:
    return sum(world.store.peek(ref).receipt.cost_microusd for ref in world.refs())


def denied(world: World) -> list[str]:
    """Return the tasks that found too little money left; note those that failed for another reason."""
    failed = [task for ref in world.refs() if (task := world.store.peek(ref)).status is Status.FAILED]
    world.noted += [f"{t.ref} failed: {t.error}" for t in failed if "usd_per_day" not in (t.error or "")]
    return [task.task_id for task in failed]


def raced(world: World, faults: Callable[[int], Mapping[int, Kind]]) -> list[int]:
    """Let 64 workers take one task each, the first one before the others; return the charges at each engine call."""
    charges = list[int]()
    world.engine.before = lambda call: charges.append(use(world).charged_microusd)
    for n in range(RACERS):
        assert world.post(f"Say {n}.", mode="Chat", headers=TOKEN) == 202
    world.substrate.purge()
    refs = list(world.acknowledged)
    workers = [world.process(f"worker {n}", faults(n), of="keys.") for n in range(RACERS)]

    def work(n: int) -> None:
        try:
            world.work([again(refs[n])], workers[n])
        except BaseException as death:
            if not workers[n].caller.is_dead:
                raise death

    work(0)
    at_once(work, range(1, RACERS))
    return charges


def test_64_racers_never_spend_more_than_the_keys_day(all_worlds: Worlds, ledger: Ledger) -> None:
    world = capped(all_worlds())
    charges = raced(world, lambda n: {})
    world.settle(within_s=IN_TIME_S)  # tasks wait if the money that is left is reserved for others
    after, late = use(world), len(denied(world))

    found = [*alarms(world, may_fail=lambda prompt: True), *overspent(world)]
    note = f"{after.charged_microusd} micro-USD charged, bought and on receipts; {RACERS - late} answered"
    ledger.enter(f"{RACERS} racers for 1 USD a day", world.substrate.name, 0, found, note)
    assert max(charges) <= CAP_MICROUSD
    assert 0 < late < RACERS
    assert after.unsettled_microusd == 0
    assert after.charged_microusd == bill_microusd(world) == receipts_microusd(world)


def test_64_racers_never_spend_more_whatever_befalls_the_ledger(all_worlds: Worlds, ledger: Ledger) -> None:
    """All racers but every 13th meet another fault at one of their charges or at their settlement.

    The racer that goes first is killed after its charge, which it gets in any case.
    """
    plagues: list[Mapping[int, Kind]] = [{}, *({number: kind} for kind in FAULTS for number in (1, 2))]
    plagues.sort(key=lambda plague: plague != {1: Kind.KILLED_AFTER})
    world = capped(all_worlds())
    charges = raced(world, lambda n: plagues[n % len(plagues)])
    world.settle(within_s=CLAIMS_S)
    after, late = use(world), len(denied(world))

    met = sum(len(caller.met) for caller in world.callers)
    found = [*alarms(world, may_fail=lambda prompt: True), *overspent(world)]
    note = (
        f"{after.charged_microusd} micro-USD charged, {bill_microusd(world)} bought, {receipts_microusd(world)} on "
        f"receipts, {after.unsettled_microusd} unsettled; {RACERS - late} answered"
    )
    ledger.enter("the same, faults at the ledger", world.substrate.name, met, found, note)
    assert met > RACERS // 4
    assert max(charges) <= CAP_MICROUSD
    assert after.unsettled_microusd > 0, "the cost of a dead worker's call is unknown"


def paid(world: World, faults: Faults) -> None:
    """Post a question that is charged to an API key."""
    capped(world)
    world.post("Say hello.", world.process("post", faults.get("post")), headers=TOKEN, mode="Chat")
    world.deliver(world.process("worker", faults.get("worker")))
    world.settle(within_s=IN_TIME_S)
    world.noted += overspent(world)
    if not faults and (use(world).unsettled_microusd or use(world).charged_microusd != receipts_microusd(world)):
        world.noted.append("nothing failed, and the charge is not the receipt")


@pytest.mark.parametrize("kind", quickly(Kind.LOST, Kind.KILLED_AFTER))
def test_no_single_fault_charges_less_than_was_bought(worlds: Worlds, kind: Kind, ledger: Ledger) -> None:
    """A failed engine call is an exception, because the engine charges nothing for it."""
    calm = capped(worlds())
    paid(calm, {})
    ours = {point.name for caller in calm.callers for point in caller.points} - {"engine.complete"}
    strike(worlds, paid, kind, ledger, struck=("post", "worker"), only=ours)


def test_a_charge_that_the_sdk_sends_twice_counts_once(moto_worlds: Worlds, ledger: Ledger) -> None:
    strike(moto_worlds, paid, Kind.TWICE, ledger, struck=("post", "worker"), only=AWS.repeats)
