"""The arguments of a Lambda handler: an event, and a context with a deadline."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

Event = dict[str, Any]
Handler = Callable[[Event, Any], Any]


class LambdaContext:
    """The context of one invocation, with the attributes that the handlers and Mangum use."""

    def __init__(self, function: Mapping[str, Any], *, name: str) -> None:
        self.function_name = name
        self.memory_limit_in_mb = str(function["MemorySize"])
        self.aws_request_id = str(uuid.uuid4())
        self.invoked_function_arn = f"arn:aws:lambda:us-east-1:000000000000:function:{name}"
        self.function_version = "$LATEST"
        self._deadline_s = time.monotonic() + float(function["Timeout"])

    def get_remaining_time_in_millis(self) -> int:
        """Return how long this invocation may still run."""
        return max(0, int((self._deadline_s - time.monotonic()) * 1000))
