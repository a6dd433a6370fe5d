"""Whose turn it is: what waits is taken by turns between tenants, so that one tenant's backlog holds up no other."""

from __future__ import annotations

from collections import deque
from itertools import count
from operator import attrgetter
from typing import Generic, NamedTuple, TypeVar

from llm_server.orchestration.domain.status import Priority

MAX_IN_A_ROW = 4
"""How many interactive items of a tenant are taken in a row while one of its batch items waits."""
_BATCH = Priority.BATCH
_RANK = attrgetter("rank")

T = TypeVar("T")


class Line(NamedTuple):
    """Where something waits: with what waits for the same tenant at the same priority, in the order of arrival."""

    tenant: str = ""
    priority: Priority = Priority.INTERACTIVE


OF_NO_TENANT = Line()
"""The line of what is done for no tenant."""


class Turns(Generic[T]):
    """Items that wait for their turn, in a line for each tenant and priority. It has no lock of its own.

    The tenant with the fewest items in use comes next; of several, the one whose last turn ended first, or that has
    waited longest without one. An item is in use, which is a turn, from the time it is taken until it is given back. A
    tenant's batch items in use count only against its other batch items. Of one tenant, interactive items come before
    batch ones, except that a batch item comes after `MAX_IN_A_ROW` of them.

    A change takes the same time however many items wait. To take one takes time for each tenant that waits.
    """

    def __init__(self) -> None:
        self._tenants = dict[str, _Tenant[T]]()
        """Tenants with an item that waits or is in use."""
        self._waiting = dict[str, _Tenant[T]]()
        """Tenants with an item that waits."""
        self._numbers = count()
        self._size = 0
        self.in_use = 0

    def __len__(self) -> int:
        """Return how many items wait."""
        return self._size

    @property
    def fewest(self) -> int:
        """How many items in use count for the tenant whose turn is next. Raises ValueError if nothing waits."""
        return self._next().rank[0]

    @property
    def tenants(self) -> int:
        """How many tenants have an item that waits or is in use."""
        return len(self._tenants)

    def put(self, line: Line, item: T) -> None:
        """Let an item wait at the end of its line."""
        tenant = self._tenant(line)
        if not tenant.interactive and not tenant.batch:
            self._waiting[line.tenant] = tenant
            tenant.turn = next(self._numbers)
        tenant.items(line.priority).append(item)
        tenant.sort()
        self._size += 1

    def take(self) -> tuple[Line, T]:
        """Take the item whose turn it is. Raises ValueError if nothing waits."""
        tenant = self._next()
        tenant.turn = next(self._numbers)
        priority, item = tenant.take()
        self._leave_if_empty(tenant)
        self._size -= 1
        self.in_use += 1
        return Line(tenant.name, priority), item

    def use(self, line: Line) -> None:
        """Count an item as in use that does not have to wait."""
        self._tenant(line).use(line.priority, 1)
        self.in_use += 1

    def give_back(self, line: Line) -> None:
        """Count an item as no longer in use."""
        tenant = self._tenants[line.tenant]
        tenant.turn = next(self._numbers)
        tenant.use(line.priority, -1)
        self._leave_if_empty(tenant)
        self.in_use -= 1

    def remove(self, line: Line, item: T) -> bool:
        """Remove an item that waits. Returns False if it was taken."""
        tenant = self._waiting.get(line.tenant)
        if tenant is None or item not in tenant.items(line.priority):
            return False
        tenant.items(line.priority).remove(item)
        tenant.sort()
        self._leave_if_empty(tenant)
        self._size -= 1
        return True

    def _tenant(self, line: Line) -> _Tenant[T]:
        tenant = self._tenants.get(line.tenant)
        if tenant is None:
            tenant = self._tenants[line.tenant] = _Tenant(line.tenant)
        return tenant

    def _next(self) -> _Tenant[T]:
        """Return the tenant whose turn it is. Raises ValueError if nothing waits."""
        return min(self._waiting.values(), key=_RANK)

    def _leave_if_empty(self, tenant: _Tenant[T]) -> None:
        """Forget a tenant of which nothing waits or is in use."""
        if not tenant.interactive and not tenant.batch:
            self._waiting.pop(tenant.name, None)
            if not tenant.interactive_in_use and not tenant.batch_in_use:
                self._tenants.pop(tenant.name, None)


class _Tenant(Generic[T]):
    """A tenant's items. `turn` grows with each of its turns; the tenant with the lowest `rank` comes next."""

    __slots__ = ("batch", "batch_in_use", "in_a_row", "interactive", "interactive_in_use", "name", "rank", "turn")

    def __init__(self, name: str) -> None:
        self.name = name
        self.interactive = deque[T]()
        self.batch = deque[T]()
        self.interactive_in_use = 0
        self.batch_in_use = 0
        self.in_a_row = 0
        self.turn = 0
        self.rank = (0, 0)

    def items(self, priority: Priority) -> deque[T]:
        """Return those that wait at a priority."""
        return self.batch if priority is _BATCH else self.interactive

    def sort(self) -> None:
        """Set the rank anew after a change."""
        in_use = self.interactive_in_use if self.interactive else self.interactive_in_use + self.batch_in_use
        self.rank = (in_use, self.turn)

    def use(self, priority: Priority, number: int) -> None:
        if priority is _BATCH:
            self.batch_in_use += number
        else:
            self.interactive_in_use += number
        self.sort()

    def take(self) -> tuple[Priority, T]:
        is_batch = bool(self.batch) and (not self.interactive or self.in_a_row >= MAX_IN_A_ROW)
        self.in_a_row = 0 if is_batch or not self.batch else self.in_a_row + 1
        priority, items = (_BATCH, self.batch) if is_batch else (Priority.INTERACTIVE, self.interactive)
        item = items.popleft()
        self.use(priority, 1)
        return priority, item
