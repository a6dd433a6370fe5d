"""The server behind the TLS proxy of hosting/Caddyfile, in a real Caddy."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from support.fake_engine import FakeEngine, fake_engine
from support.reverse_proxy import ReverseProxy, reverse_proxy
from support.server_process import RunningServer, serving

ENGINES = """
[engines.fake]
kind = "openai"
source = "local"
model = "fake-1"
base_url = "{base_url}"
"""
QUESTION = {"prompt": "Why is the sky blue?"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosted:
    """A server with an API key and an engine, behind the proxy."""

    proxy: ReverseProxy
    server: RunningServer
    engine: FakeEngine
    key: str
    db: Path
    env: dict[str, str]

    def call(self, method: str, path: str, body: object = None, **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.proxy.call(method, path, body, {"Authorization": f"Bearer {self.key}", **named})


@pytest.fixture
def hosted(tmp_path: Path) -> Iterator[Hosted]:
    db, config = tmp_path / "tasks.db", tmp_path / "engines.toml"
    create = [sys.executable, "-m", "llm_server", "keys", "create", "--tenant", "acme", "--db", str(db)]
    key = subprocess.run(create, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    with fake_engine() as engine:
        config.write_text(ENGINES.format(base_url=engine.base_url))
        env = {"LLM_SERVER_CONFIG": str(config)}
        with serving(db, env=env) as server, reverse_proxy(tmp_path, server=urlsplit(server.url).netloc) as proxy:
            yield Hosted(proxy=proxy, server=server, engine=engine, key=key, db=db, env=env)


def test_a_held_response_comes_through_with_its_names(hosted: Hosted) -> None:
    """The engine takes longer than a proxy's usual patience for a first byte would be tested with."""
    hosted.engine.latency_s = 3.0

    answer = hosted.call("POST", "/tasks", QUESTION, Prefer="wait=20", X_Request_Id="call-1")

    assert answer.status == 200
    assert answer.json()["result"] == hosted.engine.text
    assert answer.headers["X-Request-Id"] == "call-1"


def test_callers_without_a_key_are_refused_by_the_server(hosted: Hosted) -> None:
    refused = hosted.proxy.call("GET", "/tasks")

    assert (refused.status, refused.json()["code"]) == (401, "unauthenticated")


def test_the_log_has_the_call_and_not_the_key(hosted: Hosted) -> None:
    """Neither header that may carry one, and no prompt."""
    hosted.call("POST", "/tasks", QUESTION)
    hosted.proxy.call("GET", "/usage", headers={"X-Api-Key": hosted.key})
    log = hosted.proxy.log.read_text()
    calls = [json.loads(line) for line in log.splitlines() if '"uri":"/api/v1/' in line]

    assert [call["request"]["uri"] for call in calls][-2:] == ["/api/v1/tasks", "/api/v1/usage"]
    assert hosted.key not in log
    assert QUESTION["prompt"] not in log


def test_the_server_says_what_is_too_long(hosted: Hosted) -> None:
    """A body beyond the server's bound and within the proxy's gets the server's error; a larger one is cut off."""
    too_long = hosted.call("POST", "/tasks", b'{"prompt": "%s"}' % (b"a" * 2_600_000))
    far_too_long = hosted.call("POST", "/tasks", b'{"prompt": "%s"}' % (b"a" * 3_100_000))

    assert (too_long.status, too_long.json()["code"]) == (413, "body_too_large")
    assert far_too_long.status == 413


def test_callers_see_no_restart(hosted: Hosted) -> None:
    """A POST that comes while no server listens waits for the next one, and is carried out once."""
    port = str(urlsplit(hosted.server.url).port)
    assert hosted.server.stop() == 0
    answers: list[Any] = []
    caller = threading.Thread(target=lambda: answers.append(hosted.call("POST", "/tasks", QUESTION, Prefer="wait=20")))
    caller.start()
    time.sleep(1)
    was_waiting = caller.is_alive()

    with serving(hosted.db, "--port", port, env=hosted.env):
        caller.join(30)

    assert was_waiting
    assert [answer.status for answer in answers] == [200]
    assert answers[0].json()["result"] == hosted.engine.text
    assert len(hosted.engine.seen) == 1
