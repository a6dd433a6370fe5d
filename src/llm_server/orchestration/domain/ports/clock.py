"""The port for the time."""

from __future__ import annotations

from collections.abc import Callable

Clock = Callable[[], int]
"""Returns the current time as Unix milliseconds."""
