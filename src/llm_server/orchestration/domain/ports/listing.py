"""The port for a tenant's list of tasks, and its filter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct, field

from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.domain.task import Task


class TaskFilter(Struct, frozen=True, kw_only=True):
    """Which of a tenant's tasks a listing shows. A field at its default lets every task pass.

    `engine` is the engine that answered (of a Failed task: the last one that was called). A task needs all pairs of
    `metadata`. `created_from_ms` is inclusive and `created_to_ms` exclusive, both Unix milliseconds.
    """

    statuses: frozenset[Status] = frozenset()
    role: str | None = None
    mode: Mode | None = None
    engine: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    awaiting_approval: bool | None = None
    created_from_ms: int = 0
    created_to_ms: int | None = None

    @property
    def possible_statuses(self) -> frozenset[Status]:
        """The statuses that a matching task can have: only open tasks wait for approval."""
        wanted = self.statuses or frozenset(Status)
        return frozenset(s for s in wanted if not s.is_final) if self.awaiting_approval else wanted

    def matches(self, task: Task) -> bool:
        """Return whether a task passes. The times of creation are not compared: the stores read only that range."""
        return (
            self.admits(task.status, task.role, task.mode, task.engine, awaits_approval=task.awaits_approval)
            and self.metadata.items() <= task.metadata.items()
        )

    def admits(self, status: Status, role: str, mode: Mode, engine: str | None, *, awaits_approval: bool) -> bool:
        """Return whether tasks with these values pass, if they also have the metadata."""
        return (
            (not self.statuses or status in self.statuses)
            and self.role in (None, role)
            and self.mode in (None, mode)
            and self.engine in (None, engine)
            and self.awaiting_approval in (None, awaits_approval)
        )


EVERY_TASK = TaskFilter()


class Page(Struct, frozen=True):
    """Some of a tenant's tasks, newest first, and the token of the next page ("" at the end of the list)."""

    tasks: Sequence[Task]
    next_token: str


class TaskListing(Protocol):
    """A tenant's tasks, newest first."""

    def page(self, tenant: str, *, size: int, token: str = "", task_filter: TaskFilter = EVERY_TASK) -> Page:
        """Return up to `size` of a tenant's tasks that pass the filter, newest first.

        A call looks at a limited number of tasks, however many the tenant has. If the limit is reached before `size`
        tasks are found, the page is shorter, or even empty, and has a token. Only a page without a token is the last.
        `token` continues after the page that gave it, also with another filter.

        Raises:
            InvalidInput: no store gives out such a token.
        """
        ...

    def newest(self, tenant: str, *, most: int, task_filter: TaskFilter) -> Sequence[Task]:
        """Return those of a tenant's tasks that pass the filter, newest first, after looking at `most` tasks at most.

        A store without an index for the filter looks at the newest tasks; others look only at tasks that pass it.
        """
        ...
