"""Each function's role allows exactly what the function does, on each resource.

The calls are recorded while the function does everything it can. `tests/support/deployment.py` checks the roles in
every other test of both functions, too.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import boto3
import pytest

from llm_server.orchestration.domain.task import DAY_MS, TaskRef
from llm_server.storage.dynamodb import items
from llm_server.storage.dynamodb.store import DynamoStore
from support.aws_emulators import translated
from support.builders import a_request, a_task
from support.deployment import ENGINES, Deployment, allowed, an_event
from support.fake_engine import FakeEngine, fake_engine, status
from support.template_stack import resolved

LOGS = {"logs:CreateLogStream", "logs:PutLogEvents"}
TRACES = {"xray:PutTelemetryRecords", "xray:PutTraceSegments"}
BY_LAMBDA = {
    "ApiFunction": {"ApiLogGroup.Arn": LOGS, "*": TRACES},
    "WorkerFunction": {
        "WorkerLogGroup.Arn": LOGS,
        "*": TRACES,
        "Queue.Arn": {"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"},
    },
}
"""Permissions that Lambda uses on behalf of a function, which no emulator shows: logs, traces, and reading the queue.

The three permissions of SQS are exactly those that Lambda needs:
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-configure-lambda-function-trigger.html
No function reads Secrets Manager here; docs/aws.md says that an engine's key comes from SSM.
"""
CONFIG = """
[defaults]
answer_gate = false
[engines.gpt]
kind = "openai"
base_url = "{base_url}"
api_key = "env:OPENAI_API_KEY"
source = "api"
model = "some.model"
price = {{input = 1, output = 2}}
[engines.claude]
kind = "anthropic"
base_url = "{url}"
api_key = "env:ANTHROPIC_API_KEY"
source = "api"
model = "some.model"
price = {{input = 1, output = 2}}
[engines.nova]
kind = "bedrock"
base_url = "{url}"
region = "us-east-1"
source = "api"
model = "some.model"
price = {{input = 1, output = 2}}
"""


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    """Stands for every vendor, including the Converse API of Bedrock."""
    with fake_engine() as engine:
        yield engine


@pytest.fixture
def full(deployment: Deployment, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """A deployment with one engine of each kind, whose keys are in SSM."""
    ssm = boto3.client("ssm", endpoint_url=deployment.on.endpoint_url)
    for name in ("OpenAIKeyName", "AnthropicKeyName"):
        ssm.put_parameter(Name=ENGINES[name], Value="a-key", Type="SecureString", Overwrite=True)
    given = resolved(translated(), **ENGINES).environment("WorkerFunction")
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, given[name])
    config = tmp_path / "engines.toml"
    config.write_text(CONFIG.format(base_url=engine.base_url, url=engine.url))
    monkeypatch.setenv("LLM_SERVER_CONFIG", str(config))
    for function in ("ApiFunction", "WorkerFunction"):
        deployment.start(function)
    return deployment


def test_each_role_allows_exactly_what_its_function_does(full: Deployment, engine: FakeEngine) -> None:
    everything(full, engine)

    used = {function: full.rights_used(function) for function in BY_LAMBDA}
    used["WorkerFunction"] |= on_bedrock(engine)
    for function, by_lambda in BY_LAMBDA.items():
        for resource, actions in by_lambda.items():
            used[function].setdefault(resource, set()).update(actions)
    assert used == {function: allowed(function) for function in BY_LAMBDA}


def everything(full: Deployment, engine: FakeEngine) -> None:
    """Make each call of the API, run each mode of a task and each kind of engine, and let the sweep find work."""
    each_mode_and_engine(full)
    each_end_of_a_task(full, engine)
    each_reading(full)
    keys_and_switches(full)
    what_the_sweep_finds(full)


def each_mode_and_engine(full: Deployment) -> None:
    tasks = [full.submit("Say hello.", engine=name) for name in ("gpt", "claude", "nova")]
    tasks += [full.submit("Say hello.", mode=mode) for mode in ("Agent", "Plan")]
    for _ in range(2):
        full.ask("POST", "/tasks", {"prompt": "Say hello."}, idempotency_key="k-1")
    full.ask("POST", "/tasks?dry_run=true", {"prompt": "Say hello."})
    approved, rejected = (full.submit("Say hello.", mode="Plan", plan_approval=True) for _ in range(2))
    full.deliver_all()
    for task_id, word in ((approved, "approve"), (rejected, "reject")):
        plan_hash = full.get(task_id)["plan"]["hash"]
        assert full.ask("POST", f"/tasks/{task_id}/{word}", {"plan_hash": plan_hash})["statusCode"] == 200
    full.deliver_all()
    assert [full.get(task_id)["status"] for task_id in (*tasks, approved)] == ["Completed"] * 6


def each_end_of_a_task(full: Deployment, engine: FakeEngine) -> None:
    engine.script(status(400))
    failed, cancelled = full.submit("Say hello.", engine="gpt"), full.submit("Say hello.")
    assert full.ask("POST", f"/tasks/{cancelled}/cancel")["statusCode"] == 200
    full.deliver_all()
    assert full.ask("POST", f"/tasks/{failed}/retry")["statusCode"] == 202
    full.deliver_all()
    assert full.ask("DELETE", f"/tasks/{failed}")["statusCode"] == 204


def each_reading(full: Deployment) -> None:
    paths = ("/tasks", "/tasks?status=Completed", "/metrics", "/usage", "/catalog", "/engines", "/keys", "/health")
    assert {full.ask("GET", path)["statusCode"] for path in paths} == {200}


def keys_and_switches(full: Deployment) -> None:
    limits = {"requests_per_minute": 9, "tasks_in_flight": 2, "usd_per_day": 2}
    made = full.ask("POST", "/keys", {"tenant": "acme", "scopes": ["tasks"], "limits": limits})["json"]
    answer = full.ask("POST", "/tasks", {"prompt": "Say hello."}, authorization=f"Bearer {made['token']}")
    full.deliver_all()
    assert answer["statusCode"] == 202
    assert full.ask("DELETE", f"/keys/{made['key_id']}")["statusCode"] == 204
    for toggle in (False, None):
        assert full.ask("PATCH", "/engines/gpt", {"toggle": toggle})["statusCode"] == 200


def what_the_sweep_finds(full: Deployment) -> None:
    """A task whose message was lost, one that has been open for five days, and an interrupted deletion."""
    on, now_ms = full.on, time.time_ns() // 1_000_000
    store = DynamoStore(on.dynamodb, on.table, draw=lambda n: 0)
    for age_ms in (200_000, 5 * DAY_MS):
        store.add(a_task(created_ms=now_ms - age_ms), a_request())
    broken_off = TaskRef("local", "broken-off")
    stone: Any = items.gravestone(broken_off, now_ms + DAY_MS) | items.in_open("broken-off", now_ms - 1)
    for item in (stone, stone | items.key(broken_off, "REQ")):
        on.dynamodb.put_item(TableName=on.table, Item=item)
    assert full.work(an_event("sweep")) == {"woken": 2}
    assert full.deliver_all() == 2
    assert "Item" not in on.dynamodb.get_item(TableName=on.table, Key=items.key(broken_off, "REQ"))


def on_bedrock(engine: FakeEngine) -> dict[str, set[str]]:
    """Permissions of Converse: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html"""
    calls = [seen.path.split("/") for seen in engine.seen if seen.path.startswith("/model/")]
    assert {operation for _, _, _, operation in calls} == {"converse"}
    arn = "arn:aws:bedrock:us-east-1::foundation-model/{}"
    return {arn.format(unquote(model)): {"bedrock:InvokeModel"} for _, _, model, _ in calls}
