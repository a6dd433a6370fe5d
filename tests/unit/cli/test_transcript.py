"""What `watch` shows on a terminal."""

import random
from typing import Any

import pytest

from llm_server.cli.watching.transcript import Transcript


class Terminal:
    """Collects what is written."""

    def __init__(self) -> None:
        self.written = ""
        self.transcript = Transcript(self.write)

    def write(self, text: str) -> None:
        self.written += text

    def show(self, event: str, number: int = 1, **fields: Any) -> None:
        self.transcript.show({"event": event, "number": number, **fields})

    def text(self, item: int, text: str, **fields: Any) -> None:
        self.show("text.delta", item=item, text=text, **fields)

    @property
    def lines(self) -> list[str]:
        return self.written.splitlines()


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


def test_text_is_shown_as_it_comes(terminal: Terminal) -> None:
    terminal.show("attempt.started", 3, engine="claude")
    terminal.text(3, "One by ")
    first = terminal.written
    terminal.text(3, "one\nthey")
    second = terminal.written
    terminal.show("completed", 9)

    assert first == "-- attempt started: claude\nOne by "
    assert second == "-- attempt started: claude\nOne by one\nthey"
    assert terminal.lines[-2:] == ["they", "-- completed"]
    assert terminal.transcript.answer == "One by one\nthey"


def test_the_texts_of_parallel_steps_are_not_mixed_inside_a_line(terminal: Terminal) -> None:
    terminal.text(1, "first ", step="a")
    terminal.text(2, "second line\nthird", step="b")
    terminal.text(1, "line\nnext", step="a")
    terminal.show("step.completed", 8, step="a")
    terminal.text(2, " line\n", step="b")
    terminal.show("step.completed", 9, step="b")
    terminal.transcript.close()

    assert terminal.lines == [
        "[a] first line",
        "[b] second line",
        "[a] next",
        "[a] -- step completed",
        "[b] third line",
        "[b] -- step completed",
    ]


def test_a_step_is_known_from_the_event_that_began_the_call(terminal: Terminal) -> None:
    terminal.show("attempt.started", 5, step="s1", engine="claude")
    terminal.text(5, "Hello")
    terminal.transcript.close()

    assert terminal.lines == ["[s1] -- attempt started: claude", "[s1] Hello"]
    assert terminal.transcript.answer == ""


def test_a_failed_call_does_not_belong_to_the_answer(terminal: Terminal) -> None:
    terminal.text(3, "Wro")
    terminal.show("attempt.failed", 5, engine="a", detail="timeout")
    terminal.text(7, "Right.")
    terminal.show("attempt.completed", 8, engine="a", detail="a")
    terminal.show("completed", 9)
    terminal.show("receipt", 10, detail="0 USD")

    assert terminal.lines == ["Wro", "-- attempt failed: a: timeout", "Right.", "-- completed"]
    assert terminal.transcript.answer == "Right."


def test_an_engine_cannot_control_the_terminal(terminal: Terminal) -> None:
    terminal.text(3, "\x1b[2Jred\x07", step="\x1b[1ma")
    terminal.show("planned", 4, detail="\x1b[0m2 steps")
    terminal.transcript.close()

    assert "\x1b" not in terminal.written
    assert "\x07" not in terminal.written


@pytest.mark.parametrize("seed", range(30))
def test_nothing_is_lost_or_mixed_whatever_the_order(terminal: Terminal, seed: int) -> None:
    """Each word names its step, and each line has the words of one step, in their order."""
    draw = random.Random(seed)
    texts: dict[str, str] = {"a": "", "b": "", "c": ""}
    for word in range(200):
        step = draw.choice("abc")
        piece = f"{step}{word}" + draw.choice((" ", " ", "\n"))
        texts[step] += piece
        terminal.text(ord(step), piece, step=step)
    terminal.transcript.close()
    shown: dict[str, str] = {"a": "", "b": "", "c": ""}
    for line in terminal.lines:
        label, words = line[1], line[4:]
        assert {word[0] for word in words.split()} <= {label}
        shown[label] += words + " "

    assert {step: text.split() for step, text in shown.items()} == {s: text.split() for s, text in texts.items()}
