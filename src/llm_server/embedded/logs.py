"""Log lines for people: a time, a level, a fixed phrase and its fields. On AWS the runtime writes JSON itself."""

from __future__ import annotations

import logging

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class TextFormatter(logging.Formatter):
    """`12:00:01 INFO task state task_id=… status=Completed`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line, with what the caller passed as `extra` behind it."""
        fields = " ".join(f"{name}={_shown(value)}" for name, value in vars(record).items() if name not in _OWN)
        return f"{super().formatMessage(record)} {fields}".rstrip()


def _shown(value: object) -> str:
    """A value as one word, or quoted: a line break in a caller's path must not look like a line of ours."""
    text = str(value)
    return text if text.isprintable() and " " not in text else repr(text)
