"""What every store promises about an Idempotency-Key: it stands for one task, and in its time for no other."""

from __future__ import annotations

from msgspec.structs import replace

from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.domain.ports.tasks import IdempotencyBinding
from support.builders import NOW_MS
from support.concurrency import at_once

DAY_MS = 24 * 3600 * 1000


def a_binding(task_id: str = "t1", *, now_ms: int = NOW_MS) -> IdempotencyBinding:
    return IdempotencyBinding(task_id=task_id, body_hash="b", until_ms=now_ms + DAY_MS)


def test_a_key_stands_for_the_first_task_until_its_time_ends(store: Store) -> None:
    """To the millisecond."""
    first, late = a_binding(), a_binding("t3", now_ms=NOW_MS + DAY_MS)

    assert store.bind_idempotency_key("local", "k", first, now_ms=NOW_MS) == first
    assert store.bind_idempotency_key("local", "k", a_binding("t2"), now_ms=NOW_MS + DAY_MS - 1) == first
    assert store.bind_idempotency_key("local", "k", late, now_ms=NOW_MS + DAY_MS) == late
    assert store.bind_idempotency_key("local", "k", first, now_ms=NOW_MS + DAY_MS) == late


def test_a_binding_is_read_until_its_time_ends(store: Store) -> None:
    """And reading binds nothing."""
    unbound = store.bound_idempotency_key("local", "k", now_ms=NOW_MS)
    store.bind_idempotency_key("local", "k", a_binding(), now_ms=NOW_MS)

    assert unbound is None
    assert store.bound_idempotency_key("local", "k", now_ms=NOW_MS + DAY_MS - 1) == a_binding()
    assert store.bound_idempotency_key("local", "k", now_ms=NOW_MS + DAY_MS) is None
    assert store.bound_idempotency_key("acme", "k", now_ms=NOW_MS) is None


def test_a_binding_can_be_repeated(store: Store) -> None:
    """Its reply may be lost."""
    store.bind_idempotency_key("local", "k", a_binding(), now_ms=NOW_MS)

    assert store.bind_idempotency_key("local", "k", a_binding(), now_ms=NOW_MS) == a_binding()


def test_keys_of_other_tenants_and_other_keys_are_others(store: Store) -> None:
    named = [("a", "k"), ("b", "k"), ("a", "K"), ("a", "k" * 255), ("a", "~ !#[]"), ("a", '"\\')]
    bindings = [a_binding(f"t{n}") for n in range(len(named))]

    bound = [
        store.bind_idempotency_key(tenant, key, binding, now_ms=NOW_MS)
        for (tenant, key), binding in zip(named, bindings, strict=True)
    ]

    assert bound == bindings


def test_of_16_bindings_at_once_one_holds(store: Store) -> None:
    """Also when all of them replace one whose time is over."""
    for now_ms in (NOW_MS, NOW_MS + DAY_MS):
        wanted = [replace(a_binding(f"t{n}", now_ms=now_ms), body_hash=str(n)) for n in range(16)]

        bound = at_once(lambda binding: store.bind_idempotency_key("local", "k", binding, now_ms=now_ms), wanted)  # noqa: B023

        assert len(set(bound)) == 1
        assert bound[0] in wanted
