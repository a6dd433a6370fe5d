"""`GET /tasks`: newest first, filtered, page by page."""

from __future__ import annotations

import pytest

from llm_server.orchestration.domain.task import Task
from support.builders import NOW_MS, a_request, a_task, an_output, claimed
from support.in_process_server import CalledServer

SUMMARY = (
    *("task_id", "status", "error", "mode", "role", "profile", "engine", "waiting_for"),
    *("waiting_since", "receipt"),
    *("created_at", "updated_at", "finished_at"),
)


def add(server: CalledServer, number: int, *, role: str = "Chat-Agent", finished: bool = False) -> Task:
    """A stored task; a higher number is newer."""
    task = a_task(f"t{number:03}", created_ms=NOW_MS + number, role=role)
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


def test_without_a_task_the_list_is_empty(server: CalledServer) -> None:
    """An empty token ends it."""
    assert server.get("tasks").json == {"tasks": [], "next_page_token": ""}


def test_a_listed_task_has_its_state_and_no_texts(server: CalledServer) -> None:
    """Prompts and answers can be large; they are read one by one."""
    add(server, 1, finished=True)

    answer = server.get("tasks")
    (task,) = answer.json["tasks"]
    assert tuple(task) == SUMMARY
    assert (task["status"], task["engine"], task["receipt"]["cost_microusd"]) == ("Completed", "gpt", 300)
    assert b"secret" not in answer.body


def test_pages_go_from_the_newest_to_the_oldest(server: CalledServer) -> None:
    """Every task once, and the last page says that it is the last."""
    for number in range(7):
        add(server, number)

    seen, token, pages = [], "", 0
    while pages == 0 or token:
        page = server.get(f"tasks?page_size=3&page_token={token}").json
        seen += [task["task_id"] for task in page["tasks"]]
        token, pages = page["next_page_token"], pages + 1

    assert seen == [f"t{number:03}" for number in range(6, -1, -1)]
    assert pages == 3


def test_a_page_has_50_tasks_unless_asked_for_more_or_less(server: CalledServer) -> None:
    """At most 100."""
    for number in range(101):
        add(server, number)

    assert [len(ids(server, query)) for query in ("", "page_size=1", "page_size=100")] == [50, 1, 100]


def test_a_task_that_comes_in_between_moves_no_page(server: CalledServer) -> None:
    """The token is a place, not a number."""
    for number in range(4):
        add(server, number)
    token = server.get("tasks?page_size=2").json["next_page_token"]

    add(server, 9)

    assert ids(server, f"page_size=2&page_token={token}") == ["t001", "t000"]


def test_the_list_can_be_filtered_by_status_and_role(server: CalledServer) -> None:
    """Also by both, and across pages."""
    for number in range(8):
        add(server, number, role="Email-Agent" if number % 2 else "Chat-Agent", finished=number >= 4)

    assert ids(server, "status=Completed") == ["t007", "t006", "t005", "t004"]
    assert ids(server, "role=Email-Agent") == ["t007", "t005", "t003", "t001"]
    assert ids(server, "status=Queued&role=Email-Agent") == ["t003", "t001"]
    assert ids(server, "status=Failed") == []
    token = server.get("tasks?status=Completed&page_size=3").json["next_page_token"]
    assert ids(server, f"status=Completed&page_size=3&page_token={token}") == ["t004"]


def test_the_list_holds_no_task_of_another_tenant(server: CalledServer) -> None:
    """Nor does its own end change because of them."""
    server.store.add(a_task(tenant="another"), a_request())

    assert ids(server, "") == []


@pytest.mark.parametrize(
    ("query", "named"),
    [
        *((f"page_size={value}", "page_size") for value in ("0", "101", "-1", "abc", "1.5", "", "9" * 5_000, "%00")),
        *((f"status={value}", "'Queued', 'Processing'") for value in ("Unknown", "queued", "", "%F0%9F%8C%8D", "%FF")),
        *((f"role={value}", "role") for value in ("Nobody", "", "%00", "Ch%D0%B0t-Agent", "x" * 101)),
        *((f"page_token={value}", "page_token") for value in ("garbage", "00", "%00", "%F0%9F%8C%8D", "x" * 501)),
        ("page_token=" + b"000000000000001".hex(), "page_token"),
        ("page_token=" + b"x#y".hex(), "page_token"),
        ("page_token=" + "ff" * 9, "page_token"),
    ],
)
def test_an_odd_value_is_refused_by_name(shared_server: CalledServer, query: str, named: str) -> None:
    """422 with one sentence that says what is allowed where there are few."""
    answer = shared_server.get(f"tasks?{query}")

    assert (answer.status, named in answer.detail) == (422, True)
    assert answer.json["errors"][0]["pointer"] == f"/{query.partition('=')[0]}"


def test_an_unknown_role_is_refused_with_the_known_ones(shared_server: CalledServer) -> None:
    """As when a task is created."""
    assert "Chat-Agent, " in shared_server.get("tasks?role=Nobody").detail
