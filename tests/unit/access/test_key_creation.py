"""An Idempotency-Key creates one key; after a lost answer the caller repeats the call and gets a new secret."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from msgspec.structs import replace

from llm_server.orchestration.access.key_creation import CreatedKey, KeyCreation
from llm_server.orchestration.access.keyring import Keyring
from llm_server.orchestration.domain.api_key import Key, KeyLimits, NewKey
from llm_server.orchestration.domain.errors import InvalidInput, KeyConflict, StorageUnavailable, Unauthenticated
from llm_server.orchestration.domain.ports.tasks import IdempotencyBinding
from llm_server.storage.sqlite.api_keys import SqliteKeys
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.store import SqliteStore
from support.builders import NOW_MS
from support.concurrency import at_once
from support.scripted_engine import Clock

NEW = NewKey(tenant="acme", scopes=("tasks", "metrics"), limits=KeyLimits(requests_per_minute=7), name="CI")
REFUSED = "^The key that this Idempotency-Key made {}; send another Idempotency-Key to make a new one.$"


class BrokenKeys(SqliteKeys):
    """Calls `before_add` once, just before the next key is added."""

    before_add: Callable[[], object] | None = None

    def add_key(self, key: Key) -> bool:
        act, self.before_add = self.before_add, None
        if act:
            act()
        return super().add_key(key)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(Database(tmp_path / "tasks.db"))
    yield store
    store.close()


@pytest.fixture
def key_store(tmp_path: Path) -> Iterator[BrokenKeys]:
    keys = BrokenKeys(Database(tmp_path / "tasks.db"))
    yield keys
    keys.close()


@pytest.fixture
def keys(key_store: BrokenKeys, clock: Clock) -> Keyring:
    return Keyring(key_store, clock, os.urandom)


@pytest.fixture
def creation(keys: Keyring, store: SqliteStore, clock: Clock) -> KeyCreation:
    return KeyCreation(keyring=keys, store=store, clock=clock)


def made(creation: KeyCreation, new: NewKey = NEW, key: str = "k", tenant: str = "ops") -> CreatedKey:
    return creation.create_once(tenant, new, key)


def test_a_repeated_call_answers_the_same_key_with_a_new_secret(creation: KeyCreation, keys: Keyring) -> None:
    """The answer shows the key as changed since its creation; the earlier secret stops working."""
    first = made(creation)
    changed = keys.update(first.key.key_id, {"limits": {"requests_per_minute": 9}})
    again = made(creation)

    assert (first.replayed, again.replayed) == (False, True)
    assert replace(again.key, digest="") == replace(changed, digest="")
    assert keys.all() == [again.key]
    assert keys.caller(again.token).tenant == "acme"
    with pytest.raises(Unauthenticated):
        keys.caller(first.token)


def test_without_an_idempotency_key_each_call_makes_a_key(creation: KeyCreation, keys: Keyring) -> None:
    both = [creation.create_once("ops", NEW, None) for _ in range(2)]

    assert len(keys.all()) == 2
    assert [one.replayed for one in both] == [False, False]


def test_the_order_of_scopes_does_not_change_the_body(creation: KeyCreation) -> None:
    """The same scopes in another order, or listed twice, count as the same body."""
    ids = {made(creation, replace(NEW, scopes=s)).key.key_id for s in (["tasks", "metrics"], ("metrics", "tasks") * 2)}

    assert len(ids) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"tenant": "globex"},
        {"scopes": ("tasks",)},
        {"name": "CD"},
        {"limits": KeyLimits(requests_per_minute=8)},
        {"limits": KeyLimits(tasks_in_flight=7)},
        {"expires_ms": NOW_MS + 1_000},
    ],
)
def test_another_body_is_refused(creation: KeyCreation, keys: Keyring, change: dict[str, object]) -> None:
    first = made(creation)
    with pytest.raises(InvalidInput, match="with another body within the last 24 hours") as refused:
        made(creation, replace(NEW, **change))

    assert refused.value.field == "Idempotency-Key"
    assert keys.all() == [first.key]


def test_a_body_that_was_refused_leaves_the_idempotency_key_free(creation: KeyCreation) -> None:
    with pytest.raises(InvalidInput, match="tenant's name"):
        made(creation, replace(NEW, tenant="ACME"))

    assert not made(creation).replayed


def test_idempotency_keys_are_separate_for_each_tenant_and_from_those_of_tasks(
    creation: KeyCreation, store: SqliteStore, keys: Keyring
) -> None:
    """An Idempotency-Key of a task must never lead to an API key, and the reverse."""
    task = IdempotencyBinding(task_id="t1", body_hash="h", until_ms=NOW_MS + 1_000)
    store.bind_idempotency_key("ops", "k", task, now_ms=NOW_MS)
    both = [made(creation, tenant=tenant) for tenant in ("ops", "dev")]

    assert [one.replayed for one in both] == [False, False]
    assert len(keys.all()) == 2
    assert store.bound_idempotency_key("ops", "k", now_ms=NOW_MS) == task


def test_after_24_hours_the_same_call_makes_another_key(creation: KeyCreation, keys: Keyring, clock: Clock) -> None:
    made(creation)
    clock.now_ms += 24 * 3_600_000 - 1
    last = made(creation)
    clock.now_ms += 1
    next_one = made(creation)

    assert (last.replayed, next_one.replayed, len(keys.all())) == (True, False, 2)


def test_a_repeated_call_for_a_revoked_key_is_refused(creation: KeyCreation, keys: Keyring) -> None:
    first = made(creation)
    keys.revoke(first.key.key_id)

    with pytest.raises(KeyConflict, match=REFUSED.format("is revoked")):
        made(creation)
    assert keys.all() == [replace(first.key, revoked_ms=NOW_MS)]


def test_a_repeated_call_for_an_expired_key_is_refused(creation: KeyCreation, keys: Keyring, clock: Clock) -> None:
    """The caller learns that its key has expired, although the same body would now be refused for its past expiry."""
    new = replace(NEW, expires_ms=NOW_MS + 1_000)
    first = made(creation, new)
    clock.pass_s(1)

    with pytest.raises(KeyConflict, match=REFUSED.format("has expired")):
        made(creation, new)
    assert keys.all() == [first.key]


def test_a_call_that_died_before_it_stored_the_key_can_be_repeated(
    creation: KeyCreation, key_store: BrokenKeys, keys: Keyring
) -> None:
    def die() -> None:
        raise StorageUnavailable("The database does not answer; try again.")

    key_store.before_add = die
    with suppress(StorageUnavailable):
        made(creation)
    nothing = keys.all()
    again = made(creation)

    assert nothing == []
    assert (again.replayed, keys.all()) == (False, [again.key])
    assert keys.caller(again.token).tenant == "acme"


def test_a_call_that_a_second_identical_call_overtakes_answers_the_same_key(
    creation: KeyCreation, key_store: BrokenKeys, keys: Keyring
) -> None:
    twins: list[CreatedKey] = []
    key_store.before_add = lambda: twins.append(made(creation))
    late = made(creation)

    assert (twins[0].replayed, late.replayed) == (False, True)
    assert twins[0].key.key_id == late.key.key_id
    assert keys.all() == [late.key]


def test_calls_at_the_same_time_make_one_key(creation: KeyCreation, keys: Keyring) -> None:
    """The valid secret is the one stored last, and one of the calls answered it."""
    answers = at_once(lambda _: made(creation), range(4))

    assert {answer.key.key_id for answer in answers} == {key.key_id for key in keys.all()}
    assert len(keys.all()) == 1
    assert [answer.replayed for answer in answers].count(False) == 1
    assert keys.all()[0].digest in {answer.key.digest for answer in answers}
