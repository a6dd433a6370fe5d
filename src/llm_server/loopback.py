"""Tell whether a host or URL is a loopback address, without looking a name up."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_loopback_host(host: str) -> bool:
    """Whether a host, without port and brackets, is `localhost`, ::1 or an address in 127.0.0.0/8."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_loopback_url(url: str) -> bool:
    """Whether the host of a URL is loopback; scheme and port do not matter. False if the URL is malformed.

    To check a `Host` header, put `//` in front of it: `//localhost:8000`.
    """
    try:
        return is_loopback_host(urlsplit(url).hostname or "")
    except ValueError:
        return False
