"""Reads the events of a task, and goes on after lost connections and restarts of the server."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from llm_server.cli.connection import READ_S, ClientError, Connection, ServerRefused, ServerUnreachable

Event = Mapping[str, Any]
MAX_LOST_S = 300
"""How long the server may be away. The time begins again with each event."""

_POLL_S = 20
_SILENCE_S = 45.0  # the server sends a comment after each 15 s
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.2, 5.0
_ENDS = {"deleted": "The task was deleted.", "refused": "The server accepts the API key no longer."}


class EventSource:
    """The events of one task, each once and in the order of their numbers.

    They come as a stream. If the server sends the stream as a whole body, as it does on AWS, the next ones are polled.
    `on_lost` is called with a sentence each time the server is lost; `clock` and `sleep` count in seconds.
    """

    def __init__(
        self,
        connection: Connection,
        task_id: str,
        *,
        on_lost: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._connection = connection
        self._path = f"/tasks/{quote(task_id, safe='')}/events"
        self._on_lost = on_lost
        self._clock = clock
        self._sleep = sleep
        self._last = 0
        self._polls = False
        self._has_ended = False

    def events(self, *, until: float) -> Iterator[Event]:
        """Yield the events until the task has ended, or until a time on the clock.

        Raises:
            ServerRefused: the task is not stored, or the key has become invalid.
            ServerUnreachable: the server was away for `MAX_LOST_S`.
        """
        lost_s, pause_s = None, _FIRST_PAUSE_S
        while not self._has_ended and self._clock() < until:
            try:
                for event in self._polled(until) if self._polls else self._streamed(until):
                    lost_s, pause_s = None, _FIRST_PAUSE_S
                    self._last = event["number"]
                    yield event
            except ClientError as error:
                lost_s = self._clock() if lost_s is None else lost_s
                if not error.retryable or self._clock() - lost_s >= MAX_LOST_S:
                    raise
                if pause_s == _FIRST_PAUSE_S:
                    self._on_lost(str(error))
                pause_s = min(2 * pause_s, _MAX_PAUSE_S)
            if not (self._has_ended or self._polls):
                self._sleep(min(pause_s, max(0.0, until - self._clock())))

    def _polled(self, until: float) -> Iterator[Event]:
        wait_s = max(0, min(_POLL_S, int(until - self._clock())))
        target = f"{self._path}?starting_after={self._last}&wait={wait_s}"
        page = self._connection.call("GET", target, field="events", read_s=READ_S + wait_s).document
        yield from page["events"]
        self._has_ended = bool(page["ended"])

    def _streamed(self, until: float) -> Iterator[Event]:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(self._last)}
        with self._connection.stream(self._path, headers, read_s=_SILENCE_S) as stream:
            self._has_ended = stream.is_empty
            for name, data in _frames(stream.chunks()):
                if name == "end":
                    self._end(data)
                elif data:
                    yield _parsed(data)
                if self._clock() >= until:
                    return
            self._polls = stream.is_whole

    def _end(self, data: str) -> None:
        reason = _parsed(data).get("reason", "final")
        if reason in _ENDS:
            raise ServerRefused(_ENDS[reason], retryable=False)
        self._has_ended = True


def _frames(chunks: Iterator[bytes]) -> Iterator[tuple[str, str]]:
    """Yield the name and the data of each frame of an event stream; both are empty for a comment."""
    rest = b""
    for chunk in chunks:
        *frames, rest = (rest + chunk).split(b"\n\n")
        for frame in frames:
            lines = [line.partition(": ") for line in frame.decode(errors="replace").split("\n")]
            fields = {name: value for name, _, value in lines}
            yield fields.get("event", ""), fields.get("data", "")


def _parsed(data: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise ServerUnreachable("The stream is not that of an LLM-Server.", retryable=False)
    return document
