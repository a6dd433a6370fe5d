"""What the embedded server refuses in the head of a request before the app sees it (RFC 9112)."""

from __future__ import annotations

import re

import httptools

from llm_server.api.errors import NOT_HTTP

VERSIONS = ("1.1", "1.0")
_NOT_PARSED = "0.0"
"""The parser's version before it has parsed one."""
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_FIRST_WORD = re.compile(rb"(?:\r\n)*(" + _TOKEN + rb") ")
_NAME = rb"(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*"
_ADDRESS = rb"\[(?:[0-9A-Fa-f:.]+|v[0-9A-Fa-f]+\.[A-Za-z0-9._~!$&'()*+,;=:-]+)\]"
_HOST = re.compile(rb"(?:" + _NAME + rb"|" + _ADDRESS + rb")(?::[0-9]*)?")
"""RFC 9110, 7.2, and RFC 3986, 3.2.2. The name may be empty."""
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)


class Refused(Exception):
    """A request that the app must not see, with the code and the sentence of the error."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def check_protocol(target: bytes, received: bytes) -> None:
    """Refuse requests of RTSP, which the parser takes for HTTP. `received` contains the head of the request.

    It may contain more, but no JSON looks like the end of a request line: it has no bare line breaks within texts.

    Raises:
        Refused: the request line names RTSP.
    """
    if b" RTSP/" in received:
        line = re.search(rb" " + re.escape(target) + rb" +RTSP/([0-9]\.[0-9])\r\n", received)
        if line:
            raise _version(f"RTSP/{line[1].decode()}")


def check_head(parser: httptools.HttpRequestParser, target: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """Check the head of a request, which the parser has accepted.

    If the target is an absolute URL, its host replaces the Host header (RFC 9112, 3.2.2).

    Raises:
        Refused: the version, the method, the Host header or the transfer coding is not accepted.
    """
    version = parser.get_http_version()
    if version not in VERSIONS:
        raise _version(f"HTTP/{version}")
    hosts = []
    for name, value in headers:
        if name == b"host":
            hosts.append(value)
        elif name == b"transfer-encoding":
            _check_coding(value, version)
    if len(hosts) != 1 and (hosts or version == "1.1"):
        raise Refused("host_invalid", f"The request has {len(hosts)} Host headers; HTTP/1.1 needs exactly one.")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise Refused("host_invalid", "The Host header is not a host name or address with an optional port.")
    if not target.startswith(b"/"):
        _check_target(parser, target, headers)


def fault_of(error: httptools.HttpParserError, parser: httptools.HttpRequestParser, request: bytes) -> Refused:
    """Return why a request is refused that the parser did not accept.

    `request` is what was received of it, or empty if its beginning is not known.
    """
    if isinstance(error.__context__, Refused):  # raised by one of the parser's callbacks
        return error.__context__
    if isinstance(error, httptools.HttpParserInvalidMethodError):
        word = _FIRST_WORD.match(request)
        return _method(word[1]) if word else Refused("not_http", NOT_HTTP)
    version = parser.get_http_version()
    return Refused("not_http", NOT_HTTP) if version in (*VERSIONS, _NOT_PARSED) else _version(f"HTTP/{version}")


def _check_coding(coding: bytes, version: str) -> None:
    if version == "1.0":  # RFC 9112, 6.1
        raise Refused("transfer_encoding_unknown", "HTTP/1.0 has no Transfer-Encoding; send a Content-Length.")
    if coding.lower() != b"chunked":
        raise Refused("transfer_encoding_unknown", "The only Transfer-Encoding that is accepted is chunked.")


def _check_target(parser: httptools.HttpRequestParser, target: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """Check a target that does not begin with a path: `*`, an absolute URL, or the host and port of a CONNECT."""
    if parser.get_method() == b"CONNECT":
        raise _method(b"CONNECT")
    if target == b"*":
        return
    absolute = _ABSOLUTE.match(target)
    if absolute is None:
        raise Refused("not_http", NOT_HTTP)
    if not absolute[1] or not _HOST.fullmatch(absolute[1]):
        raise Refused("host_invalid", "The host in the URL of the request line is not valid.")
    headers[:] = [(name, absolute[1] if name == b"host" else value) for name, value in headers]


def _method(name: bytes) -> Refused:
    return Refused("method_unknown", f"The server does not know the method {name[:20].decode()}.")


def _version(protocol: str) -> Refused:
    detail = f"The server speaks HTTP/1.1 and HTTP/1.0 only; the request says {protocol}."
    return Refused("http_version_unsupported", detail)
