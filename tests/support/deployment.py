"""Both functions with one table and one queue on an emulator; a call that a function's role forbids fails the test.

A pytest plugin, because of the fixture at its end.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from aws_local.invocation import Event, Handler, LambdaContext
from aws_local.pump import Pump
from aws_local.template import ACCOUNT, REGION
from llm_server.orchestration.domain.api_key import SCOPES
from llm_server.storage.dynamodb.api_keys import DynamoKeys
from support import canaries
from support.aws_emulators import Substrate, translated
from support.aws_observer import Observer, needed, observing
from support.builders import a_key
from support.template_stack import resolved, rights

EVENTS = Path(__file__).parents[2] / "events"
TASK_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
MODULES = {"ApiFunction": "llm_server.lambda_api", "WorkerFunction": "llm_server.lambda_worker"}
ROLES = {"ApiFunction": "ApiRole", "WorkerFunction": "WorkerRole"}
ENGINES: dict[str, Any] = {
    "OpenAIKeyName": "/llm/openai",
    "AnthropicKeyName": "/llm/anthropic",
    "BedrockModelArns": ["arn:aws:bedrock:us-east-1::foundation-model/some.model"],
}
"""Parameters of a deployment with every engine."""


class Deployment:
    """`names` maps the names of resources on the emulator to those of the template."""

    def __init__(self, on: Substrate, observers: Mapping[str, Observer], monkeypatch: pytest.MonkeyPatch) -> None:
        self.on = on
        self.names = {on.table: "Table.Arn", on.queue_url: "Queue.Arn"}
        for parameter in (ENGINES["OpenAIKeyName"], ENGINES["AnthropicKeyName"]):
            self.names[parameter] = f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter{parameter}"
        self._observers = observers
        self._monkeypatch = monkeypatch
        self._handlers: dict[str, Handler] = {}
        for function in MODULES:
            self.start(function)

    def start(self, function: str) -> None:
        """Import a handler again, as a cold start does."""
        sys.modules.pop(MODULES[function], None)
        self._turn_to(function)
        self._handlers[function] = importlib.import_module(MODULES[function]).handler

    def call(self, event: Event) -> Any:
        """Invoke the API function; return its answer with the decoded JSON body as `json`."""
        answer = self._invoke("ApiFunction", event)
        if answer["statusCode"] >= 400:
            canaries.check(str(answer))
        is_json = answer["body"] and "json" in answer["headers"]["content-type"]
        return answer | {"json": json.loads(answer["body"]) if is_json else None}

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Any:
        """Call the API with the API key of the events, as API Gateway does. A path below /v1 is one of the dialect."""
        event = an_event("api-v2-post-task")
        path, _, event["rawQueryString"] = path.partition("?")
        path = path if path.startswith("/v1/") else f"/api/v1{path}"
        event["rawPath"] = event["requestContext"]["http"]["path"] = path
        event["requestContext"]["http"]["method"] = method
        event["headers"] |= {name.replace("_", "-"): value for name, value in headers.items()}
        return self.call(event | {"body": json.dumps(body) if body else None, "isBase64Encoded": False})

    def submit(self, prompt: str, **fields: object) -> str:
        answer = self.ask("POST", "/tasks", {"prompt": prompt, **fields})
        assert answer["statusCode"] == 202, answer
        return str(answer["json"]["task_id"])

    def get(self, task_id: str) -> Any:
        event = an_event("api-v2-get-task")
        path = f"/api/v1/tasks/{task_id}"
        event["rawPath"] = event["requestContext"]["http"]["path"] = path
        return self.call(event)["json"]

    def metrics(self) -> Any:
        return self.call(an_event("api-v2-get-metrics"))["json"]

    def work(self, event: Event) -> Any:
        return self._invoke("WorkerFunction", event)

    def deliver(self) -> int:
        """Pass one batch of the queue's messages to the worker, as Lambda's event source does."""
        return self._pump().deliver()

    def deliver_all(self) -> int:
        return self._pump().deliver_all()

    def rights_used(self, function: str) -> dict[str, set[str]]:
        """Return the permissions that a function's calls needed so far, by resource of the template."""
        return needed(self._observers[function].asked, self.names)

    def calls(self, function: str, service: str) -> list[str]:
        """Return the operations that a function called on a service so far."""
        return [asked.operation for asked in self._observers[function].asked if asked.service == service]

    @property
    def clients(self) -> list[Any]:
        """Return the clients of both functions and of Lambda's event source."""
        api, worker = (sys.modules[MODULES[function]] for function in ("ApiFunction", "WorkerFunction"))
        services = api.handler.app.state.service, worker._service
        return [c for s in services for c in (s._store._client, s._intake._wakeups._queue._client)] + [self.on.sqs]

    def look_through(self) -> None:
        """Fail if a message of a function contains a prompt, an answer or a secret."""
        for observer in self._observers.values():
            canaries.check(str([asked.body for asked in observer.asked if asked.service == "sqs"]))

    def _pump(self) -> Pump:
        return Pump(self.on.sqs, queue_url=self.on.queue_url, queue_arn=self.on.made.queue_arn, invoke=self.work)

    def _invoke(self, function: str, event: Event) -> Any:
        self._turn_to(function)  # also for the clients it makes when they are first needed
        properties: Mapping[str, Any] = {"MemorySize": 256, "Timeout": 30}
        return self._handlers[function](event, LambdaContext(properties, name=function))

    def _turn_to(self, function: str) -> None:
        self._monkeypatch.setenv("AWS_ENDPOINT_URL", self._observers[function].url)


def an_event(name: str) -> Event:
    event: Event = json.loads((EVENTS / f"{name}.json").read_text(encoding="utf-8"))
    return event


def about(task_id: str, name: str) -> Event:
    """Return an event of `events/` for this task."""
    event: Event = json.loads(TASK_ID.sub(task_id, json.dumps(an_event(name))))
    return event


def allowed(function: str) -> dict[str, set[str]]:
    """Return what a function's role allows, by resource, in a deployment with every engine."""
    return rights(resolved(translated(), **ENGINES), ROLES[function])


@pytest.fixture
def deployment(ministack_substrate: Substrate, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    """Import both handlers with the environment of template.yaml; a call that its role forbids fails the test."""
    for name, value in ministack_substrate.environment.items():
        monkeypatch.setenv(name, value)
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    DynamoKeys(ministack_substrate.dynamodb, ministack_substrate.table).add_key(
        a_key(key_id="000000000001", scopes=SCOPES)  # the key whose token is in the events
    )
    loop = asyncio.new_event_loop()  # Mangum runs the app on the thread's loop
    asyncio.set_event_loop(loop)
    with ExitStack() as stack:
        endpoint = str(ministack_substrate.endpoint_url)
        observers = {function: stack.enter_context(observing(endpoint)) for function in MODULES}
        deployment = Deployment(ministack_substrate, observers, monkeypatch)
        yield deployment
    for module in MODULES.values():
        sys.modules.pop(module, None)
    asyncio.set_event_loop(None)
    loop.close()
    deployment.look_through()
    for function in MODULES:
        permitted = allowed(function)
        for resource, actions in deployment.rights_used(function).items():
            assert actions <= permitted.get(resource, set()), f"{function} may not do this to {resource}"
