"""Writes the streams of the dialect: the events of a Response, and the chunks of a chat completion."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from llm_server.api.openai import errors
from llm_server.api.openai.answers.chat import Chunks
from llm_server.api.openai.answers.failure import failure
from llm_server.api.openai.answers.narration import ENDS, BreakOff, Narration
from llm_server.api.streams.answers import Reason
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.events.history import EventPage

ReadTask = Callable[[], Awaitable[Snapshot]]
_DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.Encoder().encode


def may_be_final(page: EventPage) -> bool:
    """Return whether a page ends with the end of its task, so that the task is worth reading."""
    names = [event.name for event in page.events if event.name != "receipt"]
    return page.ended or names[-1:] in [[name] for name in ENDS]


class ResponseTelling:
    """Writes the events of a Response with sequence numbers above `after`; the last one is always written.

    `read` reads the task when it has ended, for its output and its usage.
    """

    def __init__(self, narration: Narration, read: ReadTask, *, after: int = -1) -> None:
        self._narration = narration
        self._read = read
        self._after = after

    @property
    def is_over(self) -> bool:
        return self._narration.is_over

    def begin(self) -> bytes:
        return b""

    async def events(self, page: EventPage) -> bytes:
        snapshot = await self._read() if may_be_final(page) else None  # first: what is told and not sent would be lost
        told = [*self._narration.tell(page.events)]
        if snapshot is not None and snapshot.task.status.is_final:
            told += self._narration.end(snapshot)
            return b"".join([*(self._new(document) for document in told[:-1]), _event(told[-1])])
        return b"".join(self._new(document) for document in told)

    def end(self, reason: Reason) -> bytes:
        """Return the event that ends a stream before its task has ended; nothing if the last event was written."""
        if self._narration.is_over:
            return b""
        if reason == "deleted":
            return _event(self._narration.deleted())
        begun = b"".join(self._new(document) for document in self._narration.tell(()))
        why: BreakOff = "stream_time_limit" if reason == "time" else "stream_interrupted"
        return begun + _event(self._narration.broken_off(why, after=self._after))

    def _new(self, document: dict[str, Any]) -> bytes:
        return _event(document) if document["sequence_number"] > self._after else b""


class ChatTelling:
    """Writes the chunks of a chat completion. `read` reads the task when it has ended.

    A chunk cannot be taken back. If an engine call fails after a part of its text was sent, and the answer of the next
    one does not begin with that part, the stream ends with an error, which names the response that has the answer.
    """

    def __init__(self, task_id: str, chunks: Chunks, read: ReadTask) -> None:
        self._task_id = task_id
        self._chunks = chunks
        self._read = read
        self._item: int | None = None
        self._sent = ""
        self.is_over = False

    def begin(self) -> bytes:
        return _data(self._chunks.begin())

    async def events(self, page: EventPage) -> bytes:
        found = list[bytes]()
        for event in page.events:
            if event.name == "text.delta" and event.step is None and event.text:
                self._item = self._item or event.item
                if event.item == self._item:
                    self._sent += event.text
                    found.append(_data(self._chunks.text(event.text)))
        if may_be_final(page) and (snapshot := await self._read()).task.status.is_final:
            found.append(self._ended(snapshot))
        return b"".join(found)

    def end(self, reason: Reason) -> bytes:
        """Return the end of a stream whose task has not ended; nothing if the end was written."""
        if self.is_over:
            return b""
        what = "was deleted" if reason == "deleted" else "is not finished; the stream was interrupted"
        return self._failed(504, "not_finished", f"The task {what}.")

    def _ended(self, snapshot: Snapshot) -> bytes:
        if snapshot.task.status is not Status.COMPLETED:
            error = failure(snapshot)
            return self._failed(error.status_code, error.code, error.detail)
        text = snapshot.result or ""
        if not text.startswith(self._sent):
            return self._failed(502, "answer_restarted", "An engine broke off its answer, and another one gave it.")
        self.is_over = True
        missing = text[len(self._sent) :]
        rest = [self._chunks.text(missing)] if missing else []
        return b"".join(map(_data, [*rest, *self._chunks.end(snapshot)])) + _DONE

    def _failed(self, status: int, code: str, message: str) -> bytes:
        self.is_over = True
        sentence = f"{message} {errors.read_at(self._task_id)}"
        return _data(errors.document(status, code, sentence)) + _DONE


def _event(document: dict[str, Any]) -> bytes:
    kind, number = document["type"].encode(), document["sequence_number"]
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (number, kind, _encode(document))


def _data(document: dict[str, Any]) -> bytes:
    return b"data: %s\n\n" % _encode(document)
