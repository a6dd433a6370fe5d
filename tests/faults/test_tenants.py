"""Two tenants with the same Idempotency-Keys and even the same task ids never see each other's tasks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import count

import pytest

from faults.audits import alarms
from faults.conftest import Worlds
from faults.ledger import Ledger
from faults.strikes import IN_TIME_S
from faults.substrates import UNSEEN, every_task
from faults.world import World
from llm_server.orchestration.access.tokens import format_token
from llm_server.orchestration.domain.api_key import KeyLimits
from llm_server.orchestration.domain.counters import day_of
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import TaskRef
from support.audit import recounted
from support.builders import a_key
from support.concurrency import at_once

KEYS, TWINS = 8, 3
IDS = {"acme": "00000000acce", "beta": "00000000beca"}
TOKENS = {tenant: {"Authorization": f"Bearer {format_token(key_id, '0' * 64)}"} for tenant, key_id in IDS.items()}


def two_tenants(world: World) -> World:
    world.tenants = tuple(IDS)
    for tenant, key_id in IDS.items():
        key = a_key(key_id=key_id, tenant=tenant, limits=KeyLimits(microusd_per_day=10**6, tasks_in_flight=10**3))
        world.substrate.keys(UNSEEN).add_key(key)
    return world


def per_tenant(world: World) -> Iterator[str]:
    """Yield what one tenant is charged, is shown or has in flight that belongs to another one."""
    for tenant, key_id in IDS.items():
        mine = [world.store.get(ref) for ref in every_task(world.store, [tenant])]
        cost = recounted(mine).cost_microusd
        if (spent := world.store.spent_microusd(tenant, day_of(world.clock()))) != cost:
            yield f"{tenant}: {spent} spent, {cost} on its receipts"
        others = [snapshot for snapshot in mine if tenant not in snapshot.request.prompt]
        yield from (f"{tenant} has {snapshot.request.prompt!r}" for snapshot in others)
        if any(snapshot.task.charge and snapshot.task.charge.key_id != key_id for snapshot in mine):
            yield f"{tenant} is charged to another's key"


def told(world: World, tenant: str, method: str, path: str) -> tuple[int, bytes]:
    headers = {**TOKENS[tenant], "X-Request-Id": "asking"}  # each answer repeats the id of its call
    answer = world.call(method, path, world.process("asking"), headers)
    assert answer is not None
    return answer.status, answer.body


def test_the_same_idempotency_keys_of_two_tenants_are_each_their_own(all_worlds: Worlds, ledger: Ledger) -> None:
    """All calls run in parallel, several for each tenant and key."""
    world = two_tenants(all_worlds())
    calls = [(tenant, n, world.process("post")) for tenant in IDS for n in range(KEYS) for _ in range(TWINS)]

    def post(tenant: str, number: int, by: object) -> int:
        headers = {**TOKENS[tenant], "Idempotency-Key": f"key-{number}"}
        return world.post(f"Say {number} to {tenant}.", by, headers=headers, tenant=tenant, mode="Chat")  # type: ignore[arg-type]

    statuses = at_once(lambda call: post(*call), calls)
    world.settle(within_s=IN_TIME_S)
    found = [*alarms(world), *per_tenant(world)]
    stranger = told(world, "acme", "GET", "/tasks/no-such-task")
    for ref in world.refs():
        other = next(tenant for tenant in IDS if tenant != ref.tenant)
        for method, end in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("POST", "/retry")):
            if told(world, other, method, f"/tasks/{ref.task_id}{end}") != stranger:
                found.append(f"{other} is told of {ref}: {method}")

    note = f"{len(world.refs())} tasks, {len(world.engine.calls)} engine calls"
    ledger.enter(f"2 tenants, {KEYS} keys, {TWINS} twins each", world.substrate.name, 0, found, note)
    assert len(world.refs()) == len(world.engine.calls) == 2 * KEYS
    assert sorted(set(statuses)) == [200, 202]


def test_two_tenants_tasks_with_the_same_ids_never_meet(worlds: Worlds, ledger: Ledger) -> None:
    """The ids are set by the test. One task is answered, cancelled or deleted, and the other does not change."""
    world = two_tenants(worlds())
    for tenant in IDS:
        world.new_id = partial(next, map("same-{}".format, count(1)))
        by = world.process("post")
        for n in range(3):
            world.post(f"Say {n} to {tenant}.", by, headers=TOKENS[tenant], tenant=tenant, mode="Chat")
    same = [TaskRef(tenant, f"same-{n}") for tenant in IDS for n in (1, 2, 3)]
    cancelled, deleted = TaskRef("acme", "same-2"), TaskRef("beta", "same-3")
    assert set(world.refs()) == set(same)

    world.to_be_cancelled.add(cancelled)
    assert told(world, "acme", "POST", "/tasks/same-2/cancel")[0] == 200
    known = world.store.get(deleted)
    assert told(world, "beta", "DELETE", "/tasks/same-3")[0] == 204
    world.delete(deleted, known)
    world.settle(within_s=IN_TIME_S)

    found = [*alarms(world), *per_tenant(world)]
    ledger.enter("2 tenants, the same task ids", world.substrate.name, 0, found)
    ends = {ref: world.store.peek(ref).status for ref in world.refs()}
    assert ends == {ref: Status.CANCELLED if ref == cancelled else Status.COMPLETED for ref in same if ref != deleted}


@pytest.mark.parametrize("tenant", IDS)
def test_tasks_of_one_tenant_are_listed_to_no_other(worlds: Worlds, tenant: str) -> None:
    world = two_tenants(worlds())
    world.post(f"Say hello to {tenant}.", headers=TOKENS[tenant], tenant=tenant, mode="Chat")

    listed = {
        each: b"hello" in told(world, each, "GET", "/tasks")[1] or len(every_task(world.store, [each])) for each in IDS
    }
    assert listed == {each: each == tenant for each in IDS}
