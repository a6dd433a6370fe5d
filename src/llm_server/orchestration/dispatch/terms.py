"""The terms of an engine call: its purpose and its limits."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct, field

from llm_server.orchestration.dispatch.budget import Budget
from llm_server.orchestration.domain.engines.allowed import AllowedEngines
from llm_server.orchestration.domain.engines.call import Completion, EngineCall
from llm_server.orchestration.domain.engines.catalog import Tier
from llm_server.orchestration.domain.receipt import Attempt
from llm_server.orchestration.domain.turns import OF_NO_TENANT, Line

Announce = Callable[[tuple[Attempt, ...]], None]
"""Stores that a call is about to be made: the attempts at one answer so far, the last one as it is if it is lost.

Raises TaskCancelled or OutOfTime if it cannot be stored. The engine must not be asked then.
"""


OpenItem = Callable[[Attempt], Callable[[str], None]]
"""Begins the output item of an engine call whose text is streamed; what it returns takes the pieces of the text."""


class Rejection(Struct, frozen=True, kw_only=True):
    """Why an answer is not a valid result: as a short `fault` for the receipt, and as an `error` for the caller.

    `repair` is the call that asks the engine to repair the answer; None if that would not help.
    """

    fault: str
    error: str
    repair: EngineCall | None = None


Accept = Callable[[EngineCall, Completion], Completion | Rejection]
"""Reads an answer that must follow the caller's schema; the completion it returns has the JSON text alone."""


def _unannounced(_: tuple[Attempt, ...]) -> None:
    """Announce nothing: the calls belong to no stored task."""


class CallTerms(Struct, frozen=True, kw_only=True):
    """The purpose and the limits of a call, which ends at `until_ms` (Unix milliseconds) at the latest.

    No engine may be asked that is not one of `allowed`; that has no default, so that no call can leave it out. `fault`
    is the answer gate: it returns a short phrase that says what is wrong with a completion, or None. If `escalates` is
    False, no strong engine is asked after a faulty or empty answer of a cheap one. `timed_out` are the calls for the
    same answer that timed out in earlier claims. `earlier` are the attempts at the same answer that
    were made on other terms; `announce` is called before each call. `open_item` begins
    the stream of each call's text; None if the text is not streamed. `line` is where the call waits for its place.
    `accept` reads answers that must follow the caller's schema; None if the caller gave no schema.
    """

    purpose: str
    tier: Tier
    until_ms: int
    allowed: AllowedEngines
    budget: Budget = field(default_factory=lambda: Budget(None))
    escalates: bool = True
    fault: Callable[[Completion], str | None] | None = None
    timed_out: tuple[Attempt, ...] = ()
    earlier: tuple[Attempt, ...] = ()
    announce: Announce = _unannounced
    open_item: OpenItem | None = None
    accept: Accept | None = None
    line: Line = OF_NO_TENANT

    def left_s(self, now_ms: int) -> float:
        """Return the seconds left until `until_ms`; negative after it."""
        return (self.until_ms - now_ms) / 1000
