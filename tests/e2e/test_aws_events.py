"""The events of a task through the Lambda functions: long polls, segments of a stream, and `watch` by long poll."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from aws_local.gateway import Gateway
from support.command_line import COMMAND
from support.deployment import Deployment, an_event
from support.event_streams import frames


@pytest.fixture
def gateway(deployment: Deployment) -> Iterator[Gateway]:
    with Gateway(lambda event: deployment._invoke("ApiFunction", event), port=0) as gateway:
        thread = threading.Thread(target=gateway.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield gateway
        gateway.shutdown()
        thread.join()


def test_a_long_poll_is_answered_when_the_task_changes(deployment: Deployment) -> None:
    """The store is polled at growing intervals, not all the time."""
    task_id = deployment.submit("Say hello.")
    first = deployment.ask("GET", f"/tasks/{task_id}/events")["json"]
    before = len(deployment.calls("ApiFunction", "dynamodb"))
    began_s = time.monotonic()
    silent = deployment.ask("GET", f"/tasks/{task_id}/events?starting_after={first['last']}&wait=2")["json"]
    waited_s, polls = time.monotonic() - began_s, len(deployment.calls("ApiFunction", "dynamodb")) - before
    deployment.deliver_all()
    rest = deployment.ask("GET", f"/tasks/{task_id}/events?starting_after={first['last']}&wait=20")["json"]

    assert (silent["events"], silent["ended"], silent["last"]) == ([], False, first["last"])
    assert (2 <= waited_s < 10, polls <= 20) == (True, True)
    assert ([event["event"] for event in rest["events"]][-2:], rest["ended"]) == (["completed", "receipt"], True)


def test_a_stream_comes_in_segments_that_a_browser_resumes(deployment: Deployment) -> None:
    task_id = deployment.submit("Say hello.")
    path, stream = f"/tasks/{task_id}/events", {"accept": "text/event-stream"}
    first = deployment.ask("GET", path, **stream)
    deployment.deliver_all()
    last = [frame.id for frame in frames(first["body"].encode()) if frame.id][-1]
    second = deployment.ask("GET", path, last_event_id=str(last), **stream)
    end = [frame.id for frame in frames(second["body"].encode()) if frame.id][-1]
    third = deployment.ask("GET", path, last_event_id=str(end), **stream)
    read = frames(first["body"].encode()) + frames(second["body"].encode())

    assert (first["isBase64Encoded"], first["headers"]["cache-control"]) == (False, "no-store")
    assert int(first["headers"]["content-length"]) == len(first["body"])
    assert read[0].retry == 2000
    assert [frame.event for frame in read if frame.event][-2:] == ["receipt", "end"]
    numbers = [frame.id for frame in read if frame.id]
    assert numbers == sorted(set(numbers))
    assert (third["statusCode"], third["body"]) == (204, "")


def test_watch_follows_a_task_by_long_poll(deployment: Deployment, gateway: Gateway) -> None:
    """The function sends the stream as a whole body, so the command polls from then on."""
    task_id = deployment.submit("Say hello.")
    token = an_event("api-v2-post-task")["headers"]["authorization"].removeprefix("Bearer ")
    environment = {**os.environ, "LLM_SERVER_API_KEY": token}
    with subprocess.Popen(
        [*COMMAND, "watch", task_id, "--url", gateway.url], stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        shown = [json.loads(process.stdout.readline()), json.loads(process.stdout.readline())]
        deployment.deliver_all()
        shown += map(json.loads, process.stdout)

    assert process.returncode == 0
    assert [event["event"] for event in shown][:2] == ["accepted", "routed"]
    assert [event["event"] for event in shown][-2:] == ["completed", "receipt"]
    numbers = [event["number"] for event in shown]
    assert numbers == sorted(set(numbers))
