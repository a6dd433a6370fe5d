"""Check that an answer has the form that its request asks for (JSON, yes or no, a number, ...)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby

from llm_server.orchestration.answer_gate.code_blocks import is_json, split_blocks
from llm_server.orchestration.answer_gate.demands import Demand, demands
from llm_server.orchestration.answer_gate.json_objects import json_objects

MAX_SHORT_CHARS = 200
"""The maximum length of an answer that counts as a number or a word.

To find a letter, yes or no, this many characters are read at each end of an answer.
"""
MAX_SEARCHED_CHARS = 20_000
"""In a longer text JSON objects are not parsed: a text with braces counts as JSON, because parsing takes too long."""
MAX_WORD_CHARS = 12
"""The maximum length of a word in a language without spaces."""

_YES_OR_NO = (
    r"(?:(?:yes|no|true|false|ja|nein|wahr|richtig|falsch|oui|non|vrai|faux|sí|si|verdadero|falso|да|нет|верно|неверно)\b"
    r"|はい|いいえ|是|否|不|对|错)"
)
_ITEM = re.compile(r"([ \t]*)(?:([-*+•–])|\W{0,3}\d{1,2}[.)])\W{0,3}\s")


def broken_form(request: str, text: str) -> str | None:
    """Return the requested form if the answer does not have it; None if it has it, or no form is requested."""
    for demand in demands(request, has_code="```" in text):
        has_form = _has_number if demand.unit else _HAS_FORM[demand.form]
        if not has_form(text, demand):
            return demand.form
    return None


def _ends(text: str) -> str:
    return text if len(text) <= 2 * MAX_SHORT_CHARS else f"{text[:MAX_SHORT_CHARS]}\n{text[-MAX_SHORT_CHARS:]}"


def _holds_json(text: str, _: Demand) -> bool:
    """Return whether a text is JSON, or has a JSON document in it. Square brackets count as a list."""
    blocks = split_blocks(text)[1]
    if is_json(text) or any(is_json(block.code) for block in blocks):
        return True
    if 0 <= text.find("[") < text.rfind("]"):
        return True
    if len(text) > MAX_SEARCHED_CHARS:
        return 0 <= text.find("{") < text.rfind("}")
    first_object = next(json_objects(text), None)
    return first_object is not None


def _is_yes_or_no(text: str, _: Demand) -> bool:
    """Return whether a text begins or ends with yes, no, true or false, or says that the answer is one of them."""
    pattern = rf"^\W*{_YES_OR_NO}|\b(?:answer|is|are|therefore|so)\b\W{{0,8}}{_YES_OR_NO}|\b{_YES_OR_NO}\W{{0,8}}$"
    return bool(re.search(pattern, _ends(text), re.IGNORECASE))


def _is_number(text: str, _: Demand) -> bool:
    if len(text) > MAX_SHORT_CHARS:
        return False
    number = re.sub(r"^\W+|\W+$", "", text)
    return bool(re.fullmatch(r"\d[\d.,\s/]*[%°]?\s?(?:[^\d\s]{1,12})?", number))


def _is_letter(text: str, _: Demand) -> bool:
    """Return whether a text gives a single letter as its answer, at its start or in words ("the answer is B").

    A small letter counts only if the text ends after it, or if a mark such as `)` follows.
    """
    letter = r"(?:[A-Z]\b|[a-z](?:\W*$|[).:\]]))"
    pattern = rf"\W*(?:{letter}|(?i:(?:the )?(?:correct )?(?:answer|option|choice)(?: is)?)\W+{letter})"
    return bool(re.match(pattern, text[:MAX_SHORT_CHARS]))


def _is_word(text: str, _: Demand) -> bool:
    words = text.split()
    has_no_spaces = re.search(r"[\u3040-\u30ff\u4e00-\u9fff]", text[:MAX_SHORT_CHARS]) is not None
    return len(text) <= MAX_SHORT_CHARS and len(words) <= 3 and not (has_no_spaces and len(text) > MAX_WORD_CHARS)


def _is_in_capitals(text: str, _: Demand) -> bool:
    """Return whether at most half of a text's letters are small. Names and units may stay small."""
    small = sum(char.islower() for char in text[:MAX_SEARCHED_CHARS])
    return small <= sum(char.isupper() for char in text[:MAX_SEARCHED_CHARS])


def _has_no_commas(text: str, _: Demand) -> bool:
    return "," not in split_blocks(text)[0]


_HAS_FORM: Mapping[str, Callable[[str, Demand], bool]] = {
    "JSON": _holds_json,
    "yes or no": _is_yes_or_no,
    "a number": _is_number,
    "a letter": _is_letter,
    "one word": _is_word,
    "capital letters": _is_in_capitals,
    "no commas": _has_no_commas,
}


def _has_number(text: str, demand: Demand) -> bool:
    """Return whether some part of a text has the number of items, words or lines that is demanded."""
    if demand.unit == "items":
        return demand.number in _item_counts(text)
    counts = _line_counts(text) if demand.unit == "lines" else _word_counts(text)
    return any(count <= demand.number if demand.at_most else count == demand.number for count in counts)


def _item_counts(text: str) -> set[int]:
    """Return every number of items that a text may have, depending on which list marks count.

    Items are counted for each indentation, for each indentation and mark, and in total. In a text without list marks,
    each line is an item.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    found = [item for line in lines if (item := _ITEM.match(line[:MAX_SHORT_CHARS]))]
    counts = Counter[tuple[str, ...]]()
    for item in found:
        indentation, mark = item.groups()
        counts.update([(indentation,), (indentation, mark or "1.")])
    return {*counts.values(), len(found) if found else len(lines)}


def _line_counts(text: str) -> set[int]:
    """Return the number of lines of a text without its blank lines, and of each part between blank lines."""
    lines = [bool(line.strip()) and not line.startswith("```") for line in text.splitlines()]
    parts = [len(list(part)) for is_filled, part in groupby(lines) if is_filled]
    return {sum(lines), *parts}


def _word_counts(text: str) -> set[int]:
    """Return the number of words of a text, and of each of its lines; a word with hyphens is one word or several."""
    lines = [line for line in text.splitlines() if line.strip()]
    return {*_counted(text), *(count for line in lines for count in _counted(line))}


def _counted(text: str) -> Iterable[int]:
    words = [word for word in text.split() if any(map(str.isalnum, word))]
    return len(words), len(words) + sum(len(re.findall(r"\w[-–/]\w", word)) for word in words)
