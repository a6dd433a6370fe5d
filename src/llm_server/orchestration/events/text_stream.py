"""The text of the engine calls of one claim: numbers the pieces, shows them at once, and stores them in groups."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from llm_server.orchestration.domain import event_numbers
from llm_server.orchestration.domain.errors import StorageUnavailable, TaskLost
from llm_server.orchestration.domain.ports.clock import Clock
from llm_server.orchestration.domain.ports.deltas import Delta, DeltaStore
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.events.recent_text import RecentText

MAX_GROUP_BYTES = 64 * 1024
"""The longest text of a group; more only if one piece is longer."""
TRY_AGAIN_S = 1.0

_log = logging.getLogger(__name__)


class TextStream:
    """Takes the pieces of a claim's text from several threads. A thread of its own stores them at the store's pace.

    A piece gets its number in the block of the state's revision. Before the state is saved, `freeze` and `flush` store
    all pieces; pieces that come during the save get their numbers after it (`go_on`). So a reader that has seen a state
    has all text before it.
    """

    def __init__(
        self,
        ref: TaskRef,
        rev: int,
        *,
        store: DeltaStore,
        recent: RecentText,
        clock: Clock,
        is_over: Callable[[], bool],
    ) -> None:
        """`is_over()`: the claim has lost its task, so nothing more may be written."""
        self._ref = ref
        self._rev = rev
        self._store = store
        self._pace = store.pace()
        self._recent = recent
        self._clock = clock
        self._is_over = is_over
        self._news = threading.Condition()
        self._flushing = threading.Lock()
        self._place = event_numbers.TEXT
        self._pending = list[Delta]()
        self._pending_bytes = 0
        self._since_s = 0.0
        self._groups = deque[list[Delta]]()
        """Groups to store, in order. A group whose write failed is stored again as it is: readers may have seen it."""
        self._frozen: list[tuple[int, str, str]] | None = None
        self._texts = dict[str, tuple[int, list[str]]]()
        """The last item of each step, "" for the answer, and its text so far."""
        self._thread: threading.Thread | None = None
        self._has_stored = self._is_closed = False

    def open_item(self, item: int, step: str) -> Callable[[str], None]:
        """Begin the item of an engine call. Return the function that takes its pieces."""
        with self._news:
            self._texts[step] = (item, [])

        def take(piece: str) -> None:
            with self._news:
                self._take(item, step, piece)

        return take

    def resume(self) -> None:
        """Read the last item of the answer that an earlier claim stored. Raises StorageUnavailable."""
        for delta in self._store.deltas(self._ref):
            if not delta.step:
                item, texts = self._texts.get("", (0, []))
                self._texts[""] = (delta.item, [*(texts if item == delta.item else ()), delta.text])

    def complete(self, step: str, text: str) -> None:
        """Let the last item of a step, or of the answer, be the whole `text`: add what is missing, or begin a new item.

        The new item's number is that of its first piece, because no engine call wrote it.
        """
        with self._news:
            item, texts = self._texts.get(step, (0, []))
            streamed = "".join(texts)
            if item and text.startswith(streamed):
                self._take(item, step, text[len(streamed) :])
            elif text != streamed:
                item = event_numbers.number(self._rev, self._place)
                self._texts[step] = (item, [])
                self._take(item, step, text)

    def freeze(self) -> None:
        """Give no numbers until `go_on`, because the state is about to be saved."""
        with self._news:
            self._frozen = []

    def go_on(self, rev: int) -> None:
        """Give numbers again, from now on in the block of this revision."""
        with self._news:
            held, self._frozen = self._frozen or [], None
            self._rev, self._place = rev, event_numbers.TEXT
            for item, step, piece in held:
                self._add(item, step, piece)

    def flush(self) -> bool:
        """Store all pieces that have numbers. Returns False if the store did not answer: call this again then."""
        with self._flushing:
            self._seal()
            while self._groups and not self._is_closed:
                if self._is_over():
                    self.close()
                    break
                group = self._groups[0]
                try:
                    self._store.append(self._ref, group)
                except StorageUnavailable:
                    return False
                except TaskLost:
                    self.close()
                    break
                self._groups.popleft()
                self._recent.forget(self._ref, group[-1].number)
        return True

    def give_up(self) -> None:
        """Drop the pieces that could not be stored. The answer then gets a new item with its whole text."""
        with self._news:
            _log.warning("text of a stream not stored", extra={"task_id": self._ref.task_id})
            self._groups.clear()
            self._texts.clear()
            self._recent.forget(self._ref)

    def close(self) -> None:
        """Take and store nothing more. Calling this again has no further effect."""
        with self._news:
            self._is_closed = True
            self._pending.clear()
            self._recent.forget(self._ref)
            self._news.notify_all()

    def _take(self, item: int, step: str, piece: str) -> None:
        if not piece or self._is_closed:
            return
        piece = piece.encode(errors="replace").decode()  # a lone surrogate cannot be stored
        known, texts = self._texts.get(step, (0, []))
        if known == item:
            texts.append(piece)
        if self._frozen is None:
            self._add(item, step, piece)
        else:
            self._frozen.append((item, step, piece))

    def _add(self, item: int, step: str, piece: str) -> None:
        number = event_numbers.number(self._rev, self._place)
        delta = Delta(number=number, item=item, text=piece, at_ms=self._clock(), step=step)
        self._place += 1
        if not self._pending:
            self._since_s = time.monotonic()
        self._pending.append(delta)
        self._pending_bytes += len(piece.encode())
        self._recent.publish(self._ref, delta)
        if self._thread is None:
            self._thread = threading.Thread(target=self._store_at_pace, name="text-stream", daemon=True)
            self._thread.start()
        if len(self._pending) == 1 or self._due_s() <= 0:
            self._news.notify_all()

    def _due_s(self) -> float:
        """Return in how many seconds the pending pieces are to be stored."""
        if not self._has_stored or self._pending_bytes >= self._pace.max_bytes:
            return 0
        return self._since_s + self._pace.max_wait_s - time.monotonic()

    def _seal(self) -> None:
        """Make groups of the pending pieces."""
        with self._news:
            size = MAX_GROUP_BYTES
            for delta in self._pending:
                length = len(delta.text.encode())
                if size + length > MAX_GROUP_BYTES:
                    self._groups.append([])
                    size = 0
                self._groups[-1].append(delta)
                size += length
            self._pending, self._pending_bytes = [], 0
            self._has_stored = self._has_stored or bool(self._groups)

    def _store_at_pace(self) -> None:
        while True:
            with self._news:
                while not self._is_closed and not self._pending:
                    self._news.wait()
                while not self._is_closed and self._pending and (due_s := self._due_s()) > 0:
                    self._news.wait(due_s)
                if self._is_closed:
                    return
            while not self.flush() and not self._is_closed:
                with self._news:
                    self._news.wait_for(lambda: self._is_closed, TRY_AGAIN_S)
