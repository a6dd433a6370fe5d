"""`make aws-local` writes events that work: each does what its name says, on the tasks that are in the table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aws_local.events import SAMPLE_TASKS, SAMPLE_TOKEN, SAMPLES

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("LLM_SERVER_", "AWS_"))}
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
    """Run `make aws-local`; yield the folder in which it wrote its files."""
    where = tmp_path_factory.mktemp("aws-local")
    process = subprocess.Popen(
        [sys.executable, "-m", "aws_local", "--no-gateway"],
        env=ENVIRONMENT | PATHS,
        cwd=where,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    printed = next((line for line in process.stdout if "They were just written." in line), "")
    assert printed, f"It ended with {process.wait()}."
    yield where
    process.terminate()
    process.communicate(timeout=20)


def written(folder: Path) -> dict[str, Any]:
    files = sorted((folder / "events").glob("*.json"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}


def invoked(folder: Path, *names: str) -> dict[str, Any]:
    """Invoke each event's function in a new process; return the answers."""
    variables = json.loads((folder / ".llm-server/sam-env.json").read_text(encoding="utf-8"))["Parameters"]
    reached = {name: value.replace("host.docker.internal", "127.0.0.1") for name, value in variables.items()}
    account = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    modules = {name: "llm_server.lambda_worker" if name in WORKER else "llm_server.lambda_api" for name in names}
    ran = subprocess.run(
        [sys.executable, "-c", INVOKE],
        input=json.dumps([[name, modules[name], event] for name, event in written(folder).items() if name in names]),
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


def test_every_sample_is_written_with_the_key_and_the_tasks_of_this_emulator(folder: Path) -> None:
    texts = {name: json.dumps(event) for name, event in written(folder).items()}

    assert texts.keys() == {path.stem for path in SAMPLES.glob("*.json")} == EXPECTED.keys() | WORKER | {"warm-up"}
    for sample in (SAMPLE_TOKEN, *SAMPLE_TASKS):
        assert [name for name, text in texts.items() if sample in text] == []


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
    records = written(folder)["sqs-batch"]["Records"]
    named = [json.loads(r["body"])["task"].split("/")[1] for r in records if r["body"].startswith("{")]
    waiting = bodies(folder, "api-v2-list-tasks")[0]["tasks"]
    answer = invoked(folder, "sqs-batch")["sqs-batch"]
    left = bodies(folder, "api-v2-list-tasks")[0]["tasks"]

    assert len(named) == 2
    assert {task["task_id"] for task in waiting} >= set(named)
    assert answer == {"batchItemFailures": []}
    assert {task["task_id"] for task in left}.isdisjoint(named)


def test_every_event_of_the_api_does_what_its_name_says(folder: Path) -> None:
    answers = invoked(folder, *EXPECTED)

    assert {name: answer["statusCode"] for name, answer in answers.items()} == EXPECTED
    shown = {name: json.loads(answer["body"]) for name, answer in answers.items() if answer["body"]}
    assert shown["api-v2-cancel-task"]["status"] == "Cancelled"
    assert shown["api-v2-retry-task"]["status"] == "Queued"
    assert [shown[f"api-v2-switch-engine-{way}"]["toggle"] for way in ("off", "on")] == [False, True]
