"""The filters of `GET /tasks`, from query parameters to a `TaskFilter`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from llm_server.api import filters
from llm_server.orchestration.domain.errors import InvalidInput
from llm_server.orchestration.domain.ports.listing import EVERY_TASK, TaskFilter
from support.in_process_server import CalledServer


def made(**changes: Any) -> TaskFilter:
    """Return the filter of the given parameters; the others are left out."""
    left_out: dict[str, Any] = {
        "statuses": [], "role": None, "mode": None, "engine": None, "labels": {},
        "awaiting_approval": None, "created_from": None, "created_to": None,
    }  # fmt: skip
    return filters.task_filter(**left_out | changes)


def test_without_parameters_every_task_matches() -> None:
    assert made() == EVERY_TASK


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [
        ("1970-01-01T00:00:01+00:00", 1_000),
        ("1970-01-01T02:00:01+02:00", 1_000),
        ("1970-01-01T00:00:00.001+00:00", 1),
        ("1970-01-01T00:00:00.000001+00:00", 1),
        ("1970-01-01T00:00:00.999001+00:00", 1_000),
        ("9999-12-31T23:59:59.999-23:59", 253_402_387_139_999),
        ("1969-12-31T23:59:59+00:00", -1_000),
    ],
)
def test_a_time_is_rounded_up_to_milliseconds(text: str, expected_ms: int) -> None:
    """Tasks are created at whole milliseconds, so rounding up includes no task created before the time."""
    instant = datetime.fromisoformat(text)

    assert made(created_from=instant).created_from_ms == expected_ms
    assert made(created_to=instant).created_to_ms == expected_ms


def test_an_empty_range_of_creation_times_is_refused() -> None:
    noon = datetime.fromisoformat("2026-01-31T12:00:00+00:00")
    the_same = datetime.fromisoformat("2026-01-31T13:00:00+01:00")

    with pytest.raises(InvalidInput, match=r"created_to must be later than created_from\.") as refused:
        made(created_from=noon, created_to=the_same)
    assert refused.value.field == "created_to"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"": "x"}, "A metadata key has 1 to 64 characters: metadata.<key>=<value>."),
        ({"k" * 65: "x"}, "A metadata key has 1 to 64 characters: metadata.<key>=<value>."),
        ({"k": "v" * 513}, "A metadata value has at most 512 characters."),
    ],
)
def test_metadata_filters_outside_the_bounds_are_refused(labels: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        made(labels=labels)

    assert (str(refused.value), refused.value.field) == (message, f"metadata.{next(iter(labels))}")
    assert made(labels={"k" * 64: "v" * 512, "e": ""}).metadata == {"k" * 64: "v" * 512, "e": ""}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            "status=Done",
            "'Done' is unknown; known are Queued, Processing, Planned, Completed, Failed, Cancelled",
        ),
        ("status=Queued,,Failed", "'' is unknown; known are Queued, "),
        ("status=Queued&status=Done", "'Done' is unknown; known are Queued, "),
        ("mode=Swarm", "'Swarm' is unknown; known are Chat, Agent, Plan"),
        ("created_from=yesterday", "RFC 3339"),
        ("created_from=1760000000", "RFC 3339"),
        ("created_from=2026-01-31", "RFC 3339"),
        ("created_from=2026-01-31T12:00:00", "RFC 3339 time with an offset, such as 2026-01-31T08:00:00Z"),
        ("created_to=2026-01-31T12:00:00+01:00", "in a URL, + is written %2B"),
        ("created_to=2026-02-31T12:00:00Z", "RFC 3339"),
        ("created_to=", "RFC 3339"),
        ("awaiting_approval=maybe", "awaiting_approval"),
        ("engine=", "engine"),
        ("engine=" + "e" * 101, "engine"),
        ("metadata.=x", "1 to 64 characters"),
        ("metadata.k=1&metadata.k=2", "'metadata.k' is given more than once."),
    ],
)
def test_an_invalid_value_of_a_filter_is_refused_by_name(shared_server: CalledServer, query: str, message: str) -> None:
    """With one sentence that lists the allowed values or describes their form."""
    answer = shared_server.get(f"tasks?{query}")

    assert answer.status == 422, answer.body
    assert message in answer.detail
    assert answer.json["errors"][0]["pointer"] == f"/{query.partition('=')[0]}"
