"""The longest time that one engine call can have, and the engines on which a call that timed out is not repeated."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from llm_server.orchestration.domain.receipt import Attempt

MAX_TIMEOUTS = 2
"""How often an engine that may bill its calls is asked for one answer, if each call times out."""
NEARLY_ALL = 0.9
"""The share of the window from which a call had enough of it: a repetition would hardly have more time."""


class Window(Struct, frozen=True, kw_only=True):
    """The part of a claim in which engine calls are made: six sevenths of its lease.

    The rest of the lease is for the last write, so that it comes while the worker still owns the task. `longer` tells
    an operator in a few words how to get a longer window.
    """

    lease_s: int
    longer: str = "raise LLM_SERVER_LEASE_S"

    @property
    def ms(self) -> int:
        """The length in milliseconds."""
        return self.lease_s * 1000 * 6 // 7

    @property
    def whole_s(self) -> int:
        """The largest `timeout_s` that an engine can have, in seconds."""
        return self.ms // 1000

    @staticmethod
    def lease_for(timeout_s: int) -> int:
        """Return the shortest lease, in seconds, whose window has room for a call of `timeout_s` seconds."""
        return -(-timeout_s * 7 // 6)

    def advice(self, timed_out: Attempt, timeout_s: int) -> str:
        """Return what to change so that a call that timed out gets more time; `timeout_s` is its engine's."""
        was_cut = timed_out.duration_ms < timeout_s * 1000
        changes = [] if was_cut else ["raise timeout_s"]
        if was_cut or self._is_nearly_all(timeout_s * 1000):
            changes.append(self.longer)
        return " and ".join(changes)

    def _is_nearly_all(self, duration_ms: int) -> bool:
        return duration_ms >= NEARLY_ALL * self.ms

    def given_up(self, timed_out: Iterable[Attempt]) -> dict[str, Attempt]:
        """Return the engines that must not be asked again, each with its last call, after calls that timed out.

        A call is not repeated on an engine that had nearly the whole window for it. An engine of a provider is asked
        for it twice at most, because it may bill each call. `timed_out` are the calls for one answer, oldest first.
        """
        timeouts = dict[str, int]()
        given_up = dict[str, Attempt]()
        for attempt in timed_out:
            engine = attempt.engine
            timeouts[engine] = timeouts.get(engine, 0) + 1
            had_enough = self._is_nearly_all(attempt.duration_ms)
            if had_enough or (attempt.source == "api" and timeouts[engine] >= MAX_TIMEOUTS):
                given_up[engine] = attempt
        return given_up
