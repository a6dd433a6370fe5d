"""No prompt, answer, key or secret in a log line, an error body or what a server prints: watched in every test.

The canaries are what the builders, the scripted engines and the fake ones say unless a test says otherwise, and
whatever looks like a key. A pytest plugin: its fixture listens to every logger and fails the test that leaked.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import pytest

TEXTS = ("Say hello.", "Hello.", "Why is the sky blue?", "The secret of Acme.", "Hello from the fake engine.")
KEYS = (r"llms_[0-9a-f]{12}_[0-9a-f]{64}", r"sk-[a-z0-9-]{4,}", r"\b0{64}\b")
_CANARY = re.compile("|".join((*map(re.escape, TEXTS), *KEYS)))


def found_in(text: str) -> list[str]:
    """The canaries a text holds."""
    return _CANARY.findall(text)


def check(text: str) -> None:
    """Fail when a text holds one."""
    assert found_in(text) == [], "what everybody may read holds what they may not"


class Listener(logging.Handler):
    """Keeps the records that hold a canary: in the message, the fields beside it, or the traceback."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.heard = 0
        self.leaks: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard += 1
        text = f"{logging.Formatter().format(record)} {vars(record)}"
        self.leaks += [
            f"{record.name}: {record.getMessage()} ({', '.join(found)})" for found in [found_in(text)] if found
        ]


LISTENER = Listener()


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Listen to everything, at DEBUG to our own; a test that counts log records itself keeps its level."""
    ours, root = logging.getLogger("llm_server"), logging.getLogger()
    level = ours.level
    if "caplog" not in request.fixturenames:
        ours.setLevel(logging.DEBUG)
    root.addHandler(LISTENER)
    LISTENER.leaks.clear()
    yield
    root.removeHandler(LISTENER)
    ours.setLevel(level)
    assert LISTENER.leaks == [], "a log record holds what no log may hold"
