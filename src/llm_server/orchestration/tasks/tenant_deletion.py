"""Deletes everything that is stored for a tenant: its tasks, its Idempotency-Keys, its spending and its API keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from msgspec import Struct
from msgspec.structs import replace

from llm_server.orchestration.access.key_cache import CACHED_MS
from llm_server.orchestration.access.keyring import Keyring
from llm_server.orchestration.domain.api_key import Key, checked_tenant
from llm_server.orchestration.domain.errors import (
    ConfigurationError,
    RecordUnreadable,
    StateConflict,
    TaskLost,
    TaskNotFound,
)
from llm_server.orchestration.domain.ports.clock import Clock
from llm_server.orchestration.domain.ports.keys import KeyStore
from llm_server.orchestration.domain.ports.listing import TaskFilter
from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.domain.ports.tenants import Erased
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.tasks import change
from llm_server.orchestration.tasks.change import Change
from llm_server.orchestration.tasks.task_deletion import TaskDeletion

PAUSE_S = 1.0
"""How long to wait before the next look at tasks that a worker has."""
PAGE = 100
_MAY_BE_IN_USE = TaskFilter(statuses=frozenset(s for s in Status if not s.is_final) | {Status.CANCELLED})


class TenantDeleted(Struct, frozen=True, kw_only=True):
    """What was deleted. If it is not complete, the keys are revoked but stay, and the call must be repeated."""

    erased: Erased
    keys: int
    is_complete: bool

    @property
    def is_nothing(self) -> bool:
        """Whether nothing of the tenant was stored."""
        return self.is_complete and not self.keys and self.erased == Erased()


class TenantDeletion:
    """Deletes tenants. `is_served`: servers may be running, which know a revoked key for up to 60 s.

    `sleep(s)` waits; the clock must go on meanwhile.
    """

    def __init__(
        self,
        *,
        store: Store,
        key_store: KeyStore,
        keyring: Keyring,
        clock: Clock,
        sleep: Callable[[float], None],
        is_served: bool,
    ) -> None:
        self._store = store
        self._key_store = key_store
        self._keyring = keyring
        self._clock = clock
        self._sleep = sleep
        self.is_served = is_served
        self._deletion = TaskDeletion(store, key_store, clock)

    def delete(self, tenant: str, *, timeout_s: float) -> TenantDeleted:
        """Revoke the tenant's keys, cancel its open tasks, and delete everything once no worker has one of them.

        It waits for workers, and until servers refuse the keys, for `timeout_s` seconds at most. Calling this again
        completes what was interrupted, and has no further effect after that.

        Raises:
            InvalidInput: no tenant can have this name.
            ConfigurationError: no other tenant has a key.
        """
        end_ms = self._clock() + int(timeout_s * 1000)
        keys, closed_ms = self._revoked(checked_tenant(tenant))
        in_use, erased = list(self._may_be_in_use(tenant)), Erased()
        while True:
            left = [ref for ref in in_use if not self._is_deleted(ref)]
            erased += Erased(tasks=len(in_use) - len(left))
            if not left and self._clock() >= closed_ms:
                again = self._store.erase(tenant)
                erased += replace(again, in_use=0)
                if not again.in_use:
                    for key in keys:
                        self._key_store.remove_key(key.key_id)
                    return TenantDeleted(erased=erased, keys=len(keys), is_complete=True)
                left = list(self._may_be_in_use(tenant))  # a server that still knew a key has accepted them
            if self._clock() >= end_ms:
                return TenantDeleted(erased=replace(erased, in_use=len(left)), keys=0, is_complete=False)
            in_use = left
            self._sleep(PAUSE_S)

    def _revoked(self, tenant: str) -> tuple[Sequence[Key], int]:
        """Revoke the tenant's keys. Return them, and until when a server may admit one of them."""
        all_keys = self._keyring.all()
        own = [key for key in all_keys if key.tenant == tenant]
        if own and len(own) == len(all_keys):
            raise ConfigurationError(
                f"The keys of {tenant} are the only ones. Without any key, an embedded server answers every program on "
                "its machine. Make a key for another tenant first: llm-server keys create --tenant OTHER --scope admin"
            )
        now_ms = self._clock()
        for key in own:
            self._keyring.revoke(key.key_id)
        revoked_ms = [now_ms if key.revoked_ms is None else key.revoked_ms for key in own]
        return own, max(revoked_ms, default=0) + CACHED_MS if self.is_served else 0

    def _may_be_in_use(self, tenant: str) -> Iterator[TaskRef]:
        """Yield the open tasks, and the Cancelled ones that a worker has or had."""
        token, is_last = "", False
        while not is_last:
            page = self._store.page(tenant, size=PAGE, token=token, task_filter=_MAY_BE_IN_USE)
            yield from (task.ref for task in page.tasks if not task.status.is_final or task.owner)
            token, is_last = page.next_token, not page.next_token

    def _is_deleted(self, ref: TaskRef) -> bool:
        """Delete a task, or cancel it so that its worker stops. Returns whether it is deleted."""
        try:
            self._deletion.delete(ref)
        except TaskNotFound:
            return True
        except StateConflict:
            with suppress(TaskNotFound, StateConflict):
                change.apply(self._store, ref, self._cancelled)
            return False
        except RecordUnreadable:  # a text of it
            with suppress(TaskNotFound, TaskLost):
                return self._is_deleted_unread(ref)
            return False
        return True

    def _cancelled(self, snapshot: Snapshot) -> Change | None:
        return None if snapshot.task.status.is_final else self._deletion.cancelled(snapshot)

    def _is_deleted_unread(self, ref: TaskRef) -> bool:
        """Do the same with the state alone. The calls of a dead worker are not counted then.

        Raises TaskNotFound or TaskLost if another writer has deleted or changed the task in between.
        """
        task, now_ms = self._store.peek(ref), self._clock()
        if not task.status.is_final:
            self._store.save(task, task.cancelled(now_ms=now_ms))
            return False
        if task.has_worker(now_ms):
            return False
        self._store.delete(task)
        return True
