"""Keyring: keys are stored as digests, refused once revoked or expired, and held to their limits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace

from llm_server.orchestration.access.key_cache import CACHED_MS, NONE_CACHED_MS
from llm_server.orchestration.access.keyring import Keyring
from llm_server.orchestration.access.tokens import digest_of, is_secret_of
from llm_server.orchestration.domain.api_key import Account, Caller, Key, KeyChanges, KeyLimits, Payer
from llm_server.orchestration.domain.errors import (
    DailyBudgetReserved,
    DailyBudgetSpent,
    InvalidInput,
    KeyConflict,
    KeyNotFound,
    TooManyRequests,
    Unauthenticated,
)
from llm_server.orchestration.domain.ports.keys import KeyStore
from llm_server.orchestration.domain.receipt import usd
from llm_server.storage.sqlite.api_keys import SqliteKeys
from llm_server.storage.sqlite.database import Database
from support.builders import NOW_MS, a_key
from support.concurrency import at_once
from support.scripted_engine import Clock


class CountedKeys(SqliteKeys):
    """Counts how often a key is read."""

    reads = 0
    questions = 0

    def key(self, key_id: str):  # type: ignore[no-untyped-def]
        self.reads += 1
        return super().key(key_id)

    def has_keys(self) -> bool:
        self.questions += 1
        return super().has_keys()


class Uncommitted:
    """Keys whose changes other threads see only after `commit`."""

    def __init__(self) -> None:
        self._written: dict[str, Key] = {}
        self._committed: dict[str, Key] = {}

    def commit(self) -> None:
        self._committed = self._written.copy()

    def add_key(self, key: Key) -> bool:
        self._written[key.key_id] = key
        return True

    def swap_key(self, before: Key, after: Key) -> bool:
        self._written[before.key_id] = after
        return True

    def key(self, key_id: str) -> Key | None:
        return self._committed.get(key_id)

    def has_keys(self) -> bool:
        return bool(self._committed)


class Untouchable(str):
    """A string that fails the test if it is compared, hashed or iterated."""

    __hash__ = None  # type: ignore[assignment]

    def _refuse(self, *_: object) -> Any:
        raise AssertionError("looked at")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __iter__ = __getitem__ = _refuse


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CountedKeys]:
    store = CountedKeys(Database(tmp_path / "tasks.db"))
    yield store
    store.close()


@pytest.fixture
def keys(store: CountedKeys, clock: Clock) -> Keyring:
    return Keyring(store, clock, os.urandom)


def payer_of(caller: Caller) -> Payer:
    assert caller.payer is not None
    return caller.payer


def test_a_token_identifies_its_key_and_tenant(keys: Keyring) -> None:
    limits = KeyLimits(requests_per_minute=7)
    key, token = keys.create("acme", ["admin", "tasks", "tasks"], limits=limits, name="CI")

    assert token.startswith(f"llms_{key.key_id}_")
    assert keys.caller(token) == Caller(
        tenant="acme", scopes=("tasks", "admin"), payer=Payer(key_id=key.key_id, limits=limits)
    )
    assert keys.all() == [key]


def test_the_secret_is_not_stored(keys: Keyring, tmp_path: Path) -> None:
    _, token = keys.create("acme", ["tasks"])

    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert token.rpartition("_")[2].encode() not in stored


def test_a_secret_is_stored_as_its_sha_256() -> None:
    """FIPS 180-4; the expected value is the output of `printf %064d 0 | sha256sum`.

    Tables stay valid across servers.
    """
    digest = "60e05bd1b195af2f94112fa7197a5c88289058840ce7c6df9693756bc6250f55"

    assert digest_of("0" * 64) == digest


def test_digests_are_compared_in_constant_time() -> None:
    """The duration of `==` reveals how many characters match. `hmac.compare_digest` needs no method of the string."""
    digest = Untouchable(digest_of("0" * 64))

    assert is_secret_of(a_key(digest=digest), "0" * 64)
    assert not is_secret_of(a_key(digest=digest), "1" * 64)


def test_two_keys_have_different_ids_and_secrets(keys: Keyring) -> None:
    made = [keys.create("acme", ["tasks"]) for _ in range(2)]

    (one, one_token), (two, two_token) = made
    assert one.key_id != two.key_id
    assert one_token.rpartition("_")[2] != two_token.rpartition("_")[2]


def wrong(token: str) -> list[str]:
    prefix, key_id, secret = token.split("_")
    last = "0" if secret[-1] != "0" else "1"
    return [
        "",
        "llms",
        "llms__",
        f"{prefix}_{key_id}_{secret[:-1]}{last}",
        f"{prefix}_{key_id}_{secret.upper()}",
        f"{prefix}_{key_id}_{secret}0",
        f"{prefix}_{key_id}_",
        f"{prefix}_ffffffffffff_{secret}",
        f"sk_{key_id}_{secret}",
        f" {token}",
        f"{token}\n",
        "llms_é_é",
    ]


@pytest.mark.parametrize("n", range(12))
def test_a_malformed_or_altered_token_is_refused(keys: Keyring, n: int) -> None:
    _, token = keys.create("acme", ["tasks"])

    with pytest.raises(Unauthenticated):
        keys.caller(wrong(token)[n])


def test_a_revoked_key_is_refused_at_once_here_and_within_a_minute_in_other_processes(
    keys: Keyring, store: CountedKeys, clock: Clock
) -> None:
    """Other processes cache the key. Revoking it again has no further effect."""
    elsewhere = Keyring(store, clock, os.urandom)
    key, token = keys.create("acme", ["tasks"])
    elsewhere.caller(token)
    keys.caller(token)
    keys.revoke(key.key_id)
    keys.revoke(key.key_id)

    with pytest.raises(Unauthenticated):
        keys.caller(token)
    assert elsewhere.caller(token).tenant == "acme"
    clock.pass_s(CACHED_MS / 1000)
    with pytest.raises(Unauthenticated):
        elsewhere.caller(token)
    assert [key.revoked_ms for key in keys.all()] == [NOW_MS]


def test_a_cached_key_is_read_again_after_the_clock_is_set_back(
    keys: Keyring, store: CountedKeys, clock: Clock
) -> None:
    """The clock goes back by an hour, and the key was revoked by another process."""
    elsewhere = Keyring(store, clock, os.urandom)
    key, token = keys.create("acme", ["tasks"])
    elsewhere.caller(token)
    keys.revoke(key.key_id)
    clock.pass_s(-3_600)

    with pytest.raises(Unauthenticated):
        elsewhere.caller(token)


def test_a_key_is_read_once_a_minute(keys: Keyring, store: CountedKeys, clock: Clock) -> None:
    _, token = keys.create("acme", ["tasks"])
    for _ in range(100):
        keys.caller(token)
        clock.pass_s(0.5)

    assert store.reads == 1


def test_an_expired_key_is_refused_at_once_everywhere(keys: Keyring, store: CountedKeys, clock: Clock) -> None:
    """Processes that cached the key refuse it too: they compare its expiry with the clock on each call."""
    elsewhere = Keyring(store, clock, os.urandom)
    _, token = keys.create("acme", ["tasks"], expires_ms=NOW_MS + 1_000)
    clock.pass_s(0.999)
    before = [ring.caller(token).tenant for ring in (keys, elsewhere)]
    clock.pass_s(0.001)

    assert before == ["acme", "acme"]
    for ring in (keys, elsewhere):
        with pytest.raises(Unauthenticated):
            ring.caller(token)


def test_an_expired_key_whose_expiry_is_removed_is_valid_again_at_once_everywhere(
    keys: Keyring, store: CountedKeys, clock: Clock
) -> None:
    elsewhere = Keyring(store, clock, os.urandom)
    key, token = keys.create("acme", ["tasks"], expires_ms=NOW_MS + 1_000)
    elsewhere.caller(token)
    clock.pass_s(2)
    keys.update(key.key_id, {"expires_ms": None})

    assert [ring.caller(token).tenant for ring in (keys, elsewhere)] == ["acme", "acme"]


@pytest.mark.parametrize("expires_ms", [0, NOW_MS - 1, NOW_MS, 253_402_300_800_000])
def test_an_expiry_that_is_not_in_the_future_is_refused(keys: Keyring, expires_ms: int) -> None:
    """An expiry after the year 9999 is refused too, because RFC 3339 cannot write it."""
    key, _ = keys.create("acme", ["tasks"])
    for act in (
        lambda: keys.create("acme", ["tasks"], expires_ms=expires_ms),
        lambda: keys.update(key.key_id, {"expires_ms": expires_ms}),
    ):
        with pytest.raises(InvalidInput, match="must be in the future, and not after 9999-12-31") as refused:
            act()
        assert refused.value.field == "expires_at"
    assert keys.all() == [key]


def test_an_update_changes_only_the_named_fields(keys: Keyring, clock: Clock) -> None:
    limits = KeyLimits(requests_per_minute=7, tasks_in_flight=3, microusd_per_day=1_000_000)
    key, token = keys.create("acme", ["tasks"], limits=limits, name="CI", expires_ms=NOW_MS + 10)
    steps = [
        keys.update(key.key_id, {"name": "CD"}),
        keys.update(key.key_id, {"limits": {"tasks_in_flight": 9, "usd_per_day": None}}),
        keys.update(key.key_id, {"limits": {"usd_per_day": 2.5}, "expires_ms": None}),
    ]

    assert steps[0] == replace(key, name="CD")
    assert steps[1] == replace(steps[0], limits=KeyLimits(requests_per_minute=7, tasks_in_flight=9))
    assert steps[2] == replace(steps[1], limits=replace(steps[1].limits, microusd_per_day=2_500_000), expires_ms=None)
    assert keys.all() == [steps[2]]
    assert payer_of(keys.caller(token)).limits == steps[2].limits


def test_changed_limits_apply_at_once_here_and_within_a_minute_in_other_processes(
    keys: Keyring, store: CountedKeys, clock: Clock
) -> None:
    elsewhere = Keyring(store, clock, os.urandom)
    key, token = keys.create("acme", ["tasks"])
    for ring in (keys, elsewhere):
        ring.caller(token)
    keys.update(key.key_id, {"limits": {"requests_per_minute": 5}})
    at_once = [payer_of(ring.caller(token)).limits.requests_per_minute for ring in (keys, elsewhere)]
    clock.pass_s(CACHED_MS / 1000)

    assert at_once == [5, None]
    assert payer_of(elsewhere.caller(token)).limits.requests_per_minute == 5


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({}, "limits"),
        ({"limits": {}}, "limits"),
        ({"limits": {}, "name": "CI"}, "limits"),
        ({"limits": {"requests_per_minute": 0}}, "requests_per_minute"),
        ({"limits": {"usd_per_day": float("nan")}}, "usd_per_day"),
        ({"name": "a\nb"}, "name"),
    ],
)
def test_an_invalid_change_changes_nothing(keys: Keyring, changes: KeyChanges, field: str) -> None:
    key, _ = keys.create("acme", ["tasks"])
    with pytest.raises(InvalidInput) as refused:
        keys.update(key.key_id, changes)

    assert refused.value.field == field
    assert keys.all() == [key]


def test_a_revoked_key_cannot_be_changed_or_rotated(keys: Keyring) -> None:
    key, _ = keys.create("acme", ["tasks"])
    keys.revoke(key.key_id)
    for act in (lambda: keys.update(key.key_id, {"name": "CI"}), lambda: keys.rotate(key.key_id)):
        with pytest.raises(KeyConflict, match="is revoked"):
            act()

    assert keys.all() == [replace(key, revoked_ms=NOW_MS)]


def test_an_expired_key_gets_no_new_secret(keys: Keyring, clock: Clock) -> None:
    key, _ = keys.create("acme", ["tasks"], expires_ms=NOW_MS + 1)
    clock.pass_s(1)

    with pytest.raises(KeyConflict, match="has expired"):
        keys.rotate(key.key_id)
    assert keys.all() == [key]


class OvertakenKeys(CountedKeys):
    """Runs a callback just before each of the first `times` swaps."""

    def overtake(self, act: Callable[[], object], times: int = 1) -> None:
        self._acts = [act] * times

    def swap_key(self, before: Key, after: Key) -> bool:
        acts = getattr(self, "_acts", [])
        if acts:
            acts.pop()()
        return super().swap_key(before, after)


@pytest.fixture
def overtaken(tmp_path: Path) -> Iterator[OvertakenKeys]:
    store = OvertakenKeys(Database(tmp_path / "tasks.db"))
    yield store
    store.close()


def test_concurrent_changes_of_a_key_are_all_kept(overtaken: OvertakenKeys, clock: Clock) -> None:
    one, other = (Keyring(overtaken, clock, os.urandom) for _ in range(2))
    key, _ = one.create("acme", ["tasks"])
    overtaken.overtake(lambda: other.update(key.key_id, {"limits": {"tasks_in_flight": 2}}))
    one.update(key.key_id, {"name": "CI", "limits": {"requests_per_minute": 5}})

    limits = KeyLimits(requests_per_minute=5, tasks_in_flight=2)
    assert one.all() == [replace(key, name="CI", limits=limits)]


def test_no_change_undoes_a_revocation(overtaken: OvertakenKeys, clock: Clock) -> None:
    """A PATCH that read the key before it was revoked must not write it back as valid."""
    one, other = (Keyring(overtaken, clock, os.urandom) for _ in range(2))
    key, token = one.create("acme", ["tasks"])
    overtaken.overtake(lambda: other.revoke(key.key_id))
    with pytest.raises(KeyConflict):
        one.update(key.key_id, {"name": "CI"})

    assert one.all() == [replace(key, revoked_ms=NOW_MS)]
    with pytest.raises(Unauthenticated):
        one.caller(token)


def test_a_change_that_others_overtake_every_time_is_refused_in_the_end(overtaken: OvertakenKeys, clock: Clock) -> None:
    one, other = (Keyring(overtaken, clock, os.urandom) for _ in range(2))
    key, _ = one.create("acme", ["tasks"])
    names = iter("abcdefgh")
    overtaken.overtake(lambda: SqliteKeys.swap_key(overtaken, other.all()[0], replace(key, name=next(names))), times=99)
    with pytest.raises(KeyConflict, match="changed by other calls"):
        one.update(key.key_id, {"limits": {"requests_per_minute": 5}})

    assert one.all()[0].limits == KeyLimits()


def test_a_new_secret_is_valid_everywhere_at_once(keys: Keyring, store: CountedKeys, clock: Clock) -> None:
    """A process that has seen the new secret, or never cached the key, refuses the old one at once."""
    elsewhere, unused = (Keyring(store, clock, os.urandom) for _ in range(2))
    key, old = keys.create("acme", ["tasks"])
    for ring in (keys, elsewhere):
        ring.caller(old)
    rotated, new = keys.rotate(key.key_id)

    for ring in (keys, unused):
        with pytest.raises(Unauthenticated):
            ring.caller(old)
    assert elsewhere.caller(old).tenant == "acme"
    assert [ring.caller(new).tenant for ring in (keys, elsewhere, unused)] == ["acme"] * 3
    with pytest.raises(Unauthenticated):
        elsewhere.caller(old)
    assert (rotated.key_id, new.split("_")[1], new == old) == (key.key_id, key.key_id, False)


def test_the_old_secret_is_refused_within_a_minute_in_other_processes(
    keys: Keyring, store: CountedKeys, clock: Clock
) -> None:
    elsewhere = Keyring(store, clock, os.urandom)
    key, old = keys.create("acme", ["tasks"])
    elsewhere.caller(old)
    keys.rotate(key.key_id)
    clock.pass_s(CACHED_MS / 1000)

    with pytest.raises(Unauthenticated):
        elsewhere.caller(old)


def test_a_new_key_never_takes_the_id_of_another(store: CountedKeys, clock: Clock) -> None:
    """Ids are random; if a drawn id is taken, another one is drawn."""
    ids = iter([b"\1" * 6, b"\1" * 6, b"\2" * 6])
    keys = Keyring(store, clock, lambda n: next(ids) if n == 6 else os.urandom(n))
    made = [keys.create("acme", ["tasks"])[0] for _ in range(2)]

    assert [key.key_id for key in made] == ["01" * 6, "02" * 6]
    assert keys.all() == made


def test_keys_are_required_as_soon_as_one_key_exists(keys: Keyring, store: CountedKeys, clock: Clock) -> None:
    """Within a second if another process created it. Revoking the last key does not allow calls without one again."""
    before = keys.required()
    elsewhere = Keyring(store, clock, os.urandom)
    key, _ = elsewhere.create("acme", ["tasks"])
    clock.pass_s(NONE_CACHED_MS / 1000)
    first = keys.required()
    elsewhere.revoke(key.key_id)

    assert (before, first, keys.required(), Keyring(store, clock, os.urandom).required()) == (False, True, True, True)


def test_the_store_is_asked_for_keys_at_most_once_a_second(keys: Keyring, store: CountedKeys, clock: Clock) -> None:
    """Until a key exists. After that the store is not asked again."""
    answers = []
    for _ in range(30):
        answers.append((keys.known_required(), keys.required()))
        clock.pass_s(0.1)
    asked = store.questions
    Keyring(store, clock, os.urandom).create("acme", ["tasks"])
    clock.pass_s(1)
    locked = [keys.required() for _ in range(3)], keys.known_required()
    clock.pass_s(3_600)

    assert [known for known, _ in answers] == [None if n % 10 == 0 else False for n in range(30)]
    assert (asked, {required for _, required in answers}) == (3, {False})
    assert (locked, keys.required(), store.questions) == (([True] * 3, True), True, 4)


def test_a_fresh_answer_is_asked_of_the_store(keys: Keyring, store: CountedKeys, clock: Clock) -> None:
    before = keys.required()
    Keyring(store, clock, os.urandom).create("acme", ["tasks"])

    assert (before, keys.required(), keys.required(fresh=True), keys.known_required()) == (False, False, True, True)


def test_threads_that_ask_for_keys_at_the_same_time_ask_the_store_once(clock: Clock, tmp_path: Path) -> None:
    with closing(CountedKeys(Database(tmp_path / "tasks.db"))) as store:
        keys = Keyring(store, clock, os.urandom)
        answers = at_once(lambda _: keys.required(), range(8))

    assert (answers, store.questions) == ([False] * 8, 1)


def test_a_key_of_this_process_counts_at_once(keys: Keyring) -> None:
    """The commit may come after the call that makes it, so the store is asked until it has the key."""
    before = keys.required()
    keys.create("acme", ["tasks"])

    assert (before, keys.known_required(), keys.required(), keys.known_required()) == (False, None, True, True)


def test_a_key_that_was_not_committed_does_not_lock_the_server(clock: Clock) -> None:
    """The commit of the first key failed: callers would be asked for a key that does not exist."""
    store = Uncommitted()
    keys = Keyring(cast("KeyStore", store), clock, os.urandom)
    keys.create("acme", ["tasks"])

    assert (keys.required(), keys.required()) == (False, False)


def test_a_revoked_key_stays_refused_when_it_was_read_before_the_commit(clock: Clock) -> None:
    """Another thread may read the key between its revocation and the commit; that read is not cached."""
    store = Uncommitted()
    keys = Keyring(cast("KeyStore", store), clock, os.urandom)
    key, token = keys.create("acme", ["tasks"])
    store.commit()
    before = keys.caller(token)
    keys.revoke(key.key_id)
    uncommitted = keys.caller(token)
    store.commit()

    assert (before, uncommitted) == (Caller.of(key), Caller.of(key))
    with pytest.raises(Unauthenticated):
        keys.caller(token)


def test_a_changed_key_is_cached_again_after_a_while(keys: Keyring, store: CountedKeys, clock: Clock) -> None:
    key, token = keys.create("acme", ["tasks"])
    keys.update(key.key_id, {"name": "CI"})
    clock.pass_s(10)
    keys.caller(token)
    reads = store.reads

    assert keys.known_caller(token) == keys.caller(token)
    assert store.reads == reads


@pytest.mark.parametrize("key_id", ["ffffffffffff", "", "x" * 2_000, "\ud800"])
def test_an_unknown_key_id_is_not_found(keys: Keyring, key_id: str) -> None:
    for act in (keys.revoke, keys.rotate, lambda key_id: keys.update(key_id, {"name": "CI"})):
        with pytest.raises(KeyNotFound):
            act(key_id)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"tenant": ""}, "tenant"),
        ({"tenant": "Acme"}, "tenant"),
        ({"tenant": "a/b"}, "tenant"),
        ({"tenant": "a#b"}, "tenant"),
        ({"tenant": "acme\n"}, "tenant"),
        ({"tenant": "x" * 41}, "tenant"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["root"]}, "scopes"),
        ({"name": "x" * 101}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "gnp.\u202eexe"}, "name"),
        ({"name": "a\u200bb"}, "name"),
        ({"name": "a\u2028b"}, "name"),
        ({"name": "bad \udcff byte"}, "name"),
    ],
)
def test_an_invalid_field_of_a_new_key_is_refused_by_name(keys: Keyring, asked: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        keys.create(**{"tenant": "acme", "scopes": ["tasks"], **asked})  # type: ignore[arg-type]

    assert refused.value.field == field
    assert keys.all() == []


def test_a_name_may_be_in_any_script(keys: Keyring) -> None:
    assert keys.create("acme", ["tasks"], name="Büro – 東京 🌍")[0].name == "Büro – 東京 🌍"


@pytest.mark.parametrize(
    ("limit", "allowed"),
    [
        ({"requests_per_minute": 0}, "requests_per_minute must be a whole number from 1 to 1,000,000."),
        ({"requests_per_minute": 10**18}, "requests_per_minute must be a whole number from 1 to 1,000,000."),
        ({"tasks_in_flight": 1_000_001}, "tasks_in_flight must be a whole number from 1 to 1,000,000."),
        ({"usd_per_day": 0.0}, "usd_per_day must be from 0.000001 to 1,000,000."),
        ({"usd_per_day": 0.0000009}, "usd_per_day must be from 0.000001 to 1,000,000."),
        ({"usd_per_day": 1_000_000.01}, "usd_per_day must be from 0.000001 to 1,000,000."),
        ({"usd_per_day": 1e40}, "usd_per_day must be from 0.000001 to 1,000,000."),
        ({"usd_per_day": float("inf")}, "usd_per_day must be from 0.000001 to 1,000,000."),
        ({"usd_per_day": float("nan")}, "usd_per_day must be from 0.000001 to 1,000,000."),
    ],
)
def test_a_limit_out_of_its_range_is_refused_with_the_range(limit: dict[str, float], allowed: str) -> None:
    """Stores cannot hold such numbers, so every call with the key would fail."""
    with pytest.raises(InvalidInput) as refused:
        KeyLimits.of(**limit)  # type: ignore[arg-type]

    assert (refused.value.field, str(refused.value)) == (next(iter(limit)), f"The limit {allowed}")


def test_the_smallest_and_largest_limits_are_accepted() -> None:
    least = KeyLimits.of(requests_per_minute=1, tasks_in_flight=1, usd_per_day=0.000001)
    most = KeyLimits.of(requests_per_minute=1_000_000, tasks_in_flight=1_000_000, usd_per_day=1_000_000)

    assert least == KeyLimits(requests_per_minute=1, tasks_in_flight=1, microusd_per_day=1)
    assert most == KeyLimits(requests_per_minute=10**6, tasks_in_flight=10**6, microusd_per_day=10**12)
    assert KeyLimits.of() == KeyLimits()


def test_requests_are_counted_by_the_minute_of_the_clock(keys: Keyring, clock: Clock) -> None:
    """NOW is 20 s into a minute, so 40 s are left."""
    payer = payer_of(keys.caller(keys.create("acme", ["tasks"], limits=KeyLimits(requests_per_minute=2))[1]))
    lefts = [keys.count_request(payer) for _ in range(2)]
    with pytest.raises(TooManyRequests) as refused:
        keys.count_request(payer)

    assert [(left.left, left.reset_s) for left in lefts if left] == [(1, 40), (0, 40)]
    assert (refused.value.retry_after_s, refused.value.max_requests) == (40, 2)
    clock.pass_s(40)
    assert keys.count_request(payer) is not None


def spent(store: CountedKeys, payer: Payer, name: str, microusd: int) -> None:
    account = Account(payer.key_id, "2025-10-09")
    store.reserve(account, name, microusd, max_microusd=microusd + store.use(account).charged_microusd)
    store.settle(account, name, microusd, microusd)


def test_new_tasks_are_refused_until_midnight_once_the_daily_budget_is_spent(
    keys: Keyring, store: CountedKeys, clock: Clock
) -> None:
    """NOW is 08:53:20 UTC, so midnight is 15 h, 6 min and 40 s away."""
    payer = payer_of(keys.caller(keys.create("acme", ["tasks"], limits=KeyLimits(microusd_per_day=1_000))[1]))
    spent(store, payer, "t1#1", 999)
    keys.check_spending(payer)
    spent(store, payer, "t1#2", 1)
    with pytest.raises(DailyBudgetSpent, match=r"usd_per_day of 0\.001 is used up") as refused:
        keys.check_spending(payer)

    assert refused.value.retry_after_s == 15 * 3600 + 6 * 60 + 40
    clock.pass_s(refused.value.retry_after_s)
    keys.check_spending(payer)


def test_a_reserved_daily_budget_is_refused_with_a_short_retry_after(keys: Keyring, store: CountedKeys) -> None:
    """The call that reserved it ends soon and gives back what it did not cost."""
    payer = payer_of(keys.caller(keys.create("acme", ["tasks"], limits=KeyLimits(microusd_per_day=1_000))[1]))
    account = Account(payer.key_id, "2025-10-09")
    spent(store, payer, "t1#1", 999)
    store.reserve(account, "t1#2", 1, max_microusd=1_000)
    with pytest.raises(DailyBudgetReserved) as refused:
        keys.check_spending(payer)
    store.settle(account, "t1#2", 1, 0)
    keys.check_spending(payer)

    assert refused.value.retry_after_s == 5
    assert str(refused.value) == ("The rest of the key's usd_per_day limit of 0.001 is reserved for calls in progress.")


@pytest.mark.parametrize(
    ("microusd", "shown"),
    [
        (0, "0"),
        (1, "0.000001"),
        (1_500_000, "1.5"),
        (10_000_000, "10"),
        (1_234_567_890_000, "1234567.89"),
        (10**15 + 1, "1000000000.000001"),
    ],
)
def test_money_is_shown_exactly(microusd: int, shown: str) -> None:
    """A limit of 1,234,567.89 must not be shown as `1.23457e+06`."""
    assert usd(microusd) == shown
