"""Shows the events of a task on a terminal: text as it comes, and a line for each other event.

The texts of parallel steps are never mixed inside a line. One text has the line that is being written; the others wait
until that line is complete, or its text has ended.
"""

from collections.abc import Callable, Mapping
from typing import Any

from llm_server.cli import display

_QUIET = frozenset({"claimed", "attempt.completed", "receipt"})
"""Events without a line: others say the same, or what follows the end of the task."""
_ENDING = ("step.completed", "step.failed", "attempt.failed", "completed", "failed", "cancelled")


class Transcript:
    """Writes events through `write`. `answer` is the text of the last engine call that belongs to no step."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._texts: dict[int, _Text] = {}
        self._current: _Text | None = None
        self._waiting_lines: list[str] = []
        self._labels: dict[int, str] = {}
        self._answer_item = 0
        self.answer = ""

    def show(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "text.delta":
            self._show_text(event)
            return
        step = display.safe(str(event.get("step") or ""))
        self._labels[event["number"]] = step
        self._end_texts(event["event"], step)
        line = _line(event)
        if line:
            self._waiting_lines.append(line)
        self._flush()

    def close(self) -> None:
        """Write what still waits, and end the line."""
        for text in self._texts.values():
            text.has_ended = True
        self._flush()

    def _show_text(self, event: Mapping[str, Any]) -> None:
        item, piece = int(event.get("item") or 0), display.safe(str(event.get("text") or ""))
        label = display.safe(str(event.get("step") or self._labels.get(item) or ""))
        if not label:
            before, self._answer_item = self._answer_item, item
            self.answer = (self.answer if before == item else "") + str(event.get("text") or "")
        text = self._texts.setdefault(item, _Text(label))
        text.waiting += piece
        self._flush()

    def _end_texts(self, name: str, step: str) -> None:
        """Note that the texts of a step have ended, or all texts if the task has ended or a call of no step failed."""
        if name.startswith("attempt.") or name in _ENDING:
            for text in self._texts.values():
                text.has_ended |= not step or text.label == step

    def _flush(self) -> None:
        """Write as much as is possible without mixing two texts inside a line."""
        current = self._current
        if current is not None:
            self._write_lines(current)
            if not (current.at_line_start or current.has_ended):
                self._write_rest(current)
                return
        for text in [*([current] if current else []), *self._texts.values()]:
            self._write_lines(text)
            if text.has_ended:
                self._write_rest(text)
                self._write("" if text.at_line_start else "\n")
                text.at_line_start = True
        self._texts = {item: text for item, text in self._texts.items() if not text.has_ended}
        for line in self._waiting_lines:
            self._write(line + "\n")
        self._waiting_lines = []
        begun = (text for text in self._texts.values() if text.waiting)
        self._current = current if current and not current.has_ended else next(begun, None)
        if self._current is not None:
            self._write_rest(self._current)

    def _write_lines(self, text: "_Text") -> None:
        """Write the whole lines of a text."""
        lines, newline, text.waiting = text.waiting.rpartition("\n")
        for line in lines.split("\n") if newline else ():
            self._write(f"{text.label_at_start}{line}\n")
            text.at_line_start = True

    def _write_rest(self, text: "_Text") -> None:
        """Write what follows the last whole line of a text."""
        if text.waiting:
            self._write(text.label_at_start + text.waiting)
            text.waiting, text.at_line_start = "", False


class _Text:
    """The text of one engine call. `waiting` is what is not written yet."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.waiting = ""
        self.at_line_start = True
        self.has_ended = False

    @property
    def label_at_start(self) -> str:
        """The label of a line that begins, "" inside a line."""
        return f"[{self.label}] " if self.label and self.at_line_start else ""


def _line(event: Mapping[str, Any]) -> str:
    """Return the line about an event that is not text; "" for those that say nothing new."""
    name, detail = str(event["event"]), str(event.get("detail") or "")
    step, engine = str(event.get("step") or ""), str(event.get("engine") or "")
    if name in _QUIET:
        return ""
    detail = "" if detail == step else detail
    parts = [name.replace(".", " ").replace("_", " "), "" if detail.startswith(engine) else engine, detail]
    return display.safe(f"{f'[{step}] ' if step else ''}-- {': '.join(part for part in parts if part)}")
