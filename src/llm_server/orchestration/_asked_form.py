"""The form a request asks its answer to have, where it says so in plain words, and whether the answer has it."""

from __future__ import annotations

import re
from collections.abc import Callable

from llm_server.orchestration._fences import is_json, parted
from llm_server.orchestration.answers import json_objects

SHORT_MOST_CHARS = 200
"""A number is no longer than this, and a pattern for it may try again and again."""
READ_MOST_CHARS = 1_000
"""At each end of a request: what stands between is its material."""

_SAY = (
    r"(?:^|[.!?:;\n]\s*|\b(?:please|only|just)\s+)"
    r"(?:respond|reply|answer|return|output|format (?:your|the) (?:answer|response|output|result))\b[^.!?\n]{0,40}?"
)


def broken_form(asked: str, text: str) -> str | None:
    """What the request asks for and the answer is not, in a short phrase; None when it is, or nothing is asked."""
    head = asked if len(asked) <= 2 * READ_MOST_CHARS else f"{asked[:READ_MOST_CHARS]}\n{asked[-READ_MOST_CHARS:]}"
    for name, request, is_met in _FORMS:
        if re.search(request, head, re.IGNORECASE) and not is_met(text):
            return name
    wanted = re.search(r"\bexactly (\d{1,2}) (?:bullet(?: point)?s|list items|numbered items)\b", head, re.IGNORECASE)
    if wanted and _items(text) != int(wanted[1]):
        return f"exactly {wanted[1]} items"
    return None


def _holds_json(text: str) -> bool:
    if is_json(text) or any(is_json(code) for _, code in parted(text)[1]):
        return True
    return next(json_objects(text), None) is not None or 0 <= text.find("[") < text.rfind("]")


def _is_yes_or_no(text: str) -> bool:
    return bool(re.match(r"\W*(?:yes|no|true|false|ja|nein|oui|non|sí|si)\b", text, re.IGNORECASE))


def _is_number(text: str) -> bool:
    return len(text) <= SHORT_MOST_CHARS and bool(
        re.fullmatch(r"[^\w-]*-?[\d.,\s/]*\d\s*[%°]?(?:\s?[A-Za-zµ²³/]{1,12})?\W*", text)
    )


def _is_letter(text: str) -> bool:
    return bool(re.match(r"\W*(?:[A-Z]\b|(?i:(?:the )?(?:correct )?(?:answer|option)(?: is)?)\W+[A-Z]\b)", text))


def _is_word(text: str) -> bool:
    return len(text.split()) <= 3


def _items(text: str) -> int:
    return len(re.findall(r"^ {0,3}(?:[-*•+]|\d{1,2}[.)])\s+\S", text, re.MULTILINE))


_FORMS: tuple[tuple[str, str, Callable[[str], bool]], ...] = (
    ("JSON", _SAY + r"\b(?:as|in|with|only|valid|a|using)\s+(?:\w+\s+){0,2}JSON\b", _holds_json),
    ("yes or no", _SAY + r"\b(?:yes or no|yes/no|true or false)\b", _is_yes_or_no),
    (
        "a number",
        _SAY + r"\b(?:only|just) (?:with )?(?:the |a |one )?(?:single |final )?(?:number|integer|digit)\b",
        _is_number,
    ),
    ("a letter", _SAY + r"\b(?:only |just )?(?:with )?(?:only |just )?(?:the|a|one) (?:single )?letter\b", _is_letter),
    ("one word", _SAY + r"\b(?:in|with|using) (?:only |just |exactly )?(?:one|a single) word\b", _is_word),
)
