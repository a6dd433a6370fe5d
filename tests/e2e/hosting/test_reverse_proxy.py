"""The server behind the TLS proxy of hosting/Caddyfile, in a real Caddy."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from support.fake_engine import FakeEngine, a_config, fake_engine
from support.reverse_proxy import ReverseProxy, reverse_proxy
from support.server_process import RunningServer, serving

QUESTION = {"prompt": "Why is the sky blue?"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosted:
    """A server with an API key and an engine, behind the proxy."""

    proxy: ReverseProxy
    server: RunningServer
    engine: FakeEngine
    key: str
    db: Path
    env: Mapping[str, str]

    def call(self, method: str, path: str, body: object = None, **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.proxy.call(method, path, body, {"Authorization": f"Bearer {self.key}", **named})


@contextmanager
def hosting(folder: Path) -> Iterator[Hosted]:
    db = folder / "tasks.db"
    create = [sys.executable, "-m", "llm_server", "keys", "create", "--tenant", "acme", "--db", str(db)]
    key = subprocess.run(create, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    with fake_engine() as engine:
        env = a_config(folder, fake=engine)
        with serving(db, env=env) as server, reverse_proxy(folder, server=urlsplit(server.url).netloc) as proxy:
            yield Hosted(proxy=proxy, server=server, engine=engine, key=key, db=db, env=env)


@pytest.fixture(scope="module")
def hosted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosted]:
    """One server for the tests that leave it as it was."""
    with hosting(tmp_path_factory.mktemp("hosted")) as parts:
        yield parts


def test_a_held_response_comes_through_with_its_names(hosted: Hosted) -> None:
    hosted.engine.latency_s = 2.0
    answer = hosted.call("POST", "/tasks", QUESTION, Prefer="wait=20", X_Request_Id="call-1")
    hosted.engine.latency_s = 0.0

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
    """Bodies of megabytes pass the proxy. One that is beyond the server's bound can end in a closed connection."""
    for _ in range(10):
        too_long = hosted.call("POST", "/tasks", b'{"prompt": "%s"}' % (b"a" * 3_100_000))

        assert (too_long.status, too_long.json()["code"]) == (422, "invalid_input")
        assert "at most 200000" in too_long.json()["detail"]


def test_callers_see_no_restart(tmp_path: Path) -> None:
    """A POST that comes while no server listens waits for the next one, and is carried out once."""
    answers: list[Any] = []
    with hosting(tmp_path) as parts:
        caller = threading.Thread(
            target=lambda: answers.append(parts.call("POST", "/tasks", QUESTION, Prefer="wait=20")), daemon=True
        )
        assert parts.server.stop() == 0
        caller.start()
        time.sleep(1)
        was_waiting = caller.is_alive()
        with serving(parts.db, "--port", str(urlsplit(parts.server.url).port), env=parts.env):
            caller.join(30)

        assert was_waiting
        assert [answer.status for answer in answers] == [200]
        assert answers[0].json()["result"] == parts.engine.text
        assert len(parts.engine.seen) == 1
