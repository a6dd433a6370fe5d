"""Binds an Idempotency-Key to what the first call with it makes, so that a repeated call makes it only once."""

from __future__ import annotations

from collections.abc import Callable

from llm_server.orchestration.domain.errors import InvalidInput
from llm_server.orchestration.domain.ports.tasks import IdempotencyBinding, IdempotencyStore
from llm_server.orchestration.domain.task import DAY_MS

KEPT_MS = DAY_MS
"""How long an Idempotency-Key stays bound."""
HEADER = "Idempotency-Key"


def bind(
    store: IdempotencyStore,
    namespace: str,
    key: str,
    binding: IdempotencyBinding,
    *,
    now_ms: int,
    check: Callable[[], object],
) -> IdempotencyBinding:
    """Return what the key is bound to. If it is free, bind it to `binding` first.

    A body that `check` refuses does not bind the key, so the corrected body can use it.

    Raises:
        InvalidInput: `check` raised it and the key is free, or the key was sent with another body.
    """
    try:
        check()
    except InvalidInput:
        bound = store.bound_idempotency_key(namespace, key, now_ms=now_ms)
        if bound is None:
            raise
    else:
        bound = store.bind_idempotency_key(namespace, key, binding, now_ms=now_ms)
    if bound.body_hash != binding.body_hash:
        message = f"This {HEADER} was sent with another body within the last 24 hours."
        raise InvalidInput(HEADER, message, code="idempotency_key_reused")
    return bound
