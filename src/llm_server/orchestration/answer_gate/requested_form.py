"""Recognise the form that a request asks for (JSON, yes or no, a number, ...), and check that the answer has it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

from llm_server.orchestration.answer_gate.code_blocks import is_json, split_blocks
from llm_server.orchestration.answer_gate.json_objects import json_objects

MAX_SHORT_CHARS = 200
"""The maximum length of an answer that counts as a number or a word.

To find a letter, yes or no, this many characters are read at each end of an answer.
"""
MAX_SEARCHED_CHARS = 20_000
"""In a longer text JSON objects are not parsed: a text with braces counts as JSON, because parsing takes too long."""

_ANSWER_WITH = (
    r"(?:^|[.!?:;\n]\s*|\b(?:please|only|just)\s+)"
    r"(?:respond|reply|answer|%sformat (?:your|the) (?:answer|response|output|result))\b[^.!?\n]{0,40}?"
)
_ANSWER_OR_RETURN = _ANSWER_WITH % "return|output|"
_ANSWER_ONLY = _ANSWER_WITH % ""
"""For requests about code, in which "return" and "output" may describe the code instead of the answer."""
_ASKS_CODE = (
    r"\b(?:(?:function|method|class|classe|script|program|snippet|module|library|librarie|package|app|application|endpoint|"
    r"route|handler|query|querie|regex|regexe|expression|parser|algorithm|macro|formula|lambda|hook|component|command|bot|"
    r"server|service|website|test|tester|checker|validator|converter|calculator)s?|code|api|cli|implement\w*|refactor\w*|"
    r"debug\w*|python|sql|flask|django|fastapi|java\w*|typescript|node|react|rust|golang|kotlin|swift|ruby|php|perl|bash|"
    r"shell|powershell|excel|html|css|def)\b|\bc(?:\+\+|#)"
)
_YES_OR_NO = r"(?:yes|no|true|false|ja|nein|oui|non|sí|si)"
_ITEM = re.compile(r"([ \t]*)(?:([-*+•–])|\W{0,3}\d{1,2}[.)])\W{0,3}\s")


def broken_form(request: str, text: str) -> str | None:
    """Return the requested form if the answer does not have it; None if it has it, or no form is requested."""
    request = "\n".join(" ".join(line.split()) for line in request.splitlines() if line.strip())
    if (name := _missing_form(request, text)) is not None:
        return name
    items = re.search(r"\bexactly (\d{1,2}) (?:bullet(?: point)?s|list items|numbered items)\b", request, re.IGNORECASE)
    if items and int(items[1]) not in _item_counts(text):
        return f"exactly {items[1]} items"
    return None


def _missing_form(request: str, text: str) -> str | None:
    """Return the form of `_FORMS` that is requested and that the answer does not have."""
    if not re.search(_ANSWER_OR_RETURN, request, re.IGNORECASE):  # each demand begins so, and most requests have none
        return None
    asks_code = re.search(_ASKS_CODE, request, re.IGNORECASE) is not None
    if asks_code and "```" in text:  # the form may be meant for the output of the program
        return None
    demand = _ANSWER_ONLY if asks_code else _ANSWER_OR_RETURN
    for name, form, has_form in _FORMS:
        if re.search(demand + form, request, re.IGNORECASE) and not has_form(text):
            return name
    return None


def _ends(text: str) -> str:
    return text if len(text) <= 2 * MAX_SHORT_CHARS else f"{text[:MAX_SHORT_CHARS]}\n{text[-MAX_SHORT_CHARS:]}"


def _holds_json(text: str) -> bool:
    _, blocks = split_blocks(text)
    if is_json(text) or any(is_json(block.code) for block in blocks):
        return True
    if 0 <= text.find("[") < text.rfind("]"):
        return True
    if len(text) > MAX_SEARCHED_CHARS:
        return 0 <= text.find("{") < text.rfind("}")
    first_object = next(json_objects(text), None)
    return first_object is not None


def _is_yes_or_no(text: str) -> bool:
    """Return whether a text begins or ends with yes, no, true or false, or says that the answer is one of them."""
    pattern = rf"^\W*{_YES_OR_NO}\b|\b(?:answer|is|are|therefore|so)\b\W{{0,8}}{_YES_OR_NO}\b|\b{_YES_OR_NO}\W{{0,8}}$"
    return bool(re.search(pattern, _ends(text), re.IGNORECASE))


def _is_number(text: str) -> bool:
    if len(text) > MAX_SHORT_CHARS:
        return False
    number = re.sub(r"^\W+|\W+$", "", text)
    return bool(re.fullmatch(r"\d[\d.,\s/]*[%°]?\s?(?:[^\d\s]{1,12})?", number))


def _is_letter(text: str) -> bool:
    """Return whether a text gives a single letter as its answer, at its start or in words ("the answer is B").

    A small letter counts only if the text ends after it, or if a mark such as `)` follows.
    """
    letter = r"(?:[A-Z]\b|[a-z](?:\W*$|[).:\]]))"
    pattern = rf"\W*(?:{letter}|(?i:(?:the )?(?:correct )?(?:answer|option|choice)(?: is)?)\W+{letter})"
    return bool(re.match(pattern, text[:MAX_SHORT_CHARS]))


def _is_word(text: str) -> bool:
    return len(text) <= MAX_SHORT_CHARS and len(text.split()) <= 3


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


_FORMS: tuple[tuple[str, str, Callable[[str], bool]], ...] = (
    ("JSON", r"\b(?:as|in|with|only|valid|a|using)\s+(?:\w+\s+){0,2}JSON\b", _holds_json),
    ("yes or no", r"\b(?:yes or no|yes/no|true or false)\b", _is_yes_or_no),
    (
        "a number",
        r"\b(?:only|just) (?:with )?(?:the |a |one )?(?:single |final )?(?:number|integer|digit)\b",
        _is_number,
    ),
    ("a letter", r"\b(?:only |just )?(?:with )?(?:only |just )?(?:the|a|one) (?:single )?letter\b", _is_letter),
    ("one word", r"\b(?:in|with|using) (?:only |just |exactly )?(?:one|a single) word\b", _is_word),
)
