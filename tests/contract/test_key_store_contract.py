"""The promises of the KeyStore port, on every adapter: keys are kept, and what they limit is counted exactly."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from llm_server.orchestration.domain.api_key import Account, Charges, KeyLimits, KeyUse
from llm_server.orchestration.domain.ports.keys import KeyStore
from support.builders import NOW_MS, a_key
from support.concurrency import at_once

TODAY = Account("0123456789ab", "2025-10-09")
OTHERS = (Account("0123456789ab", "2025-10-10"), Account("ba9876543210", "2025-10-09"))


def test_a_key_is_read_as_it_was_added(key_store: KeyStore) -> None:
    limits = KeyLimits(requests_per_minute=60, tasks_in_flight=5, microusd_per_day=1_500_000, sources=("local",))
    key = a_key(tenant="acme", scopes=("tasks", "admin"), name="Grüße 🌍", limits=limits, expires_ms=NOW_MS + 1)

    assert key_store.add_key(key)
    assert key_store.key(key.key_id) == key
    assert key_store.key("ffffffffffff") is None


def test_adding_never_replaces_another_key(key_store: KeyStore) -> None:
    """A write whose reply was lost may be repeated; but a revoked key must not become valid by a late creation."""
    key = a_key()
    key_store.add_key(key)
    again = key_store.add_key(key)
    revoked = replace(key, revoked_ms=key.created_ms + 1)
    key_store.swap_key(key, revoked)

    assert again
    assert not key_store.add_key(key)
    assert key_store.all_keys() == [revoked]


def test_of_16_keys_with_one_id_one_is_added(key_store: KeyStore) -> None:
    keys = [a_key(key_id="0123456789ab", digest=f"{n:064x}") for n in range(16)]

    added = at_once(key_store.add_key, keys)

    assert added.count(True) == 1
    assert key_store.all_keys() == [keys[added.index(True)]]


def test_a_key_is_swapped_only_if_it_is_as_expected(key_store: KeyStore) -> None:
    key = a_key()
    named, revoked = replace(key, name="CI"), replace(key, revoked_ms=key.created_ms + 1)
    before_it_exists = key_store.swap_key(key, named)
    key_store.add_key(key)

    assert not before_it_exists
    assert key_store.swap_key(key, revoked)
    assert not key_store.swap_key(key, named)
    assert key_store.all_keys() == [revoked]


def test_of_16_swaps_from_one_state_one_is_done(key_store: KeyStore) -> None:
    """Each of the others reads the key again and repeats its change, so no change is lost."""
    key = a_key()
    key_store.add_key(key)
    changed = [replace(key, name=f"n{n}") for n in range(16)]

    done = at_once(lambda after: key_store.swap_key(key, after), changed)

    assert done.count(True) == 1
    assert key_store.all_keys() == [changed[done.index(True)]]


def test_whether_there_are_keys_is_known_without_reading_them_all(key_store: KeyStore) -> None:
    before = key_store.has_keys()
    keys = [a_key() for _ in range(3)]
    for key in keys:
        key_store.add_key(key)

    assert (before, key_store.has_keys()) == (False, True)
    assert sorted(key.key_id for key in key_store.all_keys()) == sorted(key.key_id for key in keys)


def test_the_requests_of_a_minute_are_counted_down_and_given_anew(key_store: KeyStore) -> None:
    one = [key_store.count_request("k1", 100, most=3) for _ in range(5)]

    assert one == [2, 1, 0, None, None]
    assert key_store.count_request("k1", 101, most=3) == 2
    assert key_store.count_request("k2", 100, most=3) == 2


def test_64_racers_get_no_more_requests_than_a_minute_has(key_store: KeyStore) -> None:
    taken = at_once(lambda _: key_store.count_request("k1", 100, most=20), range(64))

    assert sorted(left for left in taken if left is not None) == list(range(20))


def test_what_is_reserved_is_charged_until_it_is_settled(key_store: KeyStore) -> None:
    first = key_store.reserve(TODAY, "t1#1", 600, max_microusd=1_000)
    charged = key_store.use(TODAY)
    key_store.settle(TODAY, "t1#1", 600, 150)

    assert first is None
    assert charged == KeyUse(charged_microusd=600, under_way_microusd=600)
    assert key_store.use(TODAY) == KeyUse(charged_microusd=150)
    assert [key_store.use(other) for other in OTHERS] == [KeyUse()] * 2


def test_what_would_go_above_the_cap_is_not_charged_and_told_what_is(key_store: KeyStore) -> None:
    """Exactly the cap fits; nothing is left after it but what is free."""
    key_store.reserve(TODAY, "t1#1", 600, max_microusd=1_000)

    before = Charges(charged_microusd=600, under_way_microusd=600)
    assert key_store.reserve(TODAY, "t1#2", 401, max_microusd=1_000) == before
    assert key_store.reserve(TODAY, "t1#3", 2_000, max_microusd=1_000) == before
    assert key_store.reserve(TODAY, "t1#4", 400, max_microusd=1_000) is None
    full = Charges(charged_microusd=1_000, under_way_microusd=1_000)
    assert key_store.reserve(TODAY, "t1#5", 1, max_microusd=1_000) == full
    assert key_store.use(TODAY) == KeyUse(charged_microusd=1_000, under_way_microusd=1_000)


def test_a_reservation_and_its_settlement_can_be_repeated(key_store: KeyStore) -> None:
    """A reply that was lost is asked for again: neither may count twice."""
    repeated = [key_store.reserve(TODAY, "t1#1", 600, max_microusd=1_000) for _ in range(2)]
    reserved = key_store.use(TODAY)
    for _ in range(2):
        key_store.settle(TODAY, "t1#1", 600, 100)

    assert repeated == [None, None]
    assert reserved.charged_microusd == 600
    assert key_store.use(TODAY) == KeyUse(charged_microusd=100)


def test_what_an_engine_may_still_bill_stays_charged_and_is_under_way_no_more(key_store: KeyStore) -> None:
    """It is not given back on that day. Settling it again has no further effect."""
    for n, (cost, withheld) in enumerate([(0, 300), (100, 200), (50, 0)]):
        key_store.reserve(TODAY, f"t{n}#1", 300, max_microusd=1_000)
        for _ in range(2):
            key_store.settle(TODAY, f"t{n}#1", 300, cost, withheld_microusd=withheld)

    assert key_store.use(TODAY) == KeyUse(charged_microusd=650, withheld_microusd=500)
    assert key_store.reserve(TODAY, "t4#1", 351, max_microusd=1_000) == Charges(
        charged_microusd=650, withheld_microusd=500
    )


def test_a_settlement_of_nothing_reserved_changes_nothing(key_store: KeyStore) -> None:
    key_store.settle(TODAY, "t1#1", 600, 100)

    assert key_store.use(TODAY) == KeyUse()


def test_what_a_dead_workers_claim_has_reserved_is_withheld(key_store: KeyStore) -> None:
    """All that is under way of this claim, of no other one; repeated, or settled late, it has no further effect."""
    for name in ("t1#1#1", "t1#1#2", "t1#1#3", "t1#10#1", "t1#2#1"):
        key_store.reserve(TODAY, name, 100, max_microusd=1_000)
    key_store.settle(TODAY, "t1#1#1", 100, 30)
    for _ in range(2):
        key_store.withhold(TODAY, "t1#1")
    key_store.settle(TODAY, "t1#1#2", 100, 30)

    assert key_store.use(TODAY) == KeyUse(charged_microusd=430, under_way_microusd=200, withheld_microusd=200)
    assert [key_store.use(other) for other in OTHERS] == [KeyUse()] * 2


def test_a_claim_that_has_reserved_nothing_withholds_nothing(key_store: KeyStore) -> None:
    key_store.withhold(TODAY, "t1#1")

    assert key_store.use(TODAY) == KeyUse()


@pytest.mark.parametrize("cost", [0, 70, 100])
def test_64_racers_never_charge_more_than_the_cap(key_store: KeyStore, cost: int) -> None:
    """Each sets 100 aside, and gives back what its call did not cost; at no moment is more charged than allowed."""
    seen: list[int] = []

    def race(n: int) -> int:
        if key_store.reserve(TODAY, f"t{n}#1", 100, max_microusd=1_050) is not None:
            return 0
        seen.append(key_store.use(TODAY).charged_microusd)
        key_store.settle(TODAY, f"t{n}#1", 100, cost)
        return cost

    spent = sum(at_once(race, range(64)))

    assert max(seen) <= 1_050
    assert key_store.use(TODAY) == KeyUse(charged_microusd=spent)
    assert spent <= 1_050
