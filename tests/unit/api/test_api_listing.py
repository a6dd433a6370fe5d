"""`GET /tasks`: newest first, filtered, page by page."""

from __future__ import annotations

from typing import Any

import pytest

from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.domain.task import Task
from support.builders import NOW_MS, a_request, a_task, an_output, claimed
from support.in_process_server import CalledServer

SUMMARY = (
    *("task_id", "status", "error", "mode", "role", "profile", "engine", "waiting_for"),
    *("waiting_since", "receipt"),
    *("created_at", "updated_at", "finished_at"),
    *("awaiting_approval", "metadata"),
)


def add(server: CalledServer, number: int, *, role: str = "Chat-Agent", finished: bool = False, **changes: Any) -> Task:
    """Store a task; tasks with a higher number are newer."""
    task = a_task(f"t{number:03}", created_ms=NOW_MS + number, role=role, **changes)
    server.store.add(task, a_request("A secret prompt."))
    if finished:
        processing, answer = claimed(task), an_output(text="A secret answer.")
        server.store.save(task, processing)
        server.store.save(processing, processing.completed(answer), answer)
    return task


def ids(server: CalledServer, query: str) -> list[str]:
    answer = server.get(f"tasks?{query}")
    assert answer.status == 200, answer.body
    return [task["task_id"] for task in answer.json["tasks"]]


def test_the_list_without_tasks_is_empty(server: CalledServer) -> None:
    """An empty page token marks the end."""
    assert server.get("tasks").json == {"tasks": [], "next_page_token": ""}


def test_a_listed_task_has_no_prompt_and_no_answer(server: CalledServer) -> None:
    """These can be large, so they are read task by task."""
    add(server, 1, finished=True)

    answer = server.get("tasks")
    (task,) = answer.json["tasks"]
    assert tuple(task) == SUMMARY
    assert (task["status"], task["engine"], task["receipt"]["cost_microusd"]) == ("Completed", "gpt", 300)
    assert b"secret" not in answer.body


def test_pages_go_from_the_newest_to_the_oldest(server: CalledServer) -> None:
    """Every task is listed once, and the last page has an empty page token."""
    for number in range(7):
        add(server, number)

    seen, token, pages = [], "", 0
    while pages == 0 or token:
        page = server.get(f"tasks?page_size=3&page_token={token}").json
        seen += [task["task_id"] for task in page["tasks"]]
        token, pages = page["next_page_token"], pages + 1

    assert seen == [f"t{number:03}" for number in range(6, -1, -1)]
    assert pages == 3


def test_a_page_has_50_tasks_by_default(server: CalledServer) -> None:
    """A call may ask for 1 to 100."""
    for number in range(101):
        add(server, number)

    assert [len(ids(server, query)) for query in ("", "page_size=1", "page_size=100")] == [50, 1, 100]


def test_a_new_task_does_not_shift_the_next_page(server: CalledServer) -> None:
    """The token names a place in the list and not an offset."""
    for number in range(4):
        add(server, number)
    token = server.get("tasks?page_size=2").json["next_page_token"]

    add(server, 9)

    assert ids(server, f"page_size=2&page_token={token}") == ["t001", "t000"]


def test_the_list_can_be_filtered_by_status_and_role(server: CalledServer) -> None:
    """By one or both filters, across pages."""
    for number in range(8):
        add(server, number, role="Email-Agent" if number % 2 else "Chat-Agent", finished=number >= 4)

    assert ids(server, "status=Completed") == ["t007", "t006", "t005", "t004"]
    assert ids(server, "role=Email-Agent") == ["t007", "t005", "t003", "t001"]
    assert ids(server, "status=Queued&role=Email-Agent") == ["t003", "t001"]
    assert ids(server, "status=Failed") == []
    token = server.get("tasks?status=Completed&page_size=3").json["next_page_token"]
    assert ids(server, f"status=Completed&page_size=3&page_token={token}") == ["t004"]


