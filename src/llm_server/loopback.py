"""Tells whether an address is loopback: one that always means this machine. No name is looked up."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_loopback_host(host: str) -> bool:
    """Whether a host is `localhost` or an IP address in 127.0.0.0/8 or ::1; without port and brackets."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_loopback_url(url: str) -> bool:
    """Whether the host of a URL is loopback, whatever its scheme and port; False when the URL is malformed.

    A `Host` header is read as a URL without a scheme: `//localhost:8000`.
    """
    try:
        return is_loopback_host(urlsplit(url).hostname or "")
    except ValueError:
        return False
