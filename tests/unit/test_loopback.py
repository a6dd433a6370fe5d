"""Loopback addresses, which decide about serving without keys and about downloads."""

import pytest

from llm_server.loopback import is_loopback_host, is_loopback_url


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.9", "127.255.255.254", "::1"])
def test_an_address_of_this_machine_is_loopback(host: str) -> None:
    assert is_loopback_host(host)


@pytest.mark.parametrize(
    "host",
    ["", "0.0.0.0", "::", "10.0.0.1", "localhost.evil.example", "127.0.0.1.example", "127.1", "[::1]", "localhost:80"],
)
def test_every_other_host_is_not_loopback(host: str) -> None:
    """Names that only look like loopback, wildcard addresses, and text that is not a bare host."""
    assert not is_loopback_host(host)


@pytest.mark.parametrize(
    "url", ["http://LOCALHOST/x", "https://127.0.0.1:8000", "//[::1]:8000", "//localhost", "ftp://[::1]/"]
)
def test_only_the_host_of_a_url_decides(url: str) -> None:
    assert is_loopback_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "null",
        "localhost",
        "//",
        "http://[bad/x",
        "http://localhost@evil.example/",
        "https://evil.example/localhost",
    ],
)
def test_a_url_without_a_loopback_host_is_refused(url: str) -> None:
    """Also a malformed URL, and one with a loopback name anywhere but in its host."""
    assert not is_loopback_url(url)
