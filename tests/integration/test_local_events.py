"""With the table that `make aws-local` fills, every file in `events/` does what its name says, as it is in git."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from aws_local import events
from llm_server.orchestration.access.tokens import digest_of
from llm_server.orchestration.domain.api_key import SCOPES
from llm_server.orchestration.domain.status import Status
from llm_server.storage.dynamodb.api_keys import DynamoKeys
from llm_server.storage.dynamodb.store import DynamoStore
from support.aws_emulators import Substrate
from support.deployment import TASK_ID

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("LLM_SERVER_", "AWS_"))}
EVENTS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "events").glob("*.json")}
PATHS = {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tools'}"}
WORKER = {"sqs-batch", "sweep"}
EXPECTED = {
    "api-v1-get-metrics": 200,
    "api-v1-post-task": 202,
    "api-v2-cancel-task": 200,
    "api-v2-delete-task": 204,
    "api-v2-get-metrics": 200,
    "api-v2-get-task": 200,
    "api-v2-list-tasks": 200,
    "api-v2-post-task": 202,
    "api-v2-post-task-base64": 202,
    "api-v2-retry-task": 202,
    "api-v2-switch-engine-off": 200,
    "api-v2-switch-engine-on": 200,
}
TASKS = {
    name: event["pathParameters"]["proxy"].split("/")[3]
    for name, event in EVENTS.items()
    if name in ("api-v2-cancel-task", "api-v2-delete-task", "api-v2-get-task", "api-v2-retry-task")
}
IN_BATCH = {found for record in EVENTS["sqs-batch"]["Records"] for found in TASK_ID.findall(record["body"])}
OF_ANOTHER = {"AWS_ENDPOINT_URL_DYNAMODB": "http://127.0.0.1:1", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}
"""What a shell may set to work with another emulator or with AWS, where the key of the events must not get."""
# Stands in for `sam local invoke`, which needs Docker: a process with the variables of the written file.
INVOKE = """
import asyncio, importlib, json, sys
from aws_local.invocation import LambdaContext

asyncio.set_event_loop(asyncio.new_event_loop())
answers = {}
for name, module, event in json.load(sys.stdin):
    handler = importlib.import_module(module).handler
    answers[name] = handler(event, LambdaContext({"MemorySize": 256, "Timeout": 30}, name=name))
json.dump(answers, sys.stdout)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run `make aws-local`; yield the folder in which it wrote the addresses of its emulator."""
    where = tmp_path_factory.mktemp("aws-local")
    process = subprocess.Popen(
        [sys.executable, "-m", "aws_local", "--no-gateway"],
        env=ENVIRONMENT | PATHS | OF_ANOTHER,
        cwd=where,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    printed = next((line for line in process.stdout if "that the files in events/ name" in line), "")
    assert printed, f"It ended with {process.wait()}."
    yield where
    process.terminate()
    process.communicate(timeout=20)


def invoked(folder: Path, *names: str) -> dict[str, Any]:
    """Invoke each event's function in a new process; return the answers."""
    variables = json.loads((folder / ".llm-server/sam-env.json").read_text(encoding="utf-8"))["Parameters"]
    reached = {name: value.replace("host.docker.internal", "127.0.0.1") for name, value in variables.items()}
    account = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    modules = {name: "llm_server.lambda_worker" if name in WORKER else "llm_server.lambda_api" for name in names}
    ran = subprocess.run(
        [sys.executable, "-c", INVOKE],
        input=json.dumps([[name, modules[name], EVENTS[name]] for name in names]),
        env=ENVIRONMENT | PATHS | account | reached,
        capture_output=True,
        text=True,
        check=True,
    )
    answers: dict[str, Any] = json.loads(ran.stdout)
    return answers


def bodies(folder: Path, *names: str) -> list[Any]:
    answers = invoked(folder, *names)
    return [json.loads(answers[name]["body"]) for name in names]


def test_the_table_gets_the_key_and_exactly_the_tasks_that_the_events_name(ministack_substrate: Substrate) -> None:
    dynamodb, table = ministack_substrate.dynamodb, ministack_substrate.table
    events.fill(ministack_substrate.made, dynamodb)
    [key] = DynamoKeys(dynamodb, table).all_keys()
    page = DynamoStore(dynamodb, table, draw=Random(0).randrange).page(events.TENANT, size=100)

    assert (key.key_id, key.digest, key.tenant, key.scopes) == ("000000000001", digest_of("0" * 64), "local", SCOPES)
    assert {task.task_id: task.status for task in page.tasks} == {
        TASKS["api-v2-get-task"]: Status.COMPLETED,
        TASKS["api-v2-retry-task"]: Status.FAILED,
        TASKS["api-v2-cancel-task"]: Status.QUEUED,
        TASKS["api-v2-delete-task"]: Status.QUEUED,
        **dict.fromkeys(IN_BATCH, Status.QUEUED),
    }


def test_each_event_that_changes_a_task_has_a_task_of_its_own() -> None:
    named = [task_id for event in EVENTS.values() for task_id in set(TASK_ID.findall(json.dumps(event)))]

    assert sorted(named) == sorted({*TASKS.values(), *IN_BATCH})
    assert len(named) == 6


def test_the_messages_of_the_batch_have_the_checksums_of_their_bodies() -> None:
    for record in EVENTS["sqs-batch"]["Records"]:
        assert record["md5OfBody"] == hashlib.md5(record["body"].encode(), usedforsecurity=False).hexdigest()


def test_a_stored_task_is_read_and_listed(folder: Path) -> None:
    task, listed = bodies(folder, "api-v2-get-task", "api-v2-list-tasks")

    assert (task["status"], bool(task["result"])) == ("Completed", True)
    assert {found["status"] for found in listed["tasks"]} == {"Queued"}


def test_a_sweep_and_a_warm_up_are_harmless(folder: Path) -> None:
    """The sample tasks that wait are left alone, so that the events which name them keep working."""
    answers = invoked(folder, "sweep", "warm-up")

    assert answers["sweep"] == {"woken": 0}
    assert "ignored" in answers["warm-up"]


def test_a_batch_names_tasks_that_are_carried_out(folder: Path) -> None:
    waiting = bodies(folder, "api-v2-list-tasks")[0]["tasks"]
    answer = invoked(folder, "sqs-batch")["sqs-batch"]
    left = bodies(folder, "api-v2-list-tasks")[0]["tasks"]

    assert {task["task_id"] for task in waiting} >= IN_BATCH
    assert answer == {"batchItemFailures": []}
    assert {task["task_id"] for task in left}.isdisjoint(IN_BATCH)


def test_every_event_of_the_api_does_what_its_name_says(folder: Path) -> None:
    answers = invoked(folder, *EXPECTED)

    assert EVENTS.keys() == EXPECTED.keys() | WORKER | {"warm-up"}
    assert {name: answer["statusCode"] for name, answer in answers.items()} == EXPECTED
    shown = {name: json.loads(answer["body"]) for name, answer in answers.items() if answer["body"]}
    assert shown["api-v2-cancel-task"]["status"] == "Cancelled"
    assert shown["api-v2-retry-task"]["status"] == "Queued"
    assert [shown[f"api-v2-switch-engine-{way}"]["toggle"] for way in ("off", "on")] == [False, True]
