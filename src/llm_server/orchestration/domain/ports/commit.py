"""When an effect outside the store may follow a write: once the write is committed."""

from collections.abc import Callable

AfterCommit = Callable[[Callable[[], None]], None]
"""`after_commit(call)` calls `call` once the transaction open on this thread is committed; at once if none is open.

`call` must not block or raise. If the transaction is rolled back, it is not called.
"""


def at_once(call: Callable[[], None]) -> None:
    """Call `call`: for a store whose writes are committed when they return."""
    call()
