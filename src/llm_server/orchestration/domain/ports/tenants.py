"""The port for the deletion of everything that is stored for a tenant."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct
from msgspec.structs import asdict


class Erased(Struct, frozen=True, kw_only=True):
    """How much of a tenant was removed. `in_use` tasks were left alone: they are open, or a worker has them."""

    tasks: int = 0
    idempotency_keys: int = 0
    days_of_spending: int = 0
    conversations: int = 0
    in_use: int = 0

    def __add__(self, other: Erased) -> Erased:
        return Erased(**{name: number + getattr(other, name) for name, number in asdict(self).items()})


class TenantStore(Protocol):
    """Everything that is stored for a tenant, apart from its API keys."""

    def erase(self, tenant: str) -> Erased:
        """Remove a tenant's final tasks with their texts, its conversations, its Idempotency-Keys and its spending.

        The totals stay.

        Tasks that have expired, or that this version cannot read, are removed too, and texts whose task is gone. Open
        tasks and tasks that a worker has are left alone, with their texts. The names of the removed tasks stay for 2
        days, as after `delete`. If the removal is interrupted, the next call removes the rest.
        """
        ...
