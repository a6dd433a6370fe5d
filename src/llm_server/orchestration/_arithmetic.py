"""Checks the sums an answer shows: `12 * 3 + 4 = 40` must hold, by exact fractions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import product

from llm_server.orchestration._fences import parted

READ_MOST_CHARS = 20_000
EQUATIONS_MOST = 100
SHOWN_MOST_CHARS = 80
_SIGNS = {"×": "*", "·": "*", "⋅": "*", "\\times": "*", "\\cdot": "*", "÷": "/", "\\div": "/", "−": "-", "–": "-"}
_NUMBER = r"[$€£]?\d{1,15}(?:,\d{3}){0,5}(?:\.\d{1,12})?(?![.,]?\d)%?"
_EQUATION = (
    rf"(?P<left>{_NUMBER}(?: ?[-+*/x] ?{_NUMBER}){{1,12}}) ?= ?(?P<right>-?{_NUMBER})"
    r"(?P<after> ?[-+*/x^=(]| ?(?:thousand|million|billion|trillion|hundred|dozen|k|m|bn|mod|r)\b|[\w°²³!/])?"
)
_GOES_ON = r"(?:[-+*/^%)]|\bx) *$|[\w.,]$"  # what stands before an equation that is only the end of a longer one
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
            yield found["left"].strip(), found["right"].strip()


def _holds(left: str, right: str) -> bool:
    """Whether any reading of the percentages makes both sides the same, to the decimals of the result."""
    parts = re.findall(rf"{_NUMBER}|[-+*/x]", left)
    numbers, signs = parts[::2], ["*" if sign == "x" else sign for sign in parts[1::2]]
    decimals = len(right.rstrip("%").partition(".")[2])
    near = Fraction(1, 10**decimals)
    for hundredths in product((False, True), repeat=2 if "%" in left + right else 1):
        try:
            value = _value([_fraction(n, hundredths[0]) for n in numbers], signs)
        except ZeroDivisionError:
            return True
        if abs(value - _fraction(right, hundredths[-1])) < (near / 100 if "%" in right and hundredths[-1] else near):
            return True
    return False


def _fraction(number: str, hundredth: bool) -> Fraction:
    value = Fraction(re.sub(r"[^\d.-]", "", number))
    return value / 100 if hundredth and number.endswith("%") else value


def _value(numbers: Sequence[Fraction], signs: Sequence[str]) -> Fraction:
    """Products first, then sums, from the left."""
    terms = [numbers[0]]
    for sign, number in zip(signs, numbers[1:], strict=True):
        if sign == "*":
            terms[-1] *= number
        elif sign == "/":
            terms[-1] /= number
        else:
            terms.append(number if sign == "+" else -number)
    return sum(terms, Fraction())
