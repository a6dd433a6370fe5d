"""hosting/Caddyfile bounds less than the server does, so that callers read the server's own errors."""

from __future__ import annotations

import subprocess
from typing import Any

from aws_local.environments import tool
from llm_server.api.app import BODY_REST_BYTES, IMAGES_BYTES, JSON_BYTES_PER_CHAR
from llm_server.api.waiting import MAX_WAIT_S
from llm_server.embedded.connections import HALF_OPEN_S, KEEP_ALIVE_S
from llm_server.embedded.http_protocol import MAX_BODY_S, MAX_HEADER_BYTES
from llm_server.embedded.server import GRACE_S, REQUEST_GRACE_S
from llm_server.settings import Settings
from support.hosting_files import HOSTING, caddy_config

NS = 1_000_000_000
CONFIG = caddy_config()
[SERVER] = CONFIG["apps"]["http"]["servers"].values()


def handler(name: str) -> Any:
    """The settings of one of Caddy's handlers."""
    [route] = SERVER["routes"]
    [found] = [h for r in route["handle"][0]["routes"] for h in r["handle"] if h["handler"] == name]
    return found


def test_caddy_accepts_it_as_it_is_written() -> None:
    done = subprocess.run(
        [tool("hosting", "caddy"), "fmt", "--diff", HOSTING / "Caddyfile"], capture_output=True, text=True
    )

    assert done.returncode == 0
    assert [line for line in done.stdout.splitlines() if line[:1] in ("+", "-")] == []


def test_a_body_that_the_server_would_read_passes() -> None:
    longest = Settings().prompt_max_chars * JSON_BYTES_PER_CHAR + IMAGES_BYTES + BODY_REST_BYTES

    assert longest < handler("request_body")["max_size"] < 1.5 * longest
    assert SERVER["max_header_bytes"] > MAX_HEADER_BYTES


def test_time_limits_are_those_of_the_server() -> None:
    assert SERVER["read_header_timeout"] == HALF_OPEN_S * NS
    assert SERVER["read_timeout"] == MAX_BODY_S * NS
    assert SERVER["idle_timeout"] == KEEP_ALIVE_S * NS


def test_a_held_response_is_waited_for() -> None:
    assert handler("reverse_proxy")["transport"]["response_header_timeout"] >= 2 * MAX_WAIT_S * NS


def test_the_proxy_closes_an_idle_connection_to_the_server_first() -> None:
    """Else it may send a request on a connection that the server is just closing."""
    assert handler("reverse_proxy")["transport"]["keep_alive"]["idle_timeout"] <= (KEEP_ALIVE_S - 10) * NS


def test_requests_wait_for_a_server_that_restarts() -> None:
    assert handler("reverse_proxy")["load_balancing"]["try_duration"] > (GRACE_S + REQUEST_GRACE_S + 10) * NS


def test_the_proxy_takes_no_commands_and_changes_no_trust() -> None:
    assert CONFIG["admin"]["disabled"] is True
    assert CONFIG["apps"]["pki"]["certificate_authorities"]["local"]["install_trust"] is False
