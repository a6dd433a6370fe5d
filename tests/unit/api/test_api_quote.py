"""`POST /tasks/quote` answers what `POST /tasks?dry_run=true` answers, at its own path."""

from __future__ import annotations

from support.in_process_server import CalledServer

BODY = {"prompt": "Fix this Python stack trace.", "metadata": {"ticket": "1"}}


def test_a_quote_answers_the_same_as_a_dry_run_and_stores_nothing(server: CalledServer) -> None:
    quote, dry = server.post(BODY, "tasks/quote"), server.post(BODY, "tasks?dry_run=true")

    assert quote.status == 200
    assert (quote.json, quote.json["mode"]) == (dry.json, "Agent")
    assert server.get("tasks").json["tasks"] == []
    assert server.get("metrics").json["total_requests"] == 0


def test_a_quote_validates_the_body_like_a_task(server: CalledServer) -> None:
    for body in ({"prompt": " "}, {"prompt": "x", "role": "Missing-Agent"}, {"prompt": "x", "promt": "x"}):
        quote, task = server.post(body, "tasks/quote"), server.post(body)

        assert (quote.status, quote.detail) == (422, task.detail)


def test_a_quote_takes_no_query_parameter(server: CalledServer) -> None:
    answer = server.post(BODY, "tasks/quote?dry_run=true")

    assert (answer.status, answer.detail) == (
        422,
        "Unknown query parameter 'dry_run'; this call takes no query parameters.",
    )


def test_a_quote_needs_the_scope_tasks(server: CalledServer) -> None:
    tasks, metrics = server.with_key("acme", "tasks"), server.with_key("acme", "metrics")

    assert tasks.post(BODY, "tasks/quote").status == 200
    assert metrics.post(BODY, "tasks/quote").status == 403


def test_the_path_of_quotes_is_not_a_task_id(server: CalledServer) -> None:
    """It accepts POST only; similar paths belong to tasks that do not exist."""
    for method in ("GET", "DELETE", "PUT"):
        answer = server.call(method, "tasks/quote")
        assert (answer.status, answer.headers["allow"]) == (405, "POST, OPTIONS"), method

    assert (server.get("tasks/quotes").status, server.get("tasks/quotes").detail) == (404, "No task has this id.")
    assert server.post({}, "tasks/quote/cancel").detail == "No task has this id."