def test_several_statuses_are_repeated_or_separated_by_commas(server: CalledServer) -> None:
    """In any case, like modes and roles."""
    for number, status in enumerate(Status):
        add(server, number, status=status, mode=Mode.PLAN)

    expected = ["t004", "t000"]
    for query in ("status=Queued&status=Failed", "status=Failed,Queued", "status=FAILED,queued&status=Queued"):
        assert ids(server, query) == expected
    assert ids(server, "status=queued&mode=plan&role=chat-agent") == ["t000"]
    assert server.get("tasks?status=queued").json["tasks"][0]["status"] == "Queued"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("mode=Plan", ["t003", "t002"]),
        ("engine=gpt", ["t003", "t001"]),
        ("engine=no-longer-configured", []),
        ("metadata.project=atlas", ["t003", "t002", "t001"]),
        ("metadata.project=atlas&metadata.run=4%202", ["t002"]),
        ("metadata.a.b=", ["t001"]),
        ("metadata.project=Atlas", []),
        ("awaiting_approval=true", ["t002"]),
        ("awaiting_approval=false", ["t003", "t001", "t000"]),
        ("created_from=2025-10-09T08:53:20.002Z", ["t003", "t002"]),
        ("created_to=2025-10-09T10:53:20.002%2B02:00", ["t001", "t000"]),
        ("created_from=2025-10-09t08:53:20.001z&created_to=2025-10-09T08:53:20.002-00:00", ["t001"]),
        ("mode=plan&engine=gpt&metadata.project=atlas&status=completed", ["t003"]),
    ],
)
def test_the_list_can_be_filtered(server: CalledServer, query: str, expected: list[str]) -> None:
    """By every field of a summary that has a filter; a listed task matches all given filters."""
    add(server, 0)
    add(server, 1, finished=True, metadata={"project": "atlas", "a.b": ""})
    waiting: dict[str, Any] = {"status": Status.PLANNED, "approval": "awaited"}
    add(server, 2, mode=Mode.PLAN, metadata={"project": "atlas", "run": "4 2"}, **waiting)
    add(server, 3, finished=True, mode=Mode.PLAN, metadata={"project": "atlas"})

    assert ids(server, query) == expected


def test_a_summary_has_the_metadata_that_the_task_was_created_with(server: CalledServer) -> None:
    """The same as in the task itself, and the list can be filtered by it."""
    metadata = {"project": "ätlas", "run": "42"}
    task_id = server.post({"prompt": "Hello.", "metadata": metadata}).json["task_id"]
    server.post({"prompt": "Hello."})

    listed = server.get("tasks?metadata.run=42&metadata.project=%C3%A4tlas").json["tasks"]

    assert [(task["task_id"], task["metadata"], task["awaiting_approval"]) for task in listed] == [
        (task_id, metadata, False)
    ]
    assert server.get(f"tasks/{task_id}").json["metadata"] == metadata


def test_a_task_without_metadata_in_its_state_still_shows_it(server: CalledServer) -> None:
    """Version 0.1 wrote such states; the metadata is in the request. Only the summary lacks it."""
    task = a_task()
    server.store.add(task, a_request(metadata={"run": "42"}))

    assert server.get(f"tasks/{task.task_id}").json["metadata"] == {"run": "42"}
    assert server.get("tasks").json["tasks"][0]["metadata"] == {}


def test_the_list_does_not_contain_tasks_of_another_tenant(server: CalledServer) -> None:
    """The list is empty although another tenant has a task."""
    server.store.add(a_task(tenant="another"), a_request())

    assert ids(server, "") == []


@pytest.mark.parametrize(
    ("query", "named"),
    [
        *((f"page_size={value}", "page_size") for value in ("0", "101", "-1", "abc", "1.5", "", "9" * 5_000, "%00")),
        *((f"status={value}", "Queued, Processing, Planned") for value in ("Unknown", "", "%F0%9F%8C%8D", "%FF")),
        *((f"role={value}", "role") for value in ("Missing-Agent", "", "%00", "Ch%D0%B0t-Agent", "x" * 101)),
        *((f"page_token={value}", "page_token") for value in ("garbage", "00", "%00", "%F0%9F%8C%8D", "x" * 501)),
        ("page_token=" + b"000000000000001".hex(), "page_token"),
        ("page_token=" + b"x#y".hex(), "page_token"),
        ("page_token=" + "ff" * 9, "page_token"),
    ],
)
def test_an_invalid_value_is_refused_by_name(shared_server: CalledServer, query: str, named: str) -> None:
    """422 with one sentence, which lists the allowed values if they are few."""
    answer = shared_server.get(f"tasks?{query}")

    assert (answer.status, named in answer.detail) == (422, True)
    assert answer.json["errors"][0]["pointer"] == f"/{query.partition('=')[0]}"


def test_an_unknown_role_is_refused_with_the_known_ones(shared_server: CalledServer) -> None:
    """With the same sentence as in `POST /tasks`."""
    assert "Chat-Agent, " in shared_server.get("tasks?role=Missing-Agent").detail
