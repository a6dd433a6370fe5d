"""What is plainly wrong with an answer, and above all what is not: a false alarm costs a call of a strong engine."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_server.orchestration import gate
from scripted import a_completion

MOST_S = 2.0
"""More than any of the texts made to be slow may take, on the slowest machine."""


def fault(answer: str, asked: str = "Tell me.", **changes: object) -> str | None:
    return gate.fault(asked, asked, a_completion(answer, **changes))


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't assist with that request.",
        "I cannot fulfill your request. It is not in my abilities.",
        "I’m unable to help with that.",
        "Unfortunately, I am not able to access websites.",
        "As an AI language model, I don't have personal opinions.",
        "Es tut mir leid, aber ich kann dir dabei leider nicht helfen.",
        "Je suis désolé, mais je ne peux pas répondre à cette question.",
        "Lo siento, pero no puedo ayudar con eso.",
    ],
)
def test_a_refusal_is_a_fault(answer: str) -> None:
    """In the four languages the lists know."""
    assert fault(answer) == "a refusal"


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't attend the meeting on Friday.",
        "Subject: Friday\n\nI'm sorry, but I can't help you move.",
        "I can help. I cannot provide the date, but the method is this.",
        "Sorry for the delay; the report is below.",
        "I can't assist with that request directly. " + "But this is how it is done. " * 30,
    ],
)
def test_an_apology_is_no_refusal(answer: str) -> None:
    """A letter that declines, or a long text that begins with what it cannot do."""
    assert fault(answer) is None


def test_a_cut_answer_is_a_fault_unless_the_caller_set_the_limit() -> None:
    """A stronger engine would be cut at the same place; nor is its form judged."""
    cut = a_completion('{"a": 1', truncated=True)

    assert gate.fault("Respond in JSON.", "", cut) == "cut off by the output limit"
    assert gate.fault("Respond in JSON.", "", cut, limit_is_callers=True) is None


def test_nothing_is_a_fault() -> None:
    """White space is nothing."""
    assert fault(" \n") == "empty"


@pytest.mark.parametrize(
    ("asked", "broken", "kept", "form"),
    [
        ("List two towns. Respond in JSON.", "Rome and Oslo", '{"towns": ["Rome", "Oslo"]}', "JSON"),
        ("Return only valid JSON: towns", "- Rome", 'Here:\n```json\n["Rome"]\n```', "JSON"),
        ("Please output a JSON array of towns.", "Rome", "[1, 2]", "JSON"),
        ("Is 7 prime? Answer yes or no.", "It depends.", "Yes.", "yes or no"),
        ("How many legs? Answer with only the number.", "It has eight legs", "**8**", "a number"),
        ("Reply with just a number: the price", "about five", "$1,200.50", "a number"),
        ("Pick. Answer with only the letter.", "Paris, since it is the capital", "B", "a letter"),
        ("Pick. Answer with the letter.", "Paris", "The answer is (B).", "a letter"),
        ("Which is it? Answer in one word.", "It is the blue one there", "Blue.", "one word"),
        ("Give exactly 2 bullet points on tea.", "- hot", "- hot\n- wet", "exactly 2 items"),
    ],
)
def test_an_answer_without_the_form_that_was_asked_for_is_a_fault(
    asked: str, broken: str, kept: str, form: str
) -> None:
    """Only where the request says so in plain words."""
    assert fault(broken, asked) == f"not the form asked for: {form}"
    assert fault(kept, asked) is None


@pytest.mark.parametrize(
    "asked",
    [
        "Write an endpoint and return a JSON response.",
        "What is JSON?",
        "Explain this line: answer yes or no matter what.",
        "The exam said: x." + " Filler." * 300 + " Answer yes or no. " + "Filler. " * 300 + "Summarise it.",
    ],
)
def test_a_form_that_is_only_spoken_of_is_not_asked_for(asked: str) -> None:
    """JSON as a subject, and what stands in the middle of long material."""
    assert fault("It is a text format for data.", asked) is None or "yes or no matter" in asked


@pytest.mark.parametrize(
    "equation",
    [
        "2 + 3 = 6",
        "12 * 3 + 4 = 41",
        "2 × 3 = 7",
        "$5 x 3 = $16",
        "25% * 80 = 30",
        "1,000 / 8 = 120",
        "48/2 = 24, so 48+24 = 73",
        "10 - 12 = 2",
        r"\(7 \times 8 = 54\)",
        "(12 / 20) x 100 = 55%",
        "2 * (3 + 4) - 1 = 15",
        r"200 / 100 \* 40 = 90",
        "1/2 + 1/3 = 4/6",
        "(20 - 4 = 17)",
        "-5 + 3 = 2",
    ],
)
def test_a_sum_that_does_not_hold_is_a_fault(equation: str) -> None:
    """Shown as it is written, so that the receipt can be checked."""
    found = fault(f"We get {equation} clips.")

    assert found is not None
    assert found.startswith("arithmetic that is wrong: ")


@pytest.mark.parametrize(
    "text",
    [
        "2 + 3 = 5",
        "2 + 3 * 4 = 14",
        "10 / 3 = 3.33 and 2 / 3 = 0.66",
        "10 / 4 = 2",
        "20% * 50 = 10, 100 - 20% = 80, 1 / 4 = 25%",
        "1,000 x 3 = 3000",
        "2 + 3 = 5 + 4 = 9",
        "1 + 1 = 3 - 1 = 2, 500 * 4 = 2k, 2 + 1 = 3000 m",
        "5 apples + 2 * 3 = 11",
        "(1 + 2) * 3 = 9 and 2 * (1 + 2) = 6",
        "(12 / 20) * 100% = 60% and (12 / 20) x 100 = 60%",
        "2/2 * 1/2 = 1/2, 5/2 = <<5/2=2.5>>2.5",
        "- 5 + 3 = 8\n* 5 * 3 = 15\n1) 2 + 3 = 5\n1. 2 + 3 = 5",
        "(20 - 4 = 16), -5 + 3 = -2",
        "the 3 4 + 1 = 9 rule, 2 ( 3 = 4, () + 1 = 2",
        "x 2 + 3 = 7",
        "3 + 2 = 5 million, 2 million + 2 = 4",
        "1/2 + 1/3 = 5/6",
        "1 + 1 = 10 in binary",
        "9 + 5 = 2 (mod 12)",
        "2^3 = 8, 2 ** 3 = 8",
        "5 / 0 = 7",
        "1.2.3 + 4 = 5",
        "```python\n# 2 + 2 = 5\n```",
    ],
)
def test_what_is_no_plain_sum_or_holds_is_left_alone(text: str) -> None:
    """Roundings, chains, units, powers, other systems, code."""
    assert fault(text) is None


def test_a_sum_that_the_request_shows_is_not_held_against_the_answer() -> None:
    """Whoever is asked why 2 + 2 = 5 is wrong has to repeat it."""
    assert fault("2 + 2 = 5 is false, because the sum is 4.", "Why is 2+2=5 wrong?") is None


@pytest.mark.parametrize(
    ("language", "broken", "sound"),
    [
        ("python", "def f(:", "def f():\n    return '\\d'"),
        ("py", "if x\n    y", "    indented = True"),
        ("json", '{"a": 1,}', '{"a": [1, 2]}'),
    ],
)
def test_code_that_does_not_parse_is_a_fault(language: str, broken: str, sound: str) -> None:
    """Parsed, never run."""
    found = fault(f"This is it:\n```{language}\n{broken}\n```\nDone.")

    assert found is not None
    assert found.endswith("code that does not parse")
    assert fault(f"This is it:\n```{language}\n{sound}\n```\nDone.") is None


@pytest.mark.parametrize(
    "block",
    [
        "```python\n>>> 1 +\n```",
        "```python\n%timeit f(\n```",
        "```python\ndef f(:\n    ...\n```",
        "```python\nprint(<your name>\n```",
        "```json\n{...}\n```",
        "```json\n{} // an example\n```",
        "```js\nfunction (\n```",
        "```\nif (\n```",
        "```python\ndef f(:",
    ],
)
def test_sessions_excerpts_and_other_languages_are_not_judged(block: str) -> None:
    """What nobody says is a whole program."""
    assert fault(block) is None


def test_python_2_is_not_judged_where_it_is_asked_for() -> None:
    """`print x` is right there."""
    answer = "```python\nprint 'hello'\n```"

    assert fault(answer, "Write it in Python 2.7.") is None
    assert fault(answer, "Write it.") == "Python code that does not parse"


def test_an_engines_bad_escape_prints_no_warning() -> None:
    """The parser's warning would show an engine's text on stderr."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert fault("```python\nx = '\\d'\n```") is None

    assert caught == []


