"""The embedded server's socket."""

from __future__ import annotations

import socket

from llm_server import server


def test_kept_alive_connections_do_not_wait_for_acknowledgements() -> None:
    """asyncio sets TCP_NODELAY only on sockets that name their protocol; without it each answer takes 40 ms more."""
    with server._bound("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP
