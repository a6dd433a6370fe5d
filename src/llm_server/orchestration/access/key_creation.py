"""Make only one API key when a request is repeated. A caller repeats it if the answer with the token got lost.

Only a digest of the secret is stored, so a repeated request cannot return the first token. The repeated
request gives the key a new secret instead (ADR 23).
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from msgspec import Struct

from llm_server.orchestration.access import idempotency
from llm_server.orchestration.access.idempotency import HEADER, KEPT_MS
from llm_server.orchestration.access.keyring import Keyring
from llm_server.orchestration.domain.api_key import Key, NewKey
from llm_server.orchestration.domain.errors import KeyConflict, KeyNotFound
from llm_server.orchestration.domain.ports.clock import Clock
from llm_server.orchestration.domain.ports.tasks import IdempotencyBinding, IdempotencyStore

_ENDED = {"key_revoked": "is revoked", "key_expired": "has expired"}
NAMESPACE = "keys#"
"""Written before the tenant's name in the store, so that Idempotency-Keys of API keys and of tasks cannot collide.

A tenant's name cannot contain a #.
"""


class CreatedKey(Struct, frozen=True, kw_only=True):
    """A key and its token. `replayed`: an earlier call made the key; this call gave it a new secret."""

    key: Key
    token: str
    replayed: bool = False


class KeyCreation:
    """Creates API keys for callers of the HTTP API."""

    def __init__(self, *, keyring: Keyring, store: IdempotencyStore, clock: Clock) -> None:
        self._keyring = keyring
        self._store = store
        self._clock = clock

    def create_once(self, caller_tenant: str, new: NewKey, idempotency_key: str | None) -> CreatedKey:
        """Make a key. Within 24 hours, all calls with the same Idempotency-Key and fields make only one key.

        A repeated call returns the same key with a new secret; the earlier secret stops working. The Idempotency-Key
        is bound to the new key's id before the key is stored, so if the server dies in between, the repeated call
        makes the key.

        Raises:
            InvalidInput: a field is not allowed, or the Idempotency-Key was sent with other fields.
            KeyConflict: the key was revoked or has expired since, or other calls keep changing it.
        """
        if idempotency_key is None:
            key, token = self._keyring.create(
                new.tenant, new.scopes, limits=new.limits, name=new.name, expires_ms=new.expires_ms
            )
            return CreatedKey(key=key, token=token)
        key_id = self._bound(NAMESPACE + caller_tenant, new, idempotency_key).task_id
        with suppress(KeyNotFound):
            return self._replayed(key_id)
        if (made := self._keyring.add(key_id, new)) is None:  # a concurrent call made the key first
            return self._replayed(key_id)
        return CreatedKey(key=made[0], token=made[1])

    def _bound(self, namespace: str, new: NewKey, idempotency_key: str) -> IdempotencyBinding:
        """Return what the Idempotency-Key is bound to. If it is free, bind it first.

        Fields that are not allowed do not bind it, so a corrected request can use the same Idempotency-Key.
        """
        now_ms = self._clock()
        binding = IdempotencyBinding(task_id=self._keyring.new_id(), body_hash=new.digest(), until_ms=now_ms + KEPT_MS)
        check = partial(self._keyring.check, new)
        return idempotency.bind(self._store, namespace, idempotency_key, binding, now_ms=now_ms, check=check)

    def _replayed(self, key_id: str) -> CreatedKey:
        try:
            key, token = self._keyring.rotate(key_id)
        except KeyConflict as conflict:
            if conflict.code not in _ENDED:
                raise
            message = (
                f"The key that this {HEADER} made {_ENDED[conflict.code]}; send another {HEADER} to make a new one."
            )
            raise KeyConflict(message, code=conflict.code) from None
        return CreatedKey(key=key, token=token, replayed=True)