@pytest.mark.parametrize(
    "text",
    [
        "1" * 20_000,
        "." * 100_000 + " x",
        ", " * 100_000 + "x",
        " /" * 100_000,
        "-" * 200_000,
        "`" * 200_000,
        "\n" * 200_000 + "x",
        "1+" * 10_000,
        "(" * 10_000 + "1 + 1 = 3",
        "((((1+" * 4_000,
        "1,111" * 4_000,
        "1 + 1 = 2 " * 2_000,
        "```a\n" * 20_000,
        "[" * 100_000,
        "{" * 50_000,
        "i am " * 5_000,
        "```json\n" + "[" * 19_000 + "\n```",
        "```python\n" + "(" * 19_000 + "\n```",
        "```python\n" + "-" * 19_000 + "1\n```",
        "```python\na" + ".b" * 9_000 + "\n```",
        "```python\n" + "lambda: " * 2_400 + "c\n```",
        "```python\n" + "a if b else " * 1_500 + "c\n```",
    ],
    ids=lambda text: text[:24].replace("\n", " "),
)
def test_a_text_made_to_be_slow_is_not(text: str) -> None:
    """Nested without end, or repeated so that a pattern could try again and again; a worker's stack is small."""
    took_s = list[float]()

    def judge() -> None:
        begun = time.process_time()
        for asked in (
            "Respond in JSON with exactly 2 bullet points.",
            "Reply with only the number.",
            "Answer yes or no.",
        ):
            fault(text, asked)
        for asked in ("Answer with only the letter.", "Answer in one word."):
            fault(text, asked)
        fault(text)
        took_s.append(time.process_time() - begun)

    worker = threading.Thread(target=judge)
    worker.start()
    worker.join()

    assert took_s
    assert took_s[0] < MOST_S


@given(st.text(max_size=300), st.text(max_size=300))
def test_no_text_breaks_the_gate(asked: str, answer: str) -> None:
    """An engine may say anything."""
    assert isinstance(fault(answer, asked), str | None)


def test_the_gate_is_not_imported_before_an_answer_comes() -> None:
    """It brings a parser of code; the API function never judges."""
    script = "import sys, llm_server.wiring; sys.exit('llm_server.orchestration.gate' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
