"""Check the equations that an answer shows, such as `(12 + 4) * 3 = 48`, with exact fractions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import Enum
from fractions import Fraction
from itertools import product

from llm_server.orchestration.answer_gate.arithmetic_words import Meaning, is_wrong_on_purpose, meaning
from llm_server.orchestration.answer_gate.code_blocks import split_blocks

MAX_READ_CHARS = 20_000
MAX_EQUATIONS = 100
MAX_TOKENS = 40
MAX_SHOWN_CHARS = 80
MAX_ESTIMATE_ERROR = Fraction(1, 10)
"""How far an estimate may be off, as a share of the exact value."""

_SIGNS = {"×": "*", "·": "*", "⋅": "*", "\\times": "*", "\\cdot": "*", "\\*": "*", "÷": "/", "\\div": "/", "−": "-"}
_WIDTHS = str.maketrans("０１２３４５６７８９＋－＝＊／（）．，％￥\u00a0\u202f", "0123456789+-=*/().,%¥  ")
"""Full-width characters of Japanese and Chinese texts, and the spaces that French typography puts into numbers."""
_DIGITS = r"\d{1,15}(?:[.,'’ ]\d{3}(?!\d)){0,5}(?:[.,]\d{1,12})?(?![.,]?\d)"
_UNIT = r"(?:[€$£¥₽円元]|(?:USD|EUR|[Ee]uros?|[Dd]ollars?|kg|g|km|cm|mm|ml)(?![\w²³/^]))"
_NUMBER = rf"[$€£¥]?{_DIGITS}(?: ?%| ?{_UNIT})?"
_TOKEN = rf"{_NUMBER}|[-+*/x()]"
# The part after the left side is optional. Without it, a left side that has no result would be tried again from each
# of its signs.
_EQUATION = (
    rf"(?P<left>(?:(?:{_TOKEN}) ?)+)(?:= {{0,4}}(?P<right>-?{_NUMBER}(?:/\d{{1,6}}(?![.,]?\d))?)"
    r"(?P<after> {0,3}(?:[-+*/x^=]|\( ?[\d.+-]|\( ?(?:mod|r)\b)"
    r"| ?(?:thousand|million|billion|trillion|hundred|dozen|k|m|bn|mod|r)\b"
    r"| ?(?i:[ap]\.?m|o['’]clock|uhr|minute|hour|day|week|month|year)\b|:\d|[^\W\u3040-\u30ff\u4e00-\u9fff]|[°²³!?/]"
    r"|[万萬亿億千百兆割时時点點分秒月日年週周度余])?)?"
)
# Matches the text before an equation if the equation is only the end of a longer one, or the argument of a function
# such as a root.
_CONTINUES = r"(?:[-+*/^%)√∛–—]|\bx|\b(?:sqrt|log|ln|sin|cos|tan)) *$|(?:[A-Za-z0-9_.,!°]|\d:)$"
_RANGE = r"(\d+)-(\d+)"


class _Percent(Enum):
    """The numbers that `25%` may stand for."""

    NUMBER = 1  # 25
    HUNDREDTH = 2  # 0.25
    PART_OF_LEFT_TERM = 3  # in `200 - 25%` a quarter of 200, as in `200 - 1/4`; elsewhere a hundredth


def wrong_equation(text: str, prompt: str) -> str | None:
    """Return the first wrong equation of plain numbers in a text, cut to 80 characters; None if no wrong one is found.

    Only the first 20,000 characters of the text are read.
    A result may be rounded or cut off at its last decimal, and an estimate at its last digit that is not 0. `25%` may
    mean 25, 0.25 or a quarter of the term before it, and so may `1/4` where discounts are named. On a clock or a
    compass, counting starts again.
    Dots, commas, apostrophes and spaces may separate thousands, and a dot or a comma the decimals: an equation that is
    right in one reading is not wrong. An equation is not checked if it also stands in the `prompt`, stands in code,
    contains names or several units, stands near a word that says it is wrong, or continues after its result
    (`2 + 3 = 5 + 1 = 6`).
    """
    if "=" not in text and "＝" not in text:
        return None
    if len(prompt) > MAX_READ_CHARS:
        prompt = prompt[: MAX_READ_CHARS // 2] + prompt[-MAX_READ_CHARS // 2 :]
    text = text[:MAX_READ_CHARS]
    means = meaning(prompt, text)
    if means.is_other:
        return None
    in_prompt = _condensed(_plain(prompt))
    for left, right in _equations(_plain(text)):
        if not _holds(left, right, means) and _condensed(f"{left}={right}") not in in_prompt:
            return f"{left} = {right}"[:MAX_SHOWN_CHARS]
    return None


def _plain(text: str) -> str:
    """Return the text without code blocks and marks of emphasis, with one sign for each operation."""
    text, _ = split_blocks(text)
    text = text.translate(_WIDTHS)
    for sign, plain in _SIGNS.items():
        text = text.replace(sign, plain)
    text = re.sub(r"^ {0,3}[-+*] ", "", text, flags=re.MULTILINE)  # the mark of a list item, not a sign
    text = re.sub(r"\\(?:boxed|mathbf|textbf)\{([^{}]{0,30})\}", r" \1 ", text)
    return re.sub(r"[*_]{2,}|\\[$]|\\text\{[^}]{0,30}\}", " ", text)


def _condensed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def _equations(text: str) -> Iterator[tuple[str, str]]:
    """Yield the left and the right side of each equation to check.

    In a chain such as `1 + 2 = 3 + 4 = 7`, the result of one equation begins the left side of the next.
    """
    start = count = 0
    pattern = re.compile(_EQUATION)
    while count < MAX_EQUATIONS and (found := pattern.search(text, start)):
        start = found.end("left") if found["right"] is None else found.start("right")
        if found["right"] is None or not 3 <= len(re.findall(_TOKEN, found["left"])) <= MAX_TOKENS:
            continue
        count += 1
        if found["after"] is None and not _is_exempt(text, found):
            left = found["left"].strip()
            if left.count("(") > left.count(")"):
                left = left.removeprefix("(").strip()
            yield left, found["right"]


def _is_exempt(text: str, found: re.Match[str]) -> bool:
    """Return whether an equation is left unchecked.

    This is so for the end of a longer equation, for a range such as `pages 3-7`, and near a word that says it is wrong.
    """
    begin, end = found.span()
    pages = re.fullmatch(_RANGE, found["left"].strip())
    return bool(
        re.search(_CONTINUES, text[max(0, begin - 5) : begin])
        or (pages and int(pages[1]) < int(pages[2]) and found["right"][0] != "-")
        or is_wrong_on_purpose(text, begin, end)
    )


def _holds(left: str, right: str, means: Meaning) -> bool:
    """Return whether both sides are equal, to the decimals of the result, in any reading of percentages and numbers.

    Also returns True if the sides have different units, or if no reading can be computed.
    """
    units = set(re.findall(_UNIT, f"{left} {right}"))
    if len(units) > 1:
        return True
    has_parts = "%" in left or (means.has_discounts and "/" in left)
    lefts = tuple(_Percent) if has_parts else (_Percent.NUMBER,)
    rights = (_Percent.NUMBER, _Percent.HUNDREDTH) if "%" in right else (_Percent.NUMBER,)
    is_computed = False
    for (sum_text, result_text), left_percent, right_percent in product(_readings(left, right), lefts, rights):
        value, result = _value(sum_text, left_percent), _value(result_text, right_percent)
        if value is None or result is None:
            continue
        is_computed = True
        tolerance = _tolerance(result_text)
        if right_percent is _Percent.HUNDREDTH:
            tolerance /= 100
        if abs(value - result) < tolerance or _means_the_same(value, result, means):
            return True
    return not is_computed


def _readings(left: str, right: str) -> Iterator[tuple[str, str]]:
    """Yield both sides with plain numbers, once for each way to read their dots, commas and spaces.

    A space may separate thousands, or a number from an unrelated one before the left side or behind the result.
    """
    lefts, rights = {left, re.sub(r"^\s*\d{1,15}(?= \d{3})", "", left)}, {right, right.partition(" ")[0]}
    for (left_text, right_text), decimal in product(product(lefts, rights), ".,"):
        sides = _plain_numbers(left_text, decimal), _plain_numbers(right_text, decimal)
        if sides[0] is not None and sides[1] is not None:
            yield sides[0], sides[1]


def _plain_numbers(side: str, decimal: str) -> str | None:
    """Return a side with a dot before decimals and nothing between thousands; None if `decimal` has other uses in it.

    Units are left out.
    """
    thousands = "," if decimal == "." else "."
    number = rf"\d{{1,3}}(?:(?:[{thousands}'’ ]\d{{3}})+)?(?:[{decimal}]\d+)?|\d+(?:[{decimal}]\d+)?"
    side = re.sub(_UNIT, "", side)
    numbers = re.findall(_DIGITS, side)
    if not all(re.fullmatch(number, each) for each in numbers):
        return None
    marks = {thousands: "", "'": "", "’": "", " ": "", decimal: "."}
    return re.sub(_DIGITS, lambda found: "".join(marks.get(char, char) for char in found[0]), side)


def _tolerance(result: str) -> Fraction:
    """Return the tolerance for a result: its error must be less than one unit of its last decimal."""
    if "/" in result:
        return Fraction(1, 10**6)
    return Fraction(1, 10 ** len(result.rstrip(" %").partition(".")[2]))


def _means_the_same(value: Fraction, result: Fraction, means: Meaning) -> bool:
    """Return whether a result is right as an estimate, or where counting starts again.

    An estimate is right if the value, rounded to the last digit of the result that is not 0, is the result; then it is
    at most a tenth off.
    """
    if means.has_estimates and result.denominator == 1:
        unit = 10 ** (len(str(result)) - len(str(result).rstrip("0")))
        if unit > 1 and abs(value - result) <= min(Fraction(unit, 2), abs(value) * MAX_ESTIMATE_ERROR):
            return True
    return any(0 <= result <= length and (value - result) % length == 0 for length in means.cycles)


def _value(expression: str, percent: _Percent) -> Fraction | None:
    """Return the value of an expression in one reading of its percentages; None if it is not a valid expression."""
    tokens = re.findall(_TOKEN, expression)
    try:
        value, rest = _sum(tokens, percent)
    except (IndexError, ValueError, ZeroDivisionError):
        return None
    return None if rest else value


def _sum(tokens: Sequence[str], percent: _Percent) -> tuple[Fraction, Sequence[str]]:
    if tokens[0] == "-":
        value, tokens = _product(tokens[1:], percent)
        value = -value
    else:
        value, tokens = _product(tokens, percent)
    while tokens and tokens[0] in ("+", "-"):
        term, rest = _product(tokens[1:], percent)
        if percent is _Percent.PART_OF_LEFT_TERM and _is_part(tokens[: len(tokens) - len(rest)]):
            term *= value
        value = value + term if tokens[0] == "+" else value - term
        tokens = rest
    return value, tokens


def _is_part(tokens: Sequence[str]) -> bool:
    """Return whether a sign and the term behind it are like `- 25%` or `- 1/4`, not `+ 1/4` or `- 5/4`."""
    if len(tokens) == 2:
        return tokens[1][-1] == "%"
    is_fraction = len(tokens) == 4 and tokens[0] == "-" and tokens[2] == "/"
    return is_fraction and tokens[1].isdecimal() and tokens[3].isdecimal() and int(tokens[1]) < int(tokens[3])


def _product(tokens: Sequence[str], percent: _Percent) -> tuple[Fraction, Sequence[str]]:
    value, tokens = _factor(tokens, percent)
    while tokens and tokens[0] in ("*", "x", "/"):
        factor, rest = _factor(tokens[1:], percent)
        value = value / factor if tokens[0] == "/" else value * factor
        tokens = rest
    return value, tokens


def _factor(tokens: Sequence[str], percent: _Percent) -> tuple[Fraction, Sequence[str]]:
    """Read a number or a sum in brackets. Raises ValueError for any other token, IndexError without tokens."""
    if tokens[0] == "(":
        value, tokens = _sum(tokens[1:], percent)
        if tokens[0] != ")":
            raise ValueError(tokens[0])
        return value, tokens[1:]
    value = Fraction(re.sub(r"[^\d.]", "", tokens[0]))
    is_hundredth = tokens[0][-1] == "%" and percent is not _Percent.NUMBER
    return value / 100 if is_hundredth else value, tokens[1:]
