"""The answer gate finds plain faults and, above all, no false ones: each costs a call of a strong engine."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_server.orchestration.answer_gate import gate
from support.scripted_engine import a_completion

MAX_S = 1.0 if sys.gettrace() is None else 4.0
"""CPU seconds that no text made to be slow may take. On two busy cores the slowest takes 0.6.

Measuring the coverage traces each line, which takes several times as long.
"""

LONG_CHARS = 300_000
LONG_UNITS = (
    *(".", ",", "/", " ", "-", "`", "[", "1", "\n", "\t", "<", "*", "_", "%", "(", "€", "'", '"', "\u2028"),
    *(
        "= ",
        "1+1=",
        "1 + 1 = 3, ",
        "1,111",
        "1.",
        "1- ",
        "1%+",
        "x ",
        "= 1",
        "- ",
        "-\n",
        "\n\n- ",
        "**",
        "A ",
        "mod",
        "base1",
    ),
    *(
        "1 111",
        "1 111 ",
        "1,1 + 1.1 = 1",
        "1 € + ",
        "１＋１＝１",
        "抱歉",
        "но я не могу ",
        "i can't help, but ",
        "mostly ",
    ),
    *("\\text{", "\\boxed{", "yes ", "<think>", "i am ", "...\n", "111111111111111,111,111,111.111111111111+"),
)
A_FORM_EACH = (
    "Tell me.",
    "Respond in JSON with exactly 2 bullet points.",
    "Answer yes or no.",
    "Answer with only the number.",
    "Answer with only the letter.",
    "Answer in one word.",
    "Write in exactly 3 words. Exactly 3 lines. At most 9 words. Do not use commas. Answer in capital letters.",
)


def fault(answer: str, asked: str = "Tell me.", **changes: Any) -> str | None:
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
        "**I'm sorry**, but I can't assist with that.",
        "\"I'm sorry, but I can't assist with that.\"",
        "“I am sorry, but I can't assist with that.”",
        "> I'm sorry, I can't help you write malware.",
        "I'm afraid I can't help with that.",
        "No, I can't help with that.",
        "I must decline this request.",
        "I'm sorry, but I have to decline to answer that.",
        "I cannot write explicit content.",
        "Tut mir leid, dabei kann ich nicht helfen.",
        "Ich kann dabei leider nicht helfen.",
        "Es tut mir leid. Ich kann diese Anfrage nicht beantworten.",
        "Je ne peux pas vous aider",
        "<think>They want it. I may not.</think>\nI can't help with that.",
    ],
)
def test_a_refusal_is_a_fault(answer: str) -> None:
    """Refusals are recognised in four languages."""
    assert fault(answer) == "a refusal"


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't attend the meeting on Friday.",
        "Subject: Friday\n\nI'm sorry, but I can't help you move.",
        "I can help. I cannot provide the date, but the method is this.",
        "Sorry for the delay; the report is below.",
        "I can't assist with that request directly. " + "But this is how it is done. " * 30,
        "I can't help but wonder at the sea.",
        "I cannot see the stars tonight, and yet I sing.",
        "I can't continue like this, Anna.",
        "I can't open the door, he said.",
        "I must decline your invitation.",
        "I cannot write to you every day.",
        "Es tut mir leid, ich kann das Treffen am Freitag nicht wahrnehmen.",
        "Désolé, je ne peux pas venir vendredi.",
    ],
)
def test_an_apology_is_no_refusal(answer: str) -> None:
    """A letter that declines, and a long text that begins with what it cannot do, are answers."""
    assert fault(answer) is None


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("Write an e-mail that declines the invitation.", "I'm sorry, but I can't provide my presence on Friday."),
        ("Politely refuse the customer's wish.", "Unfortunately, I cannot process your return."),
        ("How do I say no to a salesman?", "No, I can't help with that."),
        ("Translate: Es tut mir leid, ich kann nicht helfen.", "I'm sorry, I can't help you."),
        ("Who says “I'm sorry, Dave. I'm afraid I can't do that”?", "“I'm sorry, Dave. I'm afraid I can't do that.”"),
        ("Continue 'I'm sorry, I can't' as a bot would.", "I'm sorry, I can't help you with that."),
        ("Repeat after me: I'm sorry, I can't help you", "I'm sorry, I can't help you"),
        ("Write my apology to Ann." + " So it was." * 300, "I'm sorry, I can't help you on Friday."),
    ],
)
def test_words_of_refusal_that_are_asked_for_are_no_refusal(asked: str, answer: str) -> None:
    """They are asked for in a letter, a translation or a quotation; in other answers the same words are a refusal."""
    assert fault(answer, asked) is None
    if answer.startswith(("No", "I'm sorry, I")):
        assert fault(answer, "List two towns.") == "a refusal"


def test_thoughts_before_an_answer_are_not_judged() -> None:
    """The thoughts may contain wrong sums, and only the text after them needs the requested form."""
    thoughts = "<think>\n2 + 2 = 5? So 2 + 2 = 5.\n```python\ndef f(:\n```\n</think>\n"

    assert fault(f"{thoughts}Yes.", "Is it? Answer yes or no.") is None
    assert fault(f"{thoughts}It depends.", "Is it? Answer yes or no.") == "not the form asked for: yes or no"
    assert fault(f"{thoughts}2 + 2 = 6") == "wrong arithmetic: 2 + 2 = 6"
    assert fault(thoughts) == "empty"


def test_a_cut_answer_is_a_fault_unless_the_caller_set_the_limit() -> None:
    """A stronger engine would be cut as well. The form of a cut answer is not checked."""
    cut = a_completion('{"a": 1', truncated=True)

    assert gate.fault("Respond in JSON.", "", cut) == "cut off by the output limit"
    assert gate.fault("Respond in JSON.", "", cut, limit_is_callers=True) is None


def test_nothing_is_a_fault() -> None:
    """An answer of white space counts as empty."""
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
        (
            "Give exactly 2 bullet points.",
            "So:\n- hot",
            "- hot\n  - 90 °C\n  - or 80 °C\n  - or 70 °C\n- wet",
            "exactly 2 items",
        ),
        (
            "Give exactly 2 bullet points.",
            "- a\n- b\n- c",
            "**1.** hot\n- 90 °C\n- 80 °C\n- 70 °C\n**2.** wet",
            "exactly 2 items",
        ),
        ("Give exactly 2 bullet points.", "✅ hot", "✅ hot\n\n✅ wet", "exactly 2 items"),
        ("Pick. Answer with the letter only.", "paris (a city)", "b", "a letter"),
        ("Pick. Answer with the letter only.", "a city", "(b)", "a letter"),
        ("Pick. Answer with the letter only.", "It", "The correct answer is: **b**.", "a letter"),
        ("Pick. Answer with the letter only.", "paris.", "b) Paris", "a letter"),
        ("Is it so? Answer yes or no.", "It is not known.", "The answer is yes.", "yes or no"),
        (
            "Is it so? Answer true or false.",
            "It is not known.",
            "It has no factors. The statement is **true**.",
            "yes or no",
        ),
        ("Is it so? Answer yes or no.", "Maybe. " * 90, "Let me see. " * 90 + "No.", "yes or no"),
        ("Reply with just a number: the speed", "fast", "≈ 12.5 km/h", "a number"),
        ("Reply with just a number: the speed", "1" * 201, "-3 °C", "a number"),
        ("Answer in one word.", "a " * 4, "Blue", "one word"),
        ("Answer in one word.", "a" * 201, "Blue", "one word"),
    ],
)
def test_an_answer_without_the_form_that_was_asked_for_is_a_fault(
    asked: str, broken: str, kept: str, form: str
) -> None:
    """The request must ask for the form in plain words."""
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
    """JSON may be the subject of a request, or a word in the middle of long material."""
    assert fault("It is a text format for data.", asked) is None or "yes or no matter" in asked


@pytest.mark.parametrize(
    "asked",
    [
        "Write a Python function is_even(n). Return true or false.",
        "Write a Flask app. Return a list of users as JSON.",
        "Write a SQL query. Return only the number of rows.",
        "Write a regex tester. Output true or false.",
        "Write a bot in Python. Answer yes or no to each question.",
    ],
)
def test_what_a_program_returns_is_no_form_of_the_answer(asked: str) -> None:
    """In requests about code, `return` and `output` may describe the code, and with a code block so may `answer`."""
    assert fault("This does it:\n```python\nx = 1\n```\nTry it out now.", asked) is None
    if "Answer" not in asked:
        assert fault("This does it, as far as I can see.", asked) is None


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
        "48 + 24 = **73**",
        r"48 + 24 = \boxed{73}",
        "200 - 25% = 160",
        "1.299 + 201 = 1.600",
        "0,125 + 1 = 1,126",
        "9-3 = 5",
        "3-7 = -5",
        "5 * 8 = 45 hours",
    ],
)
def test_a_sum_that_does_not_hold_is_a_fault(equation: str) -> None:
    """The fault shows the equation as it is written, so that a reader of the receipt can check it."""
    found = fault(f"We get {equation} clips.")

    assert found is not None
    assert found.startswith("wrong arithmetic: ")


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
        "200 - 25% = 150 and 100 + 10% + 5% = 115.5 and 50 * 3 - 10% = 135",
        "1.299 + 201 = 1.500 Euro",
        "0,125 + 1 = 1,125",
        "√16 + 2 = 6, sqrt 16 + 2 = 6",
        "8 + 5 = 1 pm, 9 + 5 = 2 o'clock, 11 + 2 = 1 p.m.",
        "10:30 + 2 = 12:30, 30 + 45 = 1 hour 15 minutes",
        "1 + 1 = 10 in base two",
        "pages 3-7 = 5",
        "2 + 2 = 5 is false",
        "2 + 2 = 5 is wrong",
        "The claim: 2 + 2 = 5.",
        "❌ 2 + 2 = 5",
        "48 + 24 = **72** + 1",
        "Is 2 + 2 = 5? No.",
        r"48 + 24 = \boxed{72}",
    ],
)
def test_what_is_no_plain_sum_or_holds_is_left_alone(text: str) -> None:
    """These are roundings, chains, units, powers, other number systems, and code."""
    assert fault(text) is None


def test_a_sum_that_the_request_shows_is_not_held_against_the_answer() -> None:
    """To explain why 2 + 2 = 5 is wrong, an answer has to repeat it."""
    assert fault("We get 2 + 2 = 5.", "Explain: 2+2=5.") is None
    assert fault("We get 2 + 2 = 5.", "Filler. " * 4_000 + "Explain: 2+2=5.") is None
    assert fault("1 + 1 = 10", "Add them in binary: 1 and 1.") is None


@pytest.mark.parametrize(
    ("language", "broken", "sound"),
    [
        ("python", "def f(:", "def f():\n    return '\\d'"),
        ("py", "if x\n    y", "    indented = True"),
        ("json", '{"a": 1,}', '{"a": [1, 2]}'),
    ],
)
def test_code_that_does_not_parse_is_a_fault(language: str, broken: str, sound: str) -> None:
    """The code is parsed, but not run."""
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
        "```python\npip install requests\nimport requests\n```",
        "```python\nprint 'x'  # SyntaxError\n```",
        '```json\n{"a": 1 /* one */}\n```',
        '```json\n{"a": 1}\n{"a": 2}\n```',
        '```json\n"scripts": {"build": "make"},\n```',
        '```json\n# the first\n{"a": 1}\n```',
    ],
)
def test_sessions_excerpts_and_other_languages_are_not_judged(block: str) -> None:
    """They are not meant to be complete programs."""
    assert fault(block) is None


def test_code_that_is_only_quoted_is_not_held_against_the_answer() -> None:
    """To explain what is wrong with a line, an answer has to repeat it, and may add a comment."""
    answer = "This line:\n```python\nif x  # the colon is missing\n    y()\n```\nneeds a colon."

    assert fault(answer, "What is wrong?\nif x\n    y()\nz()") is None
    assert fault(answer, "What is wrong?") == "Python code that does not parse"


def test_python_2_is_not_judged_where_it_is_asked_for() -> None:
    """`print x` is valid Python 2."""
    answer = "```python\nprint 'hello'\n```"

    assert fault(answer, "Write it in Python 2.7.") is None
    assert fault(answer, "Write it.") == "Python code that does not parse"


def test_an_engines_bad_escape_prints_no_warning() -> None:
    """The parser's warning would print an engine's text to stderr."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert fault("```python\nx = '\\d'\n```") is None

    assert caught == []


