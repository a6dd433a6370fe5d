"""`GET /metrics` of the embedded server: from memory beside writes, on the event loop, and otherwise from the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_server import wiring
from llm_server.api.app import create_app
from llm_server.embedded.assembly import Embedded, embedded_service
from llm_server.orchestration.tasks.new_task import NewTask
from llm_server.settings import Settings
from support import asgi
from support.recording_executor import RecordingExecutor

ENGINE = """
[engines.gpt]
kind = "openai"
source = "local"
model = "m"
base_url = "http://127.0.0.1:9/v1"
"""


class Server:
    """The embedded server without its threads for HTTP and workers. Its clock stands still."""

    def __init__(self, embedded: Embedded) -> None:
        self.service, self.database = embedded.service, embedded.database
        self.run = RecordingExecutor()
        self.now_s = 100.0
        self.database._latest_overview._clock_s = lambda: self.now_s
        self._app = create_app(self.service, wiring.new_id, executor=self.run, open_without_keys=True)
        self.service.keys.required(fresh=True)

    def metrics(self) -> tuple[Any, list[str]]:
        """Return the metrics, and the use cases that the executor ran for them."""
        self.run.kinds.clear()
        answer = asgi.call(self._app, "GET", "/api/v1/metrics")
        assert answer.status == 200
        return answer.json, self.run.kinds


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    config = tmp_path / "engines.toml"
    config.write_text(ENGINE, encoding="utf-8")
    with embedded_service(Settings(db=tmp_path / "tasks.db", config=config), own_port=0) as embedded:
        yield Server(embedded)


def test_metrics_come_from_memory_after_a_commit_and_from_the_file_50_ms_later(server: Server) -> None:
    first, kinds = server.metrics()
    assert (first["total_requests"], kinds) == (0, ["read"])

    server.service.submit("local", NewTask(prompt="Say hello."))
    known, kinds = server.metrics()
    assert (known["total_requests"], known["queue_length"], kinds) == (1, 1, [])

    server.now_s += 0.051
    read, kinds = server.metrics()
    assert (read, kinds) == (known, ["read"])


def test_metrics_from_memory_show_a_switch_that_is_acknowledged(server: Server) -> None:
    before, _ = server.metrics()
    assert before["llm_status"] == {"gpt": "online"}

    server.service.switch_engine("gpt", {"toggle": False})

    after, kinds = server.metrics()
    assert (after["llm_status"], after["server_status"], kinds) == ({"gpt": "disabled"}, "offline", [])
