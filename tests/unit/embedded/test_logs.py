"""Log lines as text: one line for each record, whatever its fields contain."""

from __future__ import annotations

import logging
import re

import pytest

from llm_server.embedded.logs import TextFormatter


def line(message: str, *args: object, **fields: object) -> str:
    """Return the line that a record is written as."""
    record = logging.getLogger("test").makeRecord("test", logging.INFO, "f.py", 1, message, args, None, extra=fields)
    return TextFormatter().format(record)


def test_a_line_has_a_time_a_level_a_phrase_and_its_fields() -> None:
    """The fields keep their order."""
    written = line("task state", task_id="t1", status="Completed", attempt=2)

    assert re.fullmatch(r"\d\d:\d\d:\d\d INFO task state task_id=t1 status=Completed attempt=2", written)


def test_a_phrase_without_fields_stands_alone() -> None:
    """The line has no trailing space, and its arguments are inserted."""
    assert line("%d tasks", 7).endswith(" INFO 7 tasks")


@pytest.mark.parametrize("value", ["/a\n12:00:00 INFO task state task_id=t9", "a b", "a\rb", "\x1b[2J", "a\u2028b"])
def test_no_value_can_look_like_a_line_of_ours(value: str) -> None:
    """A caller chooses the path of a request; a line break in it must not fake a log line."""
    written = line("request failed", path=value)

    assert written.endswith(f" request failed path={value!r}")
    assert len(written.splitlines()) == 1


def test_a_failure_is_shown_with_its_trace_below() -> None:
    """Only a traceback takes more than one line."""
    try:
        raise RuntimeError("boom")
    except RuntimeError as error:
        caught = (RuntimeError, error, error.__traceback__)
    record = logging.getLogger("test").makeRecord("test", logging.ERROR, "f.py", 1, "request failed", (), caught)

    first, *trace = TextFormatter().format(record).splitlines()
    assert first.endswith(" ERROR request failed")
    assert trace[-1] == "RuntimeError: boom"
