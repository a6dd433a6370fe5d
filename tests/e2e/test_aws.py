"""The AWS path on an emulator, without Docker: table and queue of template.yaml, and events for both handlers."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from typer.testing import CliRunner

from llm_server.cli.app import app
from support.deployment import TASK_ID, Deployment, about, an_event


def test_a_prompt_goes_from_the_api_through_the_queue_to_an_answer(deployment: Deployment) -> None:
    task_id = deployment.submit("Write a haiku about queues.")
    queued, waiting = deployment.get(task_id), deployment.metrics()
    delivered = deployment.deliver_all()
    done, finished = deployment.get(task_id), deployment.metrics()

    assert (queued["status"], waiting["queue_length"], waiting["success_rate"]) == ("Queued", 1, None)
    assert delivered == 1
    assert done["status"] == "Completed"
    assert done["result"].startswith("No LLM is configured.")
    assert "deploy with its name as the parameter OpenAIKeyName or AnthropicKeyName" in done["result"]
    assert "docs/aws.md" in done["result"]
    assert "Ollama" not in done["result"]
    assert (finished["queue_length"], finished["active_tasks"], finished["success_rate"]) == (0, 0, 100.0)


@pytest.mark.parametrize("name", ["api-v2-post-task", "api-v2-post-task-base64", "api-v1-post-task"])
def test_every_form_of_api_gateway_event_creates_a_task(deployment: Deployment, name: str) -> None:
    answer = deployment.call(an_event(name))

    assert answer["statusCode"] == 202, answer
    assert set(answer["json"]) == {"task_id", "status", "result", "error"}
    assert answer["json"]["status"] == "Queued"


@pytest.mark.parametrize(
    ("body", "code"),
    [("a", "body_not_base64"), ("?", "body_empty"), ("eyJwcm9tcHQiOiAieCJ9=a", "body_not_base64")],
)
def test_a_body_that_is_not_valid_base64_is_the_callers_fault(deployment: Deployment, body: str, code: str) -> None:
    """Characters outside the alphabet are ignored, so the second body is empty after decoding."""
    answer = deployment.call(an_event("api-v2-post-task") | {"body": body, "isBase64Encoded": True})

    assert answer["statusCode"] == 400, answer
    assert (answer["json"]["code"], answer.get("isBase64Encoded", False)) == (code, False)
    assert answer["headers"]["content-type"] == "application/problem+json"


@pytest.mark.parametrize("name", ["api-v2-post-task", "api-v1-post-task"])
@pytest.mark.parametrize(("given", "is_taken"), [("caller-7", True), ("no id\r\n", False), ("", False)])
def test_the_answer_to_invalid_base64_has_the_headers_of_every_answer(
    deployment: Deployment, name: str, given: str, is_taken: bool
) -> None:
    """Such a body never reaches the app, which adds the headers to other answers."""
    event = an_event(name) | {"body": "a", "isBase64Encoded": True}
    event["headers"] |= {"X-Request-Id": given}
    refused, usual = (deployment.call(asked)["headers"] for asked in (event, an_event("api-v2-get-metrics")))

    of_every_answer = usual.keys() - {"x-request-id", "content-length", "content-type"}
    assert {name: refused[name] for name in of_every_answer} == {name: usual[name] for name in of_every_answer}
    assert (refused["x-request-id"] == given, len(refused["x-request-id"]) >= 8) == (is_taken, True)


def test_a_message_contains_only_the_task_id(deployment: Deployment) -> None:
    """Prompts and keys can therefore never be in a dead letter."""
    task_id = deployment.submit("Say hello.")
    received = deployment.on.sqs.receive_message(QueueUrl=deployment.on.queue_url, MessageAttributeNames=["All"])

    [message] = received["Messages"]
    assert json.loads(message["Body"]) == {"task": f"local/{task_id}"}
    assert "MessageAttributes" not in message


def test_a_task_needs_one_sqs_request_of_the_functions(deployment: Deployment) -> None:
    """Lambda receives and deletes messages in batches, which makes three SQS requests for a task at most."""
    deployment.submit("Say hello.")
    deployment.deliver_all()

    assert deployment.calls("ApiFunction", "sqs") == ["SendMessage"]
    assert deployment.calls("WorkerFunction", "sqs") == []


@pytest.mark.parametrize("name", ["api-v2-get-metrics", "api-v1-get-metrics"])
def test_every_form_of_api_gateway_event_reads_the_nine_metrics(deployment: Deployment, name: str) -> None:
    answer = deployment.call(an_event(name))

    assert answer["statusCode"] == 200
    assert len(answer["json"]) == 9


def test_an_engine_switched_by_the_api_function_is_switched_for_the_worker(deployment: Deployment) -> None:
    """The functions share only the table, and the worker's process has not read the engines before."""
    task_id = deployment.submit("Say hello.")

    answer = deployment.call(an_event("api-v2-switch-engine-off"))
    deployment.deliver_all()

    assert (answer["statusCode"], answer["json"]["toggle"], answer["json"]["status"]) == (200, False, "disabled")
    assert deployment.metrics()["llm_status"] == {"embedded": "disabled"}
    waiting = deployment.get(task_id)
    assert (waiting["status"], waiting["attempts"]) == ("Queued", [])
    assert waiting["waiting_for"] == "an engine that is switched on and has credentials"


