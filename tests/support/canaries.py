"""Watch every test for prompts, answers, keys and secrets in logs, error bodies, messages and printed output.

The canaries are the default texts of the builders, of `sent.py`, the scripted and fake engines and the attack, and
anything that looks like a key. This is a pytest plugin: it listens to all loggers, checks stdout and stderr, and fails
the test that leaked. Tests pass the output of server processes and the contents of queues to `check`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Generator, Iterator

import pytest

TEXTS = (
    "Say hello.",
    "Hello.",
    "Why is the sky blue?",
    "The secret of Acme.",
    "Hello from the fake engine.",
    "Build it.",
    "Tells the weather.",
    "18 degrees",
)
NUMBERED = (r"\bSay \d+[ .,]", r"\banswer [0-9a-f]{16}\b", r"\banswe\b")
"""The prompts that the attack repeats, the answers of its engine, and the first piece of each streamed one."""
KEYS = (r"llms_[0-9a-f]{12}_[0-9a-f]{64}", r"sk-[a-z0-9-]{4,}", r"\b0{64}\b")
_CANARY = re.compile("|".join((*map(re.escape, TEXTS), *NUMBERED, *KEYS)))


def found_in(text: str) -> list[str]:
    """Return the canaries in a text."""
    return _CANARY.findall(text)


def check(text: str) -> None:
    """Fail if a text contains a canary."""
    assert found_in(text) == [], "a text that is not secret contains a prompt, an answer or a secret"


class Listener(logging.Handler):
    """Keeps the records that contain a canary in the message, its fields or the traceback."""

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
    """Listen to all loggers, to our own at DEBUG; a test that counts log records itself keeps its level."""
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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Check the output of the test, its fixtures and its processes; output that the test reads, it checks itself."""
    report = yield
    streams = {f"Captured {stream} {report.when}" for stream in ("stdout", "stderr")}
    found = found_in("\n".join(text for name, text in report.sections if name in streams))
    if found and not report.failed:
        report.outcome = "failed"
        report.longrepr = f"printed a prompt, an answer or a secret: {', '.join(found)}"
    return report
