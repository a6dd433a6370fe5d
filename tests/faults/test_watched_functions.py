"""A reader follows a plan by long poll while a function's process is killed, and another one is started."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aws_local.gateway import Gateway
from faults.deployment import Crashed, Deployment, deployed
from faults.lambdas import Environment
from faults.ledger import Ledger
from faults.readers import TEXT, wrong_plan
from support import fake_engine, three_steps
from support.aws_emulators import Substrate as Emulator
from support.command_line import COMMAND
from support.deployment import an_event

PIECE_DELAY_S = 0.25
IN_A_POLL_S = 0.3
"""How long after an event the command is surely in its next long poll."""


@contextmanager
def gateway_to(api: Environment, died: list[str]) -> Iterator[Gateway]:
    """Serve the API function over HTTP, one call at a time; note in `died` the calls that its process died of."""
    one_at_a_time = threading.Lock()

    def invoke(event: Any) -> Any:
        with one_at_a_time:
            answer = api.invoke(event)
        if answer is None:
            died.append(event["rawPath"])
            raise Crashed(api.name)
        return answer

    with Gateway(invoke, port=0) as gateway:
        thread = threading.Thread(target=gateway.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield gateway
        gateway.shutdown()
        thread.join()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("killed", ["worker", "api"])
def test_a_watched_plan_ends_with_one_answer_although_a_function_dies(
    ministack_substrate: Emulator, tmp_path: Path, ledger: Ledger, killed: str
) -> None:
    """The command asks again by itself: it misses nothing and gets nothing twice."""
    died = list[str]()
    with (
        fake_engine.fake_engine(answer=three_steps.answer, piece_delay_s=PIECE_DELAY_S) as engine,
        deployed(ministack_substrate, engine, tmp_path) as deployment,
        deployment.working(1),
    ):
        api = deployment.environment("api", "lambda_api.handler")
        struck = api if killed == "api" else of_name(deployment, "worker-0")
        with gateway_to(api, died) as gateway, watching(gateway.url) as command:
            assert command.stdout is not None
            shown = [json.loads(line) for line in until_text(command.stdout)]
            asked = len(engine.seen)
            time.sleep(IN_A_POLL_S)
            struck.kill()
            shown += map(json.loads, command.stdout)
            code = command.wait(10)

    found = [*wrong_plan(shown), *([] if code == 0 else [f"the command ended with {code}"])]
    note = f"{len(shown)} events; {asked} engine calls before the kill, {len(engine.seen)} in all"
    ledger.enter(f"a watched plan, {killed} killed", "ministack", 1, found, note)
    items = {event["item"] for event in shown if event["event"] == TEXT}
    assert struck.kills == 1
    assert (len(died) > 0, len(items) > len(three_steps.STEPS) + 1) == (killed == "api", killed == "worker")


def of_name(deployment: Deployment, name: str) -> Environment:
    return next(environment for environment in deployment.environments if environment.name == name)


@contextmanager
def watching(url: str) -> Iterator[subprocess.Popen[bytes]]:
    token = an_event("api-v2-post-task")["headers"]["authorization"].removeprefix("Bearer ")
    arguments = ["submit", "--stream", "--mode", "Plan", "--url", url, three_steps.PROMPT]
    environment = {**os.environ, "LLM_SERVER_API_KEY": token}
    with subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as command:
        try:
            yield command
        finally:
            command.kill()


def until_text(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Yield lines up to the first piece of text."""
    for line in lines:
        yield line
        if json.loads(line)["event"] == TEXT:
            return
