"""Two tenants with the same Idempotency-Keys and even the same task ids never see each other's tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import count

import pytest

from faults.audits import alarms
from faults.conftest import Worlds
from faults.ledger import Ledger
from faults.processes import Process
from faults.strikes import IN_TIME_S
from faults.substrates import UNSEEN, every_task
from faults.world import World
from llm_server.orchestration.access.tokens import format_token
from llm_server.orchestration.domain.api_key import KeyLimits
from llm_server.orchestration.domain.counters import day_of
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.quotes.quote import MIN_SAMPLE
from support import asgi
from support.audit import recounted
from support.builders import a_key
from support.concurrency import at_once

KEYS, TWINS = 8, 3
IDS = {"acme": "00000000acce", "beta": "00000000beca"}
TOKENS = {tenant: {"Authorization": f"Bearer {format_token(key_id, '0' * 64)}"} for tenant, key_id in IDS.items()}

AFTER_THE_FIRST = {"previous_task_id": "same-2"}
PATHS = ["/tasks", "/conversations/same-1", *(f"/tasks/same-{n}{end}" for n in (2, 3, 4) for end in ("", "/events"))]
SSE = "text/event-stream, application/json;q=0.5"


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
    answer = asked(world, tenant, method, path)
    return answer.status, answer.body


def asked(
    world: World,
    tenant: str,
    method: str,
    path: str,
    body: object = None,
    *,
    by: Process | None = None,
    headers: Mapping[str, str] | None = None,
) -> asgi.Answer:
    headers = {**TOKENS[tenant], "X-Request-Id": "asking", **(headers or {})}  # each answer repeats the id of its call
    answer = world.call(method, path, by or world.process("asking"), headers, body)
    assert answer is not None
    return answer


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


def test_conversations_and_streams_of_two_tenants_with_the_same_ids_never_meet(worlds: Worlds, ledger: Ledger) -> None:
    """The ids are set by the test: each tenant has a conversation `same-1` and streamed tasks from `same-2` on."""
    world = two_tenants(worlds())
    world.watch()
    for tenant in IDS:
        world.new_id = partial(next, map("same-{}".format, count(1)))
        by = world.process("post")
        assert asked(world, tenant, "POST", "/conversations", by=by).json["conversation_id"] == "same-1"
        for n, turn in enumerate([{"conversation_id": "same-1"}, {"conversation_id": "same-1"}, AFTER_THE_FIRST]):
            prompt = f"Say {n} to {tenant}."
            world.post(prompt, by, headers=TOKENS[tenant], tenant=tenant, mode="Chat", stream=True, **turn)
            world.deliver_all()
    world.settle(within_s=IN_TIME_S)
    found = [*alarms(world), *per_tenant(world)]
    calls = world.engine.calls
    found += [f"an engine is told of two tenants: {c.texts}" for c in calls if all(tenant in c.texts for tenant in IDS)]
    for tenant, other in zip(IDS, reversed(IDS), strict=True):
        texts = [other, *(world.store.get(ref).result or "" for ref in world.refs() if ref.tenant == other)]
        for path in PATHS:
            body = asked(world, tenant, "GET", path, headers={"Accept": SSE}).body.decode()
            found += [f"{tenant} reads {text!r} at {path}" for text in texts if text in body]

    ledger.enter("2 tenants, the same conversations", world.substrate.name, 0, found)
    assert [len(call.messages) for call in world.engine.calls] == [1, 3, 3] * 2, "later turns are told the first one"
    assert asked(world, "acme", "DELETE", "/conversations/same-1").status == 204
    assert asked(world, "acme", "GET", "/tasks/same-2/events").status == 404
    beta = asked(world, "beta", "GET", "/conversations/same-1").json["tasks"]
    assert [task["task_id"] for task in beta] == ["same-2", "same-3"]


def test_another_tenants_tasks_and_conversations_are_unknown(worlds: Worlds) -> None:
    """Whatever a tenant asks about them is answered as for an id that was never given out."""
    world = two_tenants(worlds())
    conversation = asked(world, "acme", "POST", "/conversations").json["conversation_id"]
    world.post("Say 1 to acme.", headers=TOKENS["acme"], tenant="acme", mode="Chat", conversation_id=conversation)
    world.settle(within_s=IN_TIME_S)
    (task,) = (ref.task_id for ref in world.refs())

    for mine, unknown in ((task, "no-such-task"), (conversation, "no-such-conversation")):
        for method, path, body in (
            ("GET", "/tasks/{}/events", None),
            ("GET", "/conversations/{}", None),
            ("DELETE", "/conversations/{}", None),
            ("POST", "/tasks", {"previous_task_id": "{}"}),
            ("POST", "/tasks/quote", {"previous_task_id": "{}"}),
            ("POST", "/tasks", {"conversation_id": "{}"}),
            ("POST", "/tasks/quote", {"conversation_id": "{}"}),
        ):
            answers = [
                asked(world, "beta", method, path.format(name), body and {"prompt": "And?", **filled(body, name)})
                for name in (mine, unknown)
            ]
            assert answers[0].status in (404, 422)
            assert answers[0].body == answers[1].body, (method, path, body)


def test_a_quote_expects_nothing_of_another_tenants_tasks(sqlite_worlds: Worlds) -> None:
    world = two_tenants(sqlite_worlds())
    for n in range(MIN_SAMPLE):
        world.post(f"Say {n} to acme.", headers=TOKENS["acme"], tenant="acme", mode="Chat")
    world.settle(within_s=IN_TIME_S)

    expected = [
        asked(world, tenant, "POST", "/tasks/quote", {"prompt": "Say hello.", "mode": "Chat"}).json["quote"]
        for tenant in IDS
    ]
    assert [quote["sample"] for quote in expected] == [MIN_SAMPLE, 0]
    assert (expected[0]["expected_microusd"] is None, expected[1]["expected_microusd"]) == (False, None)


def filled(body: dict[str, str], name: str) -> dict[str, str]:
    return {field: value.format(name) for field, value in body.items()}


@pytest.mark.parametrize("tenant", IDS)
def test_tasks_of_one_tenant_are_listed_to_no_other(worlds: Worlds, tenant: str) -> None:
    world = two_tenants(worlds())
    world.post(f"Say hello to {tenant}.", headers=TOKENS[tenant], tenant=tenant, mode="Chat")

    listed = {
        each: b"hello" in told(world, each, "GET", "/tasks")[1] or len(every_task(world.store, [each])) for each in IDS
    }
    assert listed == {each: each == tenant for each in IDS}
