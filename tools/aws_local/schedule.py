"""A stand-in for EventBridge Scheduler: invokes the worker function with the sweep's event every minute."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from aws_local.invocation import Event

SWEEP_S = 60.0
SWEEP: Event = {"sweep": True}
"""The event of the template's schedule; a test compares the two."""

_log = logging.getLogger(__name__)


def sweep(invoke: Callable[[Event], Any], stop: threading.Event, *, every_s: float = SWEEP_S) -> None:
    """Invoke the function every `every_s` seconds until `stop` is set. A failed sweep is not repeated."""
    while not stop.wait(every_s):
        try:
            invoke(SWEEP)
        except Exception:  # as Lambda, go on after any error of the function
            _log.exception("sweep failed")
