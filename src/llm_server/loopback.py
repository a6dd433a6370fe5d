"""Tells whether a host or a URL is loopback, without resolving names."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_loopback_host(host: str) -> bool:
    """Return whether a host, without port and brackets, is `localhost`, ::1 or an address in 127.0.0.0/8."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_loopback_url(url: str) -> bool:
    """Return whether the host of a URL is loopback, with any scheme and port; False if the URL is malformed.

    To check a `Host` header, put `//` in front of it: `//localhost:8000`.
    """
    try:
        return is_loopback_host(urlsplit(url).hostname or "")
    except ValueError:
        return False
