"""Run both Lambda handlers on an emulator, for the benchmarks that need them."""

import asyncio
import importlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests")]

from aws_local import ministack, resources, template  # noqa: E402 - from tools/, which is not part of the package
from aws_local.invocation import LambdaContext  # noqa: E402
from llm_server.storage.dynamodb.api_keys import DynamoKeys  # noqa: E402
from support.builders import a_key  # noqa: E402

Invoke = Callable[[Any], Any]


@dataclass(slots=True)
class Deployment:
    """The two handlers, their queue, and the number of their calls to AWS so far, by operation."""

    api: Invoke
    worker: Invoke
    sqs: Any
    queue_url: str
    dynamodb: tuple[Any, ...] = ()
    called: Counter[str] = field(default_factory=Counter)

    def submit(self, prompt: str, **fields: object) -> str:
        event = json.loads((ROOT / "events" / "api-v2-post-task.json").read_text(encoding="utf-8"))
        answer = self.api(event | {"body": json.dumps({"prompt": prompt, **fields}), "isBase64Encoded": False})
        assert answer["statusCode"] == 202, answer
        return str(json.loads(answer["body"])["task_id"])

    def get(self, task_id: str) -> Any:
        event = json.loads((ROOT / "events" / "api-v2-get-task.json").read_text(encoding="utf-8"))
        event["rawPath"] = event["requestContext"]["http"]["path"] = f"/api/v1/tasks/{task_id}"
        return json.loads(self.api(event)["body"])

    def messages(self) -> list[dict[str, str]]:
        """Receive and delete up to ten messages; return them as records of an SQS event."""
        received = self.sqs.receive_message(QueueUrl=self.queue_url, MaxNumberOfMessages=10).get("Messages", [])
        for message in received:
            self.sqs.delete_message(QueueUrl=self.queue_url, ReceiptHandle=message["ReceiptHandle"])
        return [{"messageId": message["MessageId"], "body": message["Body"]} for message in received]


@contextmanager
def deployment(**environment: str) -> Iterator[Deployment]:
    """Create the table and the queue of template.yaml on ministack, and import both handlers with them."""
    with ministack.running() as endpoint, _environment_kept():
        os.environ.update(
            AWS_ACCESS_KEY_ID="local",
            AWS_SECRET_ACCESS_KEY="local",
            AWS_DEFAULT_REGION=template.REGION,
            AWS_ENDPOINT_URL=endpoint,
        )
        sqs, dynamodb = boto3.client("sqs"), boto3.client("dynamodb")
        made = resources.make(template.translate(template.load()), dynamodb=dynamodb, sqs=sqs, prefix="bench")
        variables = made.stack.environment("WorkerFunction") | {"AWS_ENDPOINT_URL": endpoint}
        os.environ.update(variables | environment)
        # The API key of the events. It has no limits, because checking limits would add calls.
        DynamoKeys(dynamodb, made.table).add_key(a_key(key_id="000000000001"))
        names = ("llm_server.lambda_api", "llm_server.lambda_worker")
        api, worker = (importlib.import_module(name) for name in names)
        services = (api.handler.app.state.service, worker._service)
        clients = tuple(service._store._client for service in services)
        counted = Deployment(_api(api.handler), _worker(worker.handler), sqs, made.queue_url, clients)
        for service in services:
            _count(service, counted.called)
        yield counted
        for name in names:
            del sys.modules[name]


@contextmanager
def _environment_kept() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _api(handler: Any) -> Invoke:
    def invoke(event: Any) -> Any:
        asyncio.set_event_loop(asyncio.new_event_loop())
        return handler(event, LambdaContext({"MemorySize": 512, "Timeout": 29}, name="api"))

    return invoke


def _worker(handler: Any) -> Invoke:
    return lambda event: handler(event, LambdaContext({"MemorySize": 256, "Timeout": 180}, name="worker"))


def _count(service: Any, called: Counter[str]) -> None:
    """Count the requests that are sent to AWS, by operation."""
    for client in (service._store._client, service._worker._wakeups._queue._client):
        client.meta.events.register("before-send", lambda request, **_: called.update([_operation(request)]))


def _operation(request: Any) -> str:
    target = request.headers.get("X-Amz-Target", b"")
    return (target.decode() if isinstance(target, bytes) else target).rpartition(".")[2]
