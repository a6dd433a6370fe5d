"""The part of EventBridge Scheduler and Lambda between a minute and a function: the sweep's event, past the queue."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from aws_local.invocation import Event

SWEEP_S = 60.0
SWEEP: Event = {"sweep": True}
"""What the template's schedule invokes the worker with; a test holds it to that."""

_log = logging.getLogger(__name__)


def sweep(invoke: Callable[[Event], Any], stop: threading.Event, *, every_s: float = SWEEP_S) -> None:
    """Invoke the function again and again until told to stop. A sweep that fails is not made up for."""
    while not stop.wait(every_s):
        try:
            invoke(SWEEP)
        except Exception:  # this stands for Lambda, which outlives whatever a function does
            _log.exception("sweep failed")
