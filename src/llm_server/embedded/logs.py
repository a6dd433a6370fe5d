"""Format log lines as text: time, level, a fixed phrase and its fields. On AWS, the Lambda runtime writes JSON."""

from __future__ import annotations

import logging

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class TextFormatter(logging.Formatter):
    """Formats lines such as `12:00:01 INFO task state task_id=… status=Completed`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line, followed by the fields that the caller passed as `extra`."""
        fields = " ".join(f"{name}={_shown(value)}" for name, value in vars(record).items() if name not in _OWN)
        return f"{super().formatMessage(record)} {fields}".rstrip()


def _shown(value: object) -> str:
    """Return a value, quoted unless it is one printable word, so that a line break in it cannot fake a log line."""
    text = str(value)
    return text if text.isprintable() and " " not in text else repr(text)