@pytest.mark.parametrize(
    "text",
    [
        "1" * 20_000,
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
        "```python\nx(\n" + 'f"{' * 6_000 + "\n```",
        "```python\nelse:\n" + " x=1\n" * 3_900 + "(\n```",
        "```python\n" + "_" * 19_000 + "(\n```",
        "```json\n" + "<a" * 9_000 + "\n```",
        ("```python\n" + "\n" * 19_900 + "x\n```\n") * 15,
        ("```python\n" + "a=1\n" * 4_900 + "\n```\n") * 15,
        '{"a":' * 900 + "[" + "1," * (LONG_CHARS // 2),
        *((unit * LONG_CHARS)[:LONG_CHARS] + " x!x" for unit in LONG_UNITS),
    ],
    ids=lambda text: text[:24].replace("\n", " "),
)
def test_a_text_made_to_be_slow_is_not(text: str) -> None:
    """Deep nesting and long repetitions take neither time nor stack."""
    took_s = list[float]()

    def judge() -> None:
        for asked in A_FORM_EACH:
            begun = time.thread_time()
            fault(text, asked)
            took_s.append(time.thread_time() - begun)

    worker = threading.Thread(target=judge)
    worker.start()
    worker.join()

    assert len(took_s) == len(A_FORM_EACH)
    assert max(took_s) < MAX_S


@pytest.mark.parametrize(
    "unit",
    [
        *(
            " ",
            "\n",
            "respond in ",
            "please ",
            '"',
            "'",
            "say ",
            "repeat: ",
            "write ",
            "quiz",
            "exactly 2 ",
            "not use ",
        ),
        *("「", "только ", "mit ", "translate ", "do you have "),
    ],
)
def test_a_request_made_to_be_slow_is_not(unit: str) -> None:
    """The request comes from the caller or from a plan."""
    begun = time.thread_time()

    for answer in ("I'm sorry, I can't help you.", "```python\nif x\n```"):
        fault(answer, (unit * LONG_CHARS)[:LONG_CHARS] + "!")

    assert time.thread_time() - begun < MAX_S


@given(st.text(max_size=300), st.text(max_size=300))
def test_no_text_breaks_the_gate(asked: str, answer: str) -> None:
    """An engine may answer with any text."""
    assert isinstance(fault(answer, asked), str | None)


def test_the_gate_is_not_imported_before_an_answer_comes() -> None:
    """The gate imports a parser of code, which the API function does not need."""
    script = "import sys, llm_server.wiring; sys.exit('llm_server.orchestration.answer_gate.gate' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
