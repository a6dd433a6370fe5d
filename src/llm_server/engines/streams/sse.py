"""Parse server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream)."""

from __future__ import annotations

import re
from typing import NamedTuple

_LINE_END = re.compile(rb"\r\n|\r|\n")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class ServerSentEvent(NamedTuple):
    """One event; `name` is "message" if the server gave none."""

    name: str
    data: str


class EventParser:
    """Turns the bytes of a stream into events, wherever the pieces of the stream begin and end.

    The fields `id` and `retry` are ignored, like unknown ones, because no engine resumes a stream. An event that is not
    followed by an empty line is incomplete and never returned.
    """

    def __init__(self) -> None:
        self._line: list[bytes] = []
        self._is_first_line = True
        self._ends_with_return = False
        self._name = ""
        self._data: list[str] = []

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """Return the events that these bytes complete.

        Raises:
            UnicodeDecodeError: a line is not UTF-8.
        """
        if self._ends_with_return and data:
            data = data.removeprefix(b"\n")  # the second byte of a line end that was cut in two
            self._ends_with_return = False
        if data:
            self._ends_with_return = data.endswith(b"\r")
        first, *others = _LINE_END.split(data)
        self._line.append(first)
        events = []
        for start in others:
            if event := self._take_line(b"".join(self._line)):
                events.append(event)
            self._line = [start]
        return events

    def _take_line(self, line: bytes) -> ServerSentEvent | None:
        """Read a line; return the event that it ends, if it is an empty line after one."""
        if self._is_first_line:
            line, self._is_first_line = line.removeprefix(_BYTE_ORDER_MARK), False
        if not line:
            return self._take_event()
        field, _, value = line.decode().partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._name = value
        return None

    def _take_event(self) -> ServerSentEvent | None:
        name, data = self._name or "message", self._data
        self._name, self._data = "", []
        return ServerSentEvent(name, "\n".join(data)) if data else None
