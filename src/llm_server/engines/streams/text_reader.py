"""Read a streamed answer: the bytes of its body become events, and the text in them is passed on."""

from __future__ import annotations

import time
from collections.abc import Callable

from llm_server.engines.failures import BROKE_OFF, MAX_ANSWER_BYTES, too_large
from llm_server.engines.streams.assembly import Assembly, not_an_event
from llm_server.engines.streams.http_body import Body
from llm_server.engines.streams.sse import EventParser, ServerSentEvent
from llm_server.orchestration.domain.cancellation import Cancellation
from llm_server.orchestration.domain.errors import EngineUnavailable


class TextReader:
    """Reads one answer. From its first piece on, the engine may be silent for `idle_s` seconds."""

    def __init__(
        self,
        body: Body,
        assembly: Assembly[ServerSentEvent],
        on_text: Callable[[str], None],
        cancellation: Cancellation,
        *,
        until_s: float,
        idle_s: float,
    ) -> None:
        """`until_s` is when the answer must be there, on the monotonic clock."""
        self._body = body
        self._assembly = assembly
        self._on_text = on_text
        self._cancellation = cancellation
        self._until_s = until_s
        self.idle_s = idle_s
        self._parser = EventParser()
        self._size = 0
        self._heard_s = 0.0

    def until_s(self) -> float:
        """Return until when the next bytes may be waited for."""
        return min(self._until_s, self._heard_s + self.idle_s) if self._assembly.has_begun else self._until_s

    def take(self, data: bytes) -> bool:
        """Take the next bytes, b"" at the end of the connection; return whether more of the answer is to come.

        Raises:
            EngineUnavailable: the answer broke off or cannot be read, or the task was cancelled.
            Exception: what `on_text` raises.
        """
        self._heard_s = time.monotonic()
        content = self._body.feed(data)
        self._size += len(content)
        if self._size > MAX_ANSWER_BYTES:
            raise too_large()
        for event in self._events(content):
            if self._cancellation.is_cancelled:
                raise EngineUnavailable(BROKE_OFF, may_be_billed=True)
            if piece := self._assembly.take(event):
                self._on_text(piece)
            if self._assembly.is_over:
                return False
        if self._body.is_over and not self._assembly.is_finished:
            raise EngineUnavailable(BROKE_OFF, may_be_billed=True)
        return not self._body.is_over

    def _events(self, content: bytes) -> list[ServerSentEvent]:
        try:
            return self._parser.feed(content) if content else []
        except UnicodeDecodeError as error:
            raise not_an_event() from error
