"""The filters of `GET /tasks`: their query parameters, and how they become a `TaskFilter`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Query
from pydantic import BeforeValidator, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from llm_server.api.requests.query import QueryPrefix
from llm_server.orchestration.domain.errors import InvalidInput
from llm_server.orchestration.domain.ports.listing import TaskFilter
from llm_server.orchestration.domain.status import Mode, Status

METADATA_PREFIX = "metadata."
MAX_METADATA_KEY = 64
MAX_METADATA_VALUE = 512
METADATA_PARAMETER: dict[str, Any] = {
    "name": "metadata",
    "in": "query",
    "required": False,
    "description": "`metadata.<key>=<value>`: tasks that were created with this pair; with several such parameters, "
    "tasks that have all the pairs. Each name begins with `metadata.`.",
    "style": "form",
    "explode": True,
    "schema": {
        "type": "object",
        "propertyNames": {"pattern": r"^metadata\.[^\x00]{1,64}$"},
        "additionalProperties": {"type": "string", "maxLength": MAX_METADATA_VALUE},
        "examples": [{"metadata.project": "atlas", "metadata.run": "42"}],
    },
}
"""A form parameter that is exploded: each property of the object is a query parameter of its own."""

_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_Word = TypeVar("_Word", bound=StrEnum)


def _word(kind: type[_Word], text: str) -> _Word:
    """Return the member of an enum that a text names, in upper or lower case."""
    known = {word.lower(): word for word in kind}
    if text.lower() not in known:
        context = {"text": repr(text[:60]), "known": ", ".join(kind)}
        raise PydanticCustomError("unknown_word", "{text} is unknown; known are {known}", context)
    return known[text.lower()]


def _statuses(texts: Sequence[str]) -> list[Status]:
    return [_word(Status, text) for text in ",".join(texts).split(",")]


def _mode(text: str) -> Mode:
    return _word(Mode, text)


def _instant(text: str) -> datetime:
    try:
        if _RFC_3339.fullmatch(text.upper()):
            return datetime.fromisoformat(text.upper())
    except ValueError:
        pass
    raise PydanticCustomError(
        "not_rfc_3339",
        "it must be an RFC 3339 time with an offset, such as 2026-01-31T08:00:00Z; in a URL, + is written %2B",
    )


Statuses = Annotated[
    list[Status],
    BeforeValidator(_statuses),
    Query(
        description="Tasks with one of these statuses: repeat the parameter, or separate statuses by commas.",
        examples=[["Queued", "Processing"]],
    ),
]
RoleName = Annotated[
    str | SkipJsonSchema[None], Query(max_length=100, description="Tasks of this role.", examples=["Writing-Agent"])
]
ModeName = Annotated[
    Mode | SkipJsonSchema[None],
    BeforeValidator(_mode),
    Query(description="Tasks that are done in this mode.", examples=["Plan"]),
]
EngineName = Annotated[
    str | SkipJsonSchema[None],
    Query(
        min_length=1,
        max_length=100,
        description="Tasks that this engine answered. The name need not be configured any more.",
        examples=["claude"],
    ),
]
AwaitingApproval = Annotated[
    bool | None,
    WithJsonSchema({"type": "boolean", "examples": [True]}),
    Query(description="true: tasks whose plan waits for approval; false: all other tasks."),
]
CreatedFrom = Annotated[
    datetime | SkipJsonSchema[None],
    BeforeValidator(_instant),
    Query(description="Tasks created at or after this time (RFC 3339).", examples=["2026-01-31T08:00:00Z"]),
]
CreatedTo = Annotated[
    datetime | SkipJsonSchema[None],
    BeforeValidator(_instant),
    Query(description="Tasks created before this time (RFC 3339).", examples=["2026-02-01T08:00:00+01:00"]),
]
Labels = Annotated[Mapping[str, str], Depends(QueryPrefix(METADATA_PREFIX))]


def task_filter(
    *,
    statuses: Sequence[Status],
    role: str | None,
    mode: Mode | None,
    engine: str | None,
    labels: Mapping[str, str],
    awaiting_approval: bool | None,
    created_from: datetime | None,
    created_to: datetime | None,
) -> TaskFilter:
    """Return the filter that a caller asks for.

    Raises:
        InvalidInput: a metadata key or value has a wrong length, or the range of creation times is empty.
    """
    for key, value in labels.items():
        if not 1 <= len(key) <= MAX_METADATA_KEY:
            message = f"A metadata key has 1 to {MAX_METADATA_KEY} characters: metadata.<key>=<value>."
            raise InvalidInput(METADATA_PREFIX + key, message)
        if len(value) > MAX_METADATA_VALUE:
            message = f"A metadata value has at most {MAX_METADATA_VALUE} characters."
            raise InvalidInput(METADATA_PREFIX + key, message)
    if created_from and created_to and created_from >= created_to:
        raise InvalidInput("created_to", "created_to must be later than created_from.")
    return TaskFilter(
        statuses=frozenset(statuses),
        role=role,
        mode=mode,
        engine=engine,
        metadata=labels,
        awaiting_approval=awaiting_approval,
        created_from_ms=_ms(created_from) if created_from else 0,
        created_to_ms=_ms(created_to) if created_to else None,
    )


def _ms(instant: datetime) -> int:
    """Unix milliseconds, rounded up: tasks are created at whole milliseconds."""
    return -((_EPOCH - instant) // timedelta(milliseconds=1))
