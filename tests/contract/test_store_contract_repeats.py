"""What every store promises about POSTs without an Idempotency-Key: a repeat takes each over once."""

from __future__ import annotations

from msgspec.structs import replace

from llm_server.orchestration.domain.ports.repeats import Original
from llm_server.orchestration.domain.ports.store import Store
from support.builders import NOW_MS
from support.concurrency import at_once

FINGERPRINT = "f" * 64


def an_original(task_id: str = "t1", *, at_ms: int = NOW_MS) -> Original:
    return Original(task_id=task_id, at_ms=at_ms, until_ms=at_ms + 1000)


def test_posts_are_found_by_tenant_and_fingerprint(store: Store) -> None:
    """Oldest first."""
    later, first = an_original("t1", at_ms=NOW_MS + 1), an_original("t2")
    for original in (later, first):
        store.note_original("local", FINGERPRINT, original)

    assert store.originals("local", FINGERPRINT, now_ms=NOW_MS) == [first, later]
    assert store.originals("acme", FINGERPRINT, now_ms=NOW_MS) == []
    assert store.originals("local", "f" * 63, now_ms=NOW_MS) == []
    assert store.originals("local", FINGERPRINT[:-1] + "e", now_ms=NOW_MS) == []


def test_posts_are_found_until_their_time_ends(store: Store) -> None:
    store.note_original("local", FINGERPRINT, an_original())

    assert store.originals("local", FINGERPRINT, now_ms=NOW_MS + 999) == [an_original()]
    assert store.originals("local", FINGERPRINT, now_ms=NOW_MS + 1000) == []


def test_a_post_and_an_idempotency_key_do_not_meet(store: Store) -> None:
    store.note_original("local", FINGERPRINT, an_original())

    assert store.bound_idempotency_key("local", FINGERPRINT, now_ms=NOW_MS) is None
    assert store.bound_idempotency_key("local", f"{FINGERPRINT}t1", now_ms=NOW_MS) is None


def test_a_swap_can_be_repeated(store: Store) -> None:
    """Its reply may be lost. What another repeat has swapped is not swapped."""
    store.note_original("local", FINGERPRINT, an_original())
    mine, other = (replace(an_original(), repeats=1, taker=taker) for taker in "ab")

    assert store.swap_original("local", FINGERPRINT, an_original(), mine)
    assert store.swap_original("local", FINGERPRINT, an_original(), mine)
    assert not store.swap_original("local", FINGERPRINT, an_original(), other)
    assert store.originals("local", FINGERPRINT, now_ms=NOW_MS) == [mine]


def test_a_post_that_is_gone_is_not_swapped(store: Store) -> None:
    assert not store.swap_original("local", FINGERPRINT, an_original(), replace(an_original(), repeats=1))
    assert store.originals("local", FINGERPRINT, now_ms=NOW_MS) == []


def test_of_16_swaps_at_once_one_is_made(store: Store) -> None:
    store.note_original("local", FINGERPRINT, an_original())
    wanted = [replace(an_original(), repeats=1, taker=str(n)) for n in range(16)]

    swapped = at_once(lambda after: store.swap_original("local", FINGERPRINT, an_original(), after), wanted)

    assert swapped.count(True) == 1
    assert store.originals("local", FINGERPRINT, now_ms=NOW_MS) == [wanted[swapped.index(True)]]
