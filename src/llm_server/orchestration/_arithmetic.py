"""Checks the sums an answer shows: `(12 + 4) * 3 = 48` must hold, by exact fractions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import product

from llm_server.orchestration._fences import parted

READ_MOST_CHARS = 20_000
EQUATIONS_MOST = 100
SHOWN_MOST_CHARS = 80
_SIGNS = {"×": "*", "·": "*", "⋅": "*", "\\times": "*", "\\cdot": "*", "\\*": "*", "÷": "/", "\\div": "/", "−": "-"}
_NUMBER = r"[$€£]?\d{1,15}(?:,\d{3}){0,5}(?:\.\d{1,12})?(?![.,]?\d)%?"
_TOKEN = rf"{_NUMBER}|[-+*/x()]"
_EQUATION = (
    rf"(?P<left>(?:(?:{_TOKEN}) ?){{3,40}})= ?(?P<right>-?{_NUMBER}(?:/\d{{1,6}}(?![.,]?\d))?)"
    r"(?P<after> ?[-+*/x^=(]| ?(?:thousand|million|billion|trillion|hundred|dozen|k|m|bn|mod|r)\b|[\w°²³!/])?"
)
# What stands before an equation that is only the end of something longer.
_GOES_ON = r"(?:[-+*/^%)]|\bx) *$|[\w.,]$"
# Where numbers do not count as usual, or the sign joins texts.
_OTHER_SUMS = r"\b(?:mod(?:ulo|ulus)?|binary|octal|hex(?:adecimal)?|base[ -]?\d+|boolean|concatenat\w*)\b|\b0x"


def wrong_equation(text: str, given: str) -> str | None:
    """The first equation of plain numbers in a text that does not hold, as it is written; None when there is none.

    A result may be rounded or cut to the decimals it has; a percentage may stand for its hundredth or for itself. Not
    judged: what also stands in `given`, code, equations with names or units in them, and one that is carried on after
    its result (`2 + 3 = 5 + 1 = 6`).
    """
    if re.search(_OTHER_SUMS, text, re.IGNORECASE):
        return None
    read, known = _plain(text[:READ_MOST_CHARS]), _squeezed(_plain(given[:READ_MOST_CHARS]))
    for left, right in _equations(read):
        if not _holds(left, right) and _squeezed(f"{left}={right}") not in known:
            return f"{left} = {right}"[:SHOWN_MOST_CHARS]
    return None


def _plain(text: str) -> str:
    """The text without code blocks and marks of emphasis, one sign for each operation."""
    text, _ = parted(text)
    for sign, plain in _SIGNS.items():
        text = text.replace(sign, plain)
    text = re.sub(r"^ {0,3}[-+*] ", "", text, flags=re.MULTILINE)  # a list's mark is no sign
    return re.sub(r"[*_]{2,}|\\[$]|\\text\{[^}]{0,30}\}", " ", text)


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def _equations(text: str) -> Iterator[tuple[str, str]]:
    """Both sides of each equation that stands on its own."""
    start = 0
    for _ in range(EQUATIONS_MOST):
        found = re.compile(_EQUATION).search(text, start)
        if not found:
            return
        start = found.start("right")  # a chain's next equation begins with this one's result
        if found["after"] is None and not re.search(_GOES_ON, text[max(0, found.start() - 4) : found.start()]):
            left = found["left"].strip()
            yield left[left.count("(") > left.count(")") and left[0] == "(" :].strip(), found["right"]


def _holds(left: str, right: str) -> bool:
    """Whether any reading of the percentages makes both sides the same, to the decimals of the result; or none can."""
    near = Fraction(1, 10 ** len(right.partition("/")[0].rstrip("%").partition(".")[2]))
    if "/" in right:
        near = Fraction(1, 10**6)
    for hundredths in product((False, True), repeat=2 if "%" in left + right else 1):
        value, result = _value(left, hundredths[0]), _value(right, hundredths[-1])
        if value is None or result is None:
            return True
        if abs(value - result) < (near / 100 if "%" in right and hundredths[-1] else near):
            return True
    return False


def _value(expression: str, hundredth: bool) -> Fraction | None:
    """What an expression comes to, its percentages taken as hundredths or as they stand; None if it is none."""
    tokens = re.findall(_TOKEN, expression)
    try:
        value, rest = _sum(tokens, hundredth)
    except (IndexError, ValueError, ZeroDivisionError):
        return None
    return None if rest else value


def _sum(tokens: Sequence[str], hundredth: bool) -> tuple[Fraction, Sequence[str]]:
    negative = tokens[0] == "-"
    value, tokens = _product(tokens[negative:], hundredth)
    value = -value if negative else value
    while tokens and tokens[0] in ("+", "-"):
        term, rest = _product(tokens[1:], hundredth)
        value, tokens = value + (term if tokens[0] == "+" else -term), rest
    return value, tokens


def _product(tokens: Sequence[str], hundredth: bool) -> tuple[Fraction, Sequence[str]]:
    value, tokens = _factor(tokens, hundredth)
    while tokens and tokens[0] in ("*", "x", "/"):
        factor, rest = _factor(tokens[1:], hundredth)
        value, tokens = value / factor if tokens[0] == "/" else value * factor, rest
    return value, tokens


def _factor(tokens: Sequence[str], hundredth: bool) -> tuple[Fraction, Sequence[str]]:
    """A number or a sum in brackets. Raises ValueError for anything else, IndexError at the end."""
    if tokens[0] == "(":
        value, tokens = _sum(tokens[1:], hundredth)
        if tokens[0] != ")":
            raise ValueError(tokens[0])
        return value, tokens[1:]
    value = Fraction(re.sub(r"[^\d.]", "", tokens[0]))
    return value / 100 if hundredth and tokens[0].endswith("%") else value, tokens[1:]
