"""The embedded server's socket and its greeting."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from llm_server.embedded import server
from llm_server.orchestration.execution.triage import TRIAGE_SHARE
from support.in_process_server import called_server

ENGINES = """
[engines.claude]
kind = "openai"
source = "local"
model = "m"
base_url = "http://127.0.0.1:9/v1"
max_concurrency = 200

[engines.local]
kind = "openai"
source = "local"
model = "m"
base_url = "http://127.0.0.1:9/v1"
"""

HOSTED = """
[engines.mini]
kind = "openai"
source = "api"
model = "m"
base_url = "http://127.0.0.1:9/v1"
"""


def test_kept_alive_connections_do_not_wait_for_acknowledgements() -> None:
    """asyncio sets TCP_NODELAY only if the socket has a protocol; without it each answer takes 40 ms longer."""
    with server._bound("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


@pytest.mark.parametrize(
    ("workers", "overlay", "said"),
    [
        (None, "", "up to 8 tasks at a time"),
        (None, ENGINES, "up to 264 tasks at a time; calls at a time: claude 200, local 64"),
        (40, ENGINES, "up to 40 tasks at a time, as LLM_SERVER_WORKERS or --workers says"),
    ],
)
def test_the_greeting_says_how_many_tasks_are_carried_out_at_a_time(
    tmp_path: Path, workers: int | None, overlay: str, said: str
) -> None:
    with called_server(tmp_path, overlay, workers=workers) as called:
        assert server._concurrency(called.settings, called.service) == said


@pytest.mark.parametrize(
    ("defaults", "price", "said"),
    [
        ('triage = "always"', "price = {input = 0, output = 1}", "every prompt, for about USD 0.06 per 1,000 prompts"),
        (
            'triage = "auto"',
            "price = {input = 0, output = 4}",
            f"about {TRIAGE_SHARE:.0%}, for about USD {0.24 * TRIAGE_SHARE:.3g} per 1,000 prompts",
        ),
        ('triage = "auto"', "", "at an unknown price"),
    ],
)
def test_the_greeting_says_which_prompts_are_triaged_and_the_price(
    tmp_path: Path, defaults: str, price: str, said: str
) -> None:
    """60 output tokens for each of them, and the engine's own price."""
    overlay = f"[defaults]\n{defaults}\n{HOSTED}{price}\n"
    with called_server(tmp_path, overlay) as called:
        line = server._triage(called.service)

    assert line.startswith("  triage    mini is asked about ")
    assert said in line


@pytest.mark.parametrize("overlay", ["", '[defaults]\ntriage = "off"\n' + ENGINES])
def test_the_greeting_says_nothing_of_a_triage_that_no_task_gets(tmp_path: Path, overlay: str) -> None:
    with called_server(tmp_path, overlay) as called:
        assert server._triage(called.service) == ""
