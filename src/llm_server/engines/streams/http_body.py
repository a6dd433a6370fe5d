"""Decode the body of an HTTP/1.1 answer (RFC 9112, 6 and 7) that comes in pieces."""

from __future__ import annotations

import re

from llm_server.engines.failures import BROKE_OFF
from llm_server.orchestration.domain.errors import EngineUnavailable

MAX_LINE_BYTES = 65_536
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}")


class Body:
    """The body of one answer: in chunks, of a known length, or everything until the connection ends.

    `is_over`: the body is complete. `has_more`: the engine has sent bytes that follow the body.
    """

    def __init__(self, *, chunked: bool, length: int | None) -> None:
        self.is_over = length == 0 and not chunked
        self.has_more = False
        self._chunked = chunked
        self._left = 0 if chunked else length
        self._line = b""
        self._line_is = "size"

    def feed(self, data: bytes) -> bytes:
        """Return the content in these bytes, wherever they begin and end; b"" as `data` is the end of the connection.

        Raises:
            EngineUnavailable: the body is not valid, or the connection ended in the middle of it.
        """
        if not data:
            self._end()
            return b""
        if self._chunked:
            return self._chunks(data)
        if self._left is None:
            return data
        content = data[: self._left]
        self._left -= len(content)
        self.is_over, self.has_more = not self._left, len(data) > len(content)
        return content

    def _end(self) -> None:
        is_whole = self.is_over or (self._line_is == "trailer" if self._chunked else self._left is None)
        if not is_whole:
            raise _broke_off()
        self.is_over = True

    def _chunks(self, data: bytes) -> bytes:
        data, at, content = self._line + data, 0, list[bytes]()
        self._line = b""
        while at < len(data) and not self.is_over:
            if self._left:
                part = data[at : at + self._left]
                content.append(part)
                self._left -= len(part)
                at += len(part)
                continue
            end = data.find(b"\n", at)
            if end < 0:
                self._line = data[at:]
                if len(self._line) > MAX_LINE_BYTES:
                    raise _broke_off()
                break
            self._take_line(data[at:end].removesuffix(b"\r"))
            at = end + 1
        self.has_more = self.is_over and at < len(data)
        return b"".join(content)

    def _take_line(self, line: bytes) -> None:
        """Read the size of a chunk, the empty line after it, or a line of the trailer, which an empty line ends."""
        if self._line_is == "trailer":
            self.is_over = not line
        elif self._line_is == "end of chunk":
            if line:
                raise _broke_off()
            self._line_is = "size"
        else:
            size = line.partition(b";")[0].strip()
            if not _CHUNK_SIZE.fullmatch(size):
                raise _broke_off()
            self._left = int(size, 16)
            self._line_is = "end of chunk" if self._left else "trailer"


def _broke_off() -> EngineUnavailable:
    return EngineUnavailable(BROKE_OFF, may_be_billed=True)
