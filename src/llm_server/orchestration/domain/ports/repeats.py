"""The port for POSTs without an Idempotency-Key that a client library may repeat."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct


class Original(Struct, frozen=True, kw_only=True):
    """A POST that a client may repeat until `until_ms`, and the task that it makes. Times are in Unix milliseconds.

    `repeats` is the number of the last repeat that took the task over, and `taker` an id of that repeat alone; 0 and ""
    if none has.
    """

    task_id: str
    at_ms: int
    until_ms: int
    repeats: int = 0
    taker: str = ""


class RepeatStore(Protocol):
    """The POSTs that may be repeated, by the caller's tenant and a fingerprint of caller and body."""

    def note_original(self, tenant: str, fingerprint: str, original: Original) -> None:
        """Store a POST, in one write."""
        ...

    def originals(self, tenant: str, fingerprint: str, *, now_ms: int) -> list[Original]:
        """Return the POSTs with this fingerprint that may be repeated at `now_ms`, oldest first."""
        ...

    def swap_original(self, tenant: str, fingerprint: str, before: Original, after: Original) -> bool:
        """Replace a POST if it is still `before`. Returns whether it is `after` now, so a call can be repeated."""
        ...