@pytest.mark.parametrize("name", ["api-v2-post-task", "api-v2-get-metrics", "api-v1-post-task", "api-v1-get-metrics"])
def test_a_call_without_a_key_is_refused(deployment: Deployment, name: str) -> None:
    """The gateway's routes are open, so the function checks the key. No task is stored or queued."""
    event = an_event(name)
    for headers in (event["headers"], event.get("multiValueHeaders", {})):
        headers.pop("authorization" if "v2" in name else "Authorization", None)
    answer = deployment.call(event)

    assert (answer["statusCode"], answer["headers"]["www-authenticate"]) == (401, "Bearer")
    assert "A valid API key is needed" in answer["json"]["detail"]
    assert deployment.metrics()["total_requests"] == 0


def test_a_deployment_without_keys_refuses_calls(deployment: Deployment) -> None:
    """An embedded server on loopback would accept them."""
    key: Any = {"pk": {"S": "KEYS"}, "sk": {"S": "000000000001"}}
    deployment.on.dynamodb.delete_item(TableName=deployment.on.table, Key=key)
    event = an_event("api-v2-get-metrics")
    event["headers"] |= {"host": "localhost"}
    del event["headers"]["authorization"]

    assert deployment.call(event)["statusCode"] == 401


def test_behind_an_authorizer_the_key_is_sent_in_x_api_key(deployment: Deployment) -> None:
    """The header Authorization then belongs to the identity provider."""
    event = an_event("api-v2-get-metrics")
    token = event["headers"]["authorization"].removeprefix("Bearer ")
    event["headers"] |= {"authorization": "Bearer eyJhbGciOi.J9.sig", "x-api-key": token}

    assert deployment.call(event)["statusCode"] == 200


