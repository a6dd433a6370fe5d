"""One Idempotency-Key makes one task, with many parallel calls and with a client that repeats after any fault."""

from __future__ import annotations

from collections import Counter

import pytest

from faults.audits import alarms
from faults.conftest import Worlds
from faults.kinds import AWS, Kind
from faults.ledger import Ledger
from faults.strikes import IN_TIME_S, SINGLE, Faults, quickly, strike
from faults.world import World
from support.concurrency import at_once

TWINS = 100
KEY = {"Idempotency-Key": "order-4711"}
PROMPT = "Say hello."


def sent_until_answered(world: World) -> None:
    for _ in range(5):
        if world.post(PROMPT, world.process("again"), headers=KEY, mode="Chat") in (200, 202):
            return
    world.noted.append("was never answered")


def keyed(world: World, faults: Faults) -> None:
    """Post a question with a key; the client repeats it after every fault, and while the first call hangs."""
    world.during_hang = lambda: sent_until_answered(world)
    world.post(PROMPT, world.process("post", faults.get("post")), headers=KEY, mode="Chat")
    sent_until_answered(world)
    world.settle(within_s=IN_TIME_S)
    if (tasks := len(world.refs())) != 1 or len(world.acknowledged) != 1:
        world.noted.append(f"{tasks} tasks of one key, answers name {len(world.acknowledged)}")


def test_100_identical_posts_at_once_are_one_task(all_worlds: Worlds, ledger: Ledger) -> None:
    world = all_worlds()
    processes = [world.process(f"twin {n}") for n in range(TWINS)]

    answers = Counter(at_once(lambda by: world.post(PROMPT, by, headers=KEY, mode="Chat"), processes))
    counted = world.store.overview()[0].total
    assert (len(world.refs()), len(world.acknowledged)) == (1, 1)
    world.settle(within_s=IN_TIME_S)

    found = alarms(world)
    note = f"{len(world.refs())} task, {counted} counted, answers {dict(answers)}"
    ledger.enter(f"{TWINS} identical POSTs at once", world.substrate.name, 0, found, note)
    assert (len(world.refs()), counted, len(world.engine.calls)) == (1, 1, 1)
    assert answers == {202: 1, 200: TWINS - 1}


@pytest.mark.parametrize("kind", SINGLE)
def test_a_post_that_is_sent_again_after_a_fault_is_one_task(sqlite_worlds: Worlds, kind: Kind, ledger: Ledger) -> None:
    strike(sqlite_worlds, keyed, kind, ledger, struck=("post",))


@pytest.mark.parametrize("kind", quickly(Kind.LOST, Kind.DELAYED))
def test_a_post_that_is_sent_again_after_a_fault_is_one_task_on_aws(
    moto_worlds: Worlds, kind: Kind, ledger: Ledger
) -> None:
    strike(moto_worlds, keyed, kind, ledger, struck=("post",))


def test_a_post_whose_calls_the_sdk_sends_twice_is_one_task(moto_worlds: Worlds, ledger: Ledger) -> None:
    strike(moto_worlds, keyed, Kind.TWICE, ledger, struck=("post",), only=AWS.repeats)
