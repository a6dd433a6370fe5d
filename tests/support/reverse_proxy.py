"""Run hosting/Caddyfile in a real Caddy on free ports, with a certificate of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3

from aws_local.environments import tool
from support.hosting_files import HOSTING

STARTED_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReverseProxy:
    """A running proxy: its address, the certificate to trust, and its log."""

    url: str
    authority: Path
    log: Path

    def call(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Any:
        """Send a request below /api/v1 over TLS; return the response."""
        sent = {"Content-Type": "application/json", **(headers or {})}
        data = body if isinstance(body, bytes) or body is None else json.dumps(body)
        with urllib3.PoolManager(ca_certs=str(self.authority)) as pool:
            return pool.request(method, f"{self.url}/api/v1{path}", body=data, headers=sent, retries=False, timeout=60)


@contextmanager
def reverse_proxy(folder: Path, *, server: str) -> Iterator[ReverseProxy]:
    """Start the proxy in front of `server`, a host and port. Only its ports differ from the file's."""
    https, http = _free_port(), _free_port()
    config = folder / "Caddyfile"
    text = (HOSTING / "Caddyfile").read_text(encoding="utf-8")
    assert text.count("\tadmin off\n") == 1
    config.write_text(text.replace("\tadmin off\n", f"\tadmin off\n\thttps_port {https}\n\thttp_port {http}\n"))
    env = {**os.environ, "SITE": "localhost", "SERVER": server, "HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    env.pop("XDG_CONFIG_HOME", None)
    log = folder / "caddy.log"
    command = [str(tool("hosting", "caddy")), "run", "--adapter", "caddyfile", "--config", str(config)]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=env, cwd=folder)
    try:
        authority = folder / "caddy" / "pki" / "authorities" / "local" / "root.crt"
        _wait_for(https, authority, process, log)
        yield ReverseProxy(url=f"https://localhost:{https}", authority=authority, log=log)
    finally:
        process.terminate()
        process.wait(20)


def _wait_for(port: int, authority: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the proxy has its certificate and finishes a handshake with it."""
    end = time.monotonic() + STARTED_S
    while time.monotonic() < end and process.poll() is None:
        if authority.exists():
            try:
                with urllib3.PoolManager(ca_certs=str(authority)) as pool:
                    pool.request("OPTIONS", f"https://localhost:{port}/api/v1/health", retries=False, timeout=5)
                return
            except urllib3.exceptions.HTTPError:
                pass
        time.sleep(0.05)
    raise AssertionError(f"the proxy did not start:\n{log.read_text()}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