def test_a_key_created_on_the_command_line_is_accepted(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command needs the table's name and AWS credentials, but not the queue.

    The function applies the key's limits.
    """
    monkeypatch.delenv("LLM_SERVER_QUEUE_URL")
    limits = ["--tasks-in-flight", "1", "--requests-per-minute", "9", "--usd-per-day", "2"]
    made = CliRunner().invoke(app, ["keys", "create", "--tenant", "acme", "--scope", "tasks", *limits])
    event = an_event("api-v2-post-task")
    event["headers"]["authorization"] = f"Bearer {made.stdout.strip()}"
    answers = [deployment.call(event) for _ in range(2)]
    deployment.deliver_all()
    after = deployment.call(event)

    assert made.exit_code == 0, made.stderr
    assert [answer["statusCode"] for answer in (*answers, after)] == [202, 429, 202]
    assert after["headers"]["ratelimit"].startswith('"requests";r=6;')


def test_the_worker_executes_a_plan(deployment: Deployment) -> None:
    task_id = deployment.submit("Design a cache, then implement it, then test it.", mode="Plan")
    deployment.deliver_all()
    task = deployment.get(task_id)

    assert task["status"] == "Completed"
    assert {step["status"] for step in task["plan"]["steps"]} == {"Completed"}
    assert (
        task["receipt"]["calls"]
        == len(task["attempts"])
        == 2 + sum(1 + (step["review"] is not None) for step in task["plan"]["steps"])
    )


def test_a_task_is_created_once_cancelled_and_deleted(deployment: Deployment) -> None:
    """The same Idempotency-Key twice, then the events of the other calls, on one table and queue."""
    event = an_event("api-v2-post-task")
    event["headers"]["idempotency-key"] = '"k-1"'
    first, again = deployment.call(event), deployment.call(event)
    task_id = first["json"]["task_id"]
    answers = [deployment.call(about(task_id, f"api-v2-{word}-task")) for word in ("retry", "cancel", "delete", "get")]

    assert (first["statusCode"], again["statusCode"]) == (202, 200)
    assert again["json"]["task_id"] == task_id
    assert again["headers"]["idempotent-replayed"] == "true"
    assert [answer["statusCode"] for answer in answers] == [409, 200, 204, 404]
    assert (deployment.metrics()["total_requests"], deployment.metrics()["queue_length"]) == (1, 0)
    assert deployment.deliver_all() == 1


def test_a_listing_shows_the_submitted_tasks(deployment: Deployment) -> None:
    ids = [deployment.submit(f"Say {n}.") for n in range(3)]
    page = deployment.call(an_event("api-v2-list-tasks") | {"rawQueryString": ""})["json"]

    assert sorted(task["task_id"] for task in page["tasks"]) == sorted(ids)


def test_a_bad_record_does_not_harm_the_others_of_its_batch(deployment: Deployment) -> None:
    """A malformed message and an unknown id are acknowledged; the valid task is processed."""
    task_id = deployment.submit("Write a haiku about queues.")
    event = an_event("sqs-batch")
    event["Records"][0]["body"] = TASK_ID.sub(task_id, event["Records"][0]["body"])
    answer = deployment.work(event)

    assert answer == {"batchItemFailures": []}
    assert deployment.get(task_id)["status"] == "Completed"


def test_messages_that_failed_are_delivered_again(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its table the worker returns every well-formed record of the batch."""
    monkeypatch.setenv("LLM_SERVER_TABLE", "missing")
    deployment.names["missing"] = "Table.Arn"
    deployment.start("WorkerFunction")
    event = an_event("sqs-batch")
    answer = deployment.work(event)

    given_back = {failure["itemIdentifier"] for failure in answer["batchItemFailures"]}
    well_formed = {r["messageId"] for r in event["Records"] if r["body"].startswith('{"task"')}
    assert given_back == well_formed != set()


def test_the_sweep_wakes_a_task_whose_message_was_lost(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_SERVER_SWEEP_S", "1")
    deployment.start("ApiFunction")
    task_id = deployment.submit("Write a haiku about queues.")
    deployment.on.sqs.purge_queue(QueueUrl=deployment.on.queue_url)
    time.sleep(1.1)
    answer = deployment.work(an_event("sweep"))
    delivered = deployment.deliver_all()

    assert (answer, delivered) == ({"woken": 1}, 1)
    assert deployment.get(task_id)["status"] == "Completed"


def test_a_deadline_is_kept_however_long_the_queue_is(deployment: Deployment) -> None:
    """The schedule invokes the function directly: no message of the queue is delivered here."""
    ids = [deployment.submit("Say hello.", limits={"deadline_s": 1}) for _ in range(3)]
    time.sleep(1.1)
    deployment.work(an_event("sweep"))

    assert {deployment.get(task_id)["status"] for task_id in ids} == {"Failed"}
    assert deployment.deliver_all() == len(ids)


@pytest.mark.parametrize("function", ["WorkerFunction", "ApiFunction"])
@pytest.mark.parametrize("days", [1, 0])
def test_a_final_task_expires_after_keep_days(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, function: str, days: int
) -> None:
    """The worker finishes a processed task, and the API function a cancelled one; 0 days means never."""
    monkeypatch.setenv("LLM_SERVER_KEEP_DAYS", str(days))
    deployment.start(function)
    task_id = deployment.submit("Say hello.", mode="Chat")
    if function == "ApiFunction":
        deployment.ask("POST", f"/tasks/{task_id}/cancel")
    deployment.deliver_all()
    key: Any = {"pk": {"S": f"T#local#{task_id}"}, "sk": {"S": "STATE"}}
    state = deployment.on.dynamodb.get_item(TableName=deployment.on.table, Key=key)["Item"]

    finished_ms = json.loads(state["body"]["S"])["finished_ms"]
    assert state.get("ttl") == ({"N": str(-(-finished_ms // 1000) + 24 * 3600)} if days else None)


def test_a_quote_reads_what_finished_and_writes_nothing(deployment: Deployment) -> None:
    """At most two queries of keys and two batches of states; the tenant has one task like it."""
    deployment.submit("Say hello.", mode="Chat")
    deployment.deliver_all()
    before = deployment.calls("ApiFunction", "dynamodb")
    answer = deployment.ask("POST", "/tasks/quote", {"prompt": "Say hello.", "mode": "Chat"})
    made = deployment.calls("ApiFunction", "dynamodb")[len(before) :]

    assert answer["statusCode"] == 200
    assert (answer["json"]["quote"]["sample"], answer["json"]["quote"]["ceiling_microusd"]) == (1, 0)
    assert set(made) <= {"Query", "BatchGetItem", "GetItem"}
    assert len(made) <= 6
