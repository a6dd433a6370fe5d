"""Makes an API key once, however often the same request is repeated: its first answer, with the token, may get lost.

Only a digest of the secret is stored, so a repeated request cannot return the first token. It gives the key a new
secret instead (ADR 23).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from llm_server.orchestration.access.keyring import Keyring
from llm_server.orchestration.domain.api_key import Key, NewKey
from llm_server.orchestration.domain.errors import InvalidInput, KeyNotFound
from llm_server.orchestration.domain.ports import Clock, IdempotencyBinding, IdempotencyStore
from llm_server.orchestration.domain.task import DAY_MS

KEPT_MS = DAY_MS
"""How long an Idempotency-Key stands for the API key that was made with it."""

HEADER = "Idempotency-Key"
NAMESPACE = "keys#"
"""Precedes the caller's tenant in the store. No tenant's name contains a #, so bindings of tasks are apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedKey:
    """A key and its token. `replayed`: an earlier call made the key; this call gave it a new secret."""

    key: Key
    token: str
    replayed: bool = False


class KeyCreation:
    """The creation of keys over HTTP."""

    def __init__(self, *, keyring: Keyring, store: IdempotencyStore, clock: Clock) -> None:
        self._keyring = keyring
        self._store = store
        self._clock = clock

    def create_once(self, caller_tenant: str, new: NewKey, idempotency_key: str | None) -> CreatedKey:
        """Make a key; for the same Idempotency-Key and fields, one key within 24 hours.

        A repeated call returns the same key with a new secret; the earlier secret stops working. The Idempotency-Key
        is bound to the new key's id before the key is stored. So if a call dies in between, the next one makes the key.

        Raises:
            InvalidInput: a field is not allowed, or the Idempotency-Key was sent with other fields.
            KeyConflict: the key was revoked or has expired since.
        """
        if idempotency_key is None:
            key, token = self._keyring.create(
                new.tenant, new.scopes, limits=new.limits, name=new.name, expires_ms=new.expires_ms
            )
            return CreatedKey(key=key, token=token)
        key_id = self._bound(NAMESPACE + caller_tenant, new, idempotency_key).task_id
        with suppress(KeyNotFound):
            return self._replayed(key_id)
        if (made := self._keyring.add(key_id, new)) is None:  # a call at the same time was faster
            return self._replayed(key_id)
        return CreatedKey(key=made[0], token=made[1])

    def _bound(self, namespace: str, new: NewKey, idempotency_key: str) -> IdempotencyBinding:
        """Return what the Idempotency-Key stands for. Fields that are refused do not bind it: corrected ones may."""
        now_ms = self._clock()
        binding = IdempotencyBinding(task_id=self._keyring.new_id(), body_hash=new.digest(), until_ms=now_ms + KEPT_MS)
        try:
            self._keyring.check(new)
        except InvalidInput:
            bound = self._store.bound_idempotency_key(namespace, idempotency_key, now_ms=now_ms)
            if bound is None:
                raise
        else:
            bound = self._store.bind_idempotency_key(namespace, idempotency_key, binding, now_ms=now_ms)
        if bound.body_hash != binding.body_hash:
            message = f"This {HEADER} was sent with another body within the last 24 hours."
            raise InvalidInput(HEADER, message, code="idempotency_key_reused")
        return bound

    def _replayed(self, key_id: str) -> CreatedKey:
        key, token = self._keyring.rotate(key_id)
        return CreatedKey(key=key, token=token, replayed=True)
