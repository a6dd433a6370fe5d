"""Checks the sums an answer shows: `(12 + 4) * 3 = 48` must hold, by exact fractions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import Enum
from fractions import Fraction
from itertools import product

from llm_server.orchestration.answer_gate.code_blocks import parted

MAX_READ_CHARS = 20_000
MAX_EQUATIONS = 100
MAX_TOKENS = 40
MAX_SHOWN_CHARS = 80
NEAR_CHARS = 80
"""How far around an equation a word is looked for that says it is wrong on purpose."""

_SIGNS = {"×": "*", "·": "*", "⋅": "*", "\\times": "*", "\\cdot": "*", "\\*": "*", "÷": "/", "\\div": "/", "−": "-"}
_NUMBER = r"[$€£]?\d{1,15}(?:,\d{3}){0,5}(?:\.\d{1,12})?(?![.,]?\d)%?"
_TOKEN = rf"{_NUMBER}|[-+*/x()]"
# Nothing need follow the left side: it is read once, never tried again from its next sign.
_EQUATION = (
    rf"(?P<left>(?:(?:{_TOKEN}) ?)+)(?:= {{0,4}}(?P<right>-?{_NUMBER}(?:/\d{{1,6}}(?![.,]?\d))?)"
    r"(?P<after> {0,3}[-+*/x^=(]| ?(?:thousand|million|billion|trillion|hundred|dozen|k|m|bn|mod|r)\b"
    r"| ?(?i:[ap]\.?m|o['’]clock|uhr|minute|hour|day|week|month|year)\b|:\d|[\w°²³!?/])?)?"
)
# What stands before an equation that is only the end of something longer, or under a root.
_GOES_ON = r"(?:[-+*/^%)√∛–—]|\bx|\b(?:sqrt|log|ln|sin|cos|tan)) *$|(?:[\w.,!°]|\d:)$"
_RANGE = r"(\d+)-(\d+)"
# Where numbers do not count as usual, or the sign joins texts.
_OTHER_SUMS = (
    r"\b(?:mod(?:ulo|ulus|ular)?|binary|octal|hex(?:adecimal)?|binär\w*|boolean|concatenat\w*|"
    r"base[ -]?(?:\d+|two|three|four|five|six|seven|eight|nine|twelve|sixteen))\b|\b0[xb]"
)
_ON_PURPOSE = (
    r"\b(?:false|wrong(?:ly)?|incorrect\w*|untrue|(?:not|isn['’]t) (?:true|right|correct|equal)|mistak\w+|errors?|myth|"
    r"claim(?:s|ed)?|fallac\w+|contradict\w+|impossible|nonsense|absurd|falsch\w*|fehler\w*|faux|fausse|fals[oa])\b|[❌✗✘≠]"
)


class _Percent(Enum):
    """What `25%` may stand for."""

    ITSELF = 1
    HUNDREDTH = 2
    OF_WHAT_STANDS_BEFORE = 3  # `200 - 25%` takes a quarter of 200 away; a hundredth elsewhere


def wrong_equation(text: str, given: str) -> str | None:
    """The first equation of plain numbers in a text that does not hold, as it is written; None when there is none.

    A result may be rounded or cut to the decimals it has; a percentage may stand for its hundredth, for itself or for
    its part of what stands before; a dot before three digits may divide thousands. Not judged: what also stands in
    `given`, code, equations with names or units in them, one that is said to be wrong, and one that is carried on after
    its result (`2 + 3 = 5 + 1 = 6`).
    """
    given = given if len(given) <= MAX_READ_CHARS else given[: MAX_READ_CHARS // 2] + given[-MAX_READ_CHARS // 2 :]
    if re.search(_OTHER_SUMS, f"{given}\n{text}", re.IGNORECASE):
        return None
    read, known = _plain(text[:MAX_READ_CHARS]), _squeezed(_plain(given))
    for left, right in _equations(read):
        if not _holds(left, right) and _squeezed(f"{left}={right}") not in known:
            return f"{left} = {right}"[:MAX_SHOWN_CHARS]
    return None


def _plain(text: str) -> str:
    """The text without code blocks and marks of emphasis, one sign for each operation."""
    text, _ = parted(text)
    for sign, plain in _SIGNS.items():
        text = text.replace(sign, plain)
    text = re.sub(r"^ {0,3}[-+*] ", "", text, flags=re.MULTILINE)  # a list's mark is no sign
    text = re.sub(r"\\(?:boxed|mathbf|textbf)\{([^{}]{0,30})\}", r" \1 ", text)
    return re.sub(r"[*_]{2,}|\\[$]|\\text\{[^}]{0,30}\}", " ", text)


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def _equations(text: str) -> Iterator[tuple[str, str]]:
    """Both sides of each equation that stands on its own; a chain's next one begins with the last one's result."""
    start = found_n = 0
    pattern = re.compile(_EQUATION)
    while found_n < MAX_EQUATIONS and (found := pattern.search(text, start)):
        start = found.end("left") if found["right"] is None else found.start("right")
        if found["right"] is None or not 3 <= len(re.findall(_TOKEN, found["left"])) <= MAX_TOKENS:
            continue
        found_n += 1
        if found["after"] is None and not _is_spoken_of(text, found):
            left = found["left"].strip()
            yield left[left.count("(") > left.count(")") and left[0] == "(" :].strip(), found["right"]


def _is_spoken_of(text: str, found: re.Match[str]) -> bool:
    """Whether it is the end of something longer, a range such as `pages 3-7`, or near a word that says it is wrong."""
    begin, end = found.span()
    pages = re.fullmatch(_RANGE, found["left"].strip())
    return bool(
        re.search(_GOES_ON, text[max(0, begin - 5) : begin])
        or (pages and int(pages[1]) < int(pages[2]) and found["right"][0] != "-")
        or re.search(_ON_PURPOSE, text[max(0, begin - NEAR_CHARS) : begin], re.IGNORECASE)
        or re.search(_ON_PURPOSE, text[end : end + NEAR_CHARS], re.IGNORECASE)
    )


def _holds(left: str, right: str) -> bool:
    """Whether any reading makes both sides the same, to the decimals of the result; or none can."""
    lefts = tuple(_Percent) if "%" in left else (_Percent.ITSELF,)
    rights = (_Percent.ITSELF, _Percent.HUNDREDTH) if "%" in right else (_Percent.ITSELF,)
    notations = ((left, right), (_continental(left), _continental(right)))
    for (sum_, result_), of_left, of_right in product(notations, lefts, rights):
        value, result = _value(sum_, of_left), _value(result_, of_right)
        if value is None or result is None:
            return True
        near = _near(result_) / (100 if of_right is _Percent.HUNDREDTH else 1)
        if abs(value - result) < near:
            return True
    return False


def _continental(side: str) -> str:
    """One side of an equation with dots for commas and commas for dots, where they may divide thousands."""
    swapped = {".": ",", ",": "."}
    return re.sub(r"(?<![\d.,])(\d{1,3})([.,])(?=\d{3}(?![\d.,]))", lambda found: found[1] + swapped[found[2]], side)


def _near(result: str) -> Fraction:
    """What a result may be off: less than one in its last decimal."""
    if "/" in result:
        return Fraction(1, 10**6)
    return Fraction(1, 10 ** len(result.rstrip("%").partition(".")[2]))


def _value(expression: str, percent: _Percent) -> Fraction | None:
    """What an expression comes to in one reading of its percentages; None if it is none."""
    tokens = re.findall(_TOKEN, expression)
    try:
        value, rest = _sum(tokens, percent)
    except (IndexError, ValueError, ZeroDivisionError):
        return None
    return None if rest else value


def _sum(tokens: Sequence[str], percent: _Percent) -> tuple[Fraction, Sequence[str]]:
    negative = tokens[0] == "-"
    value, tokens = _product(tokens[negative:], percent)
    value = -value if negative else value
    while tokens and tokens[0] in ("+", "-"):
        term, rest = _product(tokens[1:], percent)
        if percent is _Percent.OF_WHAT_STANDS_BEFORE and tokens[1][-1] == "%" and len(tokens) - len(rest) == 2:
            term *= value
        value, tokens = value + (term if tokens[0] == "+" else -term), rest
    return value, tokens


def _product(tokens: Sequence[str], percent: _Percent) -> tuple[Fraction, Sequence[str]]:
    value, tokens = _factor(tokens, percent)
    while tokens and tokens[0] in ("*", "x", "/"):
        factor, rest = _factor(tokens[1:], percent)
        value, tokens = value / factor if tokens[0] == "/" else value * factor, rest
    return value, tokens


def _factor(tokens: Sequence[str], percent: _Percent) -> tuple[Fraction, Sequence[str]]:
    """A number or a sum in brackets. Raises ValueError for anything else, IndexError at the end."""
    if tokens[0] == "(":
        value, tokens = _sum(tokens[1:], percent)
        if tokens[0] != ")":
            raise ValueError(tokens[0])
        return value, tokens[1:]
    value = Fraction(re.sub(r"[^\d.]", "", tokens[0]))
    is_hundredth = tokens[0][-1] == "%" and percent is not _Percent.ITSELF
    return value / 100 if is_hundredth else value, tokens[1:]
