"""The events of a task as those of a Response's stream.

They are derived from the numbered events of the task, always from the first one on. So a reader that reads the stream
again is sent the same events with the same sequence numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

from llm_server.api.openai import ids
from llm_server.api.openai.answers import items
from llm_server.api.openai.answers.response import begun, response
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.events.history import Event

Document = dict[str, Any]
ENDS = ("completed", "failed", "cancelled")
"""The events after which a task is final."""
BreakOff = Literal["stream_interrupted", "stream_time_limit"]


class Narration:
    """Tells one task's events, in the order of their numbers, as the events of a Response.

    The answer of a task is one message. An engine call that fails after it wrote a part of an answer leaves a message
    with the status `incomplete`, and the next call begins another one; only the last one is in the output.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._task_id = snapshot.task.task_id
        self._begin = snapshot
        self._last = -1
        self._is_begun = self._is_claimed = False
        self._item: int | None = None
        self._messages = 0
        self._text = ""
        self.is_over = False

    @property
    def last(self) -> int:
        """The sequence number of the event that was told last; -1 before the first."""
        return self._last

    def tell(self, events: Iterable[Event]) -> Iterator[Document]:
        """Tell events, except the end of the task: `end` tells that."""
        if not self._is_begun:
            self._is_begun = True
            yield self._of("response.created", response=begun(self._begin, "queued"))
            yield self._of("response.queued", response=begun(self._begin, "queued"))
        for event in events:
            if event.name == "claimed":
                yield from self._claimed()
            elif event.name == "text.delta" and event.step is None and event.text:
                yield from self._claimed()
                yield from self._piece(event.item or 0, event.text)

    def end(self, snapshot: Snapshot) -> Iterator[Document]:
        """Tell the end of a task that is final."""
        yield from self.tell(())
        yield from self._claimed()
        self.is_over = True
        if snapshot.task.status is not Status.COMPLETED:
            yield from self._close("incomplete")
            yield self._of("response.failed", response=response(snapshot))
            return
        text, calls = snapshot.result or "", snapshot.tool_calls
        if text != self._text or (self._item is None and not calls):
            yield from self._whole(text)
        yield from self._close("incomplete" if snapshot.is_truncated else "completed")
        for index, call in enumerate(calls):
            yield from self._call(index, items.function_call(self._task_id, index, call))
        ended = response(snapshot, message_id=ids.message(self._task_id, max(self._messages, 1)))
        yield self._of("response.incomplete" if snapshot.is_truncated else "response.completed", response=ended)

    def broken_off(self, reason: BreakOff, *, after: int = -1) -> Document:
        """Return the event that ends a stream while its task goes on. The reader has the events up to `after`.

        It has the number of the event before it, so a reader that goes on after that number misses nothing.
        """
        self.is_over = True
        number = max(self._last, after, 0)
        told = begun(self._begin, "incomplete") | {"incomplete_details": {"reason": reason}}
        goes_on = {"response_id": ids.response(self._task_id), "starting_after": number}
        told["llm_server"] = {"task_id": self._task_id, "go_on": goes_on}
        return {"type": "response.incomplete", "sequence_number": number, "response": told}

    def deleted(self) -> Document:
        """Return the event that ends the stream of a task that was deleted."""
        self.is_over = True
        error = {"code": "server_error", "message": "The response was deleted."}
        return self._of("response.failed", response=begun(self._begin, "failed") | {"error": error})

    def _of(self, kind: str, **fields: Any) -> Document:
        self._last += 1
        return {"type": kind, "sequence_number": self._last, **fields}

    def _claimed(self) -> Iterator[Document]:
        if not self._is_claimed:
            self._is_claimed = True
            yield self._of("response.in_progress", response=begun(self._begin, "in_progress"))

    def _piece(self, item: int, text: str) -> Iterator[Document]:
        if item != self._item:
            yield from self._close("incomplete")
            yield from self._open(item)
        self._text += text
        yield self._of("response.output_text.delta", **self._place, delta=text, logprobs=[])

    def _whole(self, text: str) -> Iterator[Document]:
        """Tell what is missing of an answer; if the message does not begin it, tell all of it as another message."""
        if self._item is None or not text.startswith(self._text):
            yield from self._close("incomplete")
            yield from self._open(0)
        if missing := text[len(self._text) :]:
            yield from self._piece(self._item or 0, missing)

    def _open(self, item: int) -> Iterator[Document]:
        self._item, self._text = item, ""
        self._messages += 1
        added = items.message(self._message_id, [], "in_progress")
        yield self._of("response.output_item.added", output_index=self._index, item=added)
        yield self._of("response.content_part.added", **self._place, part=items.text_part(""))

    def _close(self, status: items.Progress) -> Iterator[Document]:
        if self._item is None:
            return
        part, place = items.text_part(self._text), self._place
        yield self._of("response.output_text.done", **place, text=self._text, logprobs=[])
        yield self._of("response.content_part.done", **place, part=part)
        done = items.message(self._message_id, [part], status)
        yield self._of("response.output_item.done", output_index=self._index, item=done)
        self._item, self._text = None, ""

    def _call(self, index: int, item: Document) -> Iterator[Document]:
        place = {"item_id": item["id"], "output_index": self._messages + index}
        added = item | {"arguments": "", "status": "in_progress"}
        yield self._of("response.output_item.added", output_index=place["output_index"], item=added)
        yield self._of("response.function_call_arguments.delta", **place, delta=item["arguments"])
        arguments = {"arguments": item["arguments"], "name": item["name"]}
        yield self._of("response.function_call_arguments.done", **place, **arguments)
        yield self._of("response.output_item.done", output_index=place["output_index"], item=item)

    @property
    def _message_id(self) -> str:
        return ids.message(self._task_id, self._messages)

    @property
    def _index(self) -> int:
        return self._messages - 1

    @property
    def _place(self) -> Document:
        return {"item_id": self._message_id, "output_index": self._index, "content_index": 0}
