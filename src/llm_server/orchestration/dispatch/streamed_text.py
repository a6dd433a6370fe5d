"""The text of a call that is streamed: when its first piece came, and what interrupts the call."""

from __future__ import annotations

from collections.abc import Callable

from llm_server.orchestration.domain.errors import LLMServerError, TaskCancelled
from llm_server.orchestration.domain.ports.clock import Clock


class Interrupted(Exception):
    """What takes the text of a call that is under way raised `cause`."""

    def __init__(self, cause: LLMServerError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class FirstText:
    """Measures how long a call takes until the first piece of its text; `after_ms` is None until then."""

    def __init__(self, clock: Clock, started_ms: int) -> None:
        self.after_ms: int | None = None
        self._clock = clock
        self._started_ms = started_ms

    def before(self, take: Callable[[str], None]) -> Callable[[str], None]:
        """Return a function that passes pieces of text on to `take`; what that raises interrupts the call."""

        def on_text(piece: str) -> None:
            if self.after_ms is None:
                self.after_ms = max(0, self._clock() - self._started_ms)
            try:
                take(piece)
            except TaskCancelled:
                raise
            except LLMServerError as error:
                raise Interrupted(error) from error

        return on_text
