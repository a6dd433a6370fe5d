"""The form a request asks its answer to have, where it says so in plain words, and whether the answer has it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

from llm_server.orchestration.answer_gate.code_blocks import is_json, parted
from llm_server.orchestration.answer_gate.json_objects import json_objects

MAX_SHORT_CHARS = 200
"""A number, a letter or a word is no longer; nor is more than this read at either end to find one."""
MAX_SEARCHED_CHARS = 20_000
"""In a longer text no JSON object is looked for: each brace would be tried."""

_SAY = (
    r"(?:^|[.!?:;\n]\s*|\b(?:please|only|just)\s+)"
    r"(?:respond|reply|answer|%sformat (?:your|the) (?:answer|response|output|result))\b[^.!?\n]{0,40}?"
)
# A function returns and a program prints: where code may be asked for, those two words may be about the code.
_SAYS = {False: _SAY % "return|output|", True: _SAY % ""}
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
    """What the request asks for and the answer is not, in a short phrase; None when it is, or nothing is asked."""
    request = "\n".join(" ".join(line.split()) for line in request.splitlines() if line.strip())
    of_code = bool(re.search(_ASKS_CODE, request, re.IGNORECASE))
    for name, form, is_met in _FORMS:
        if of_code and "```" in text:
            break  # the form may be that of what the program says
        if re.search(_SAYS[of_code] + form, request, re.IGNORECASE) and not is_met(text):
            return name
    wanted = re.search(
        r"\bexactly (\d{1,2}) (?:bullet(?: point)?s|list items|numbered items)\b", request, re.IGNORECASE
    )
    if wanted and int(wanted[1]) not in _items(text):
        return f"exactly {wanted[1]} items"
    return None


def _ends(text: str) -> str:
    return text if len(text) <= 2 * MAX_SHORT_CHARS else f"{text[:MAX_SHORT_CHARS]}\n{text[-MAX_SHORT_CHARS:]}"


def _holds_json(text: str) -> bool:
    if is_json(text) or any(is_json(code) for _, code in parted(text)[1]):
        return True
    if 0 <= text.find("[") < text.rfind("]"):
        return True
    if len(text) > MAX_SEARCHED_CHARS:
        return 0 <= text.find("{") < text.rfind("}")
    return next(json_objects(text), None) is not None


def _is_yes_or_no(text: str) -> bool:
    """Whether it begins or ends with one, or says that the answer is one."""
    said = rf"^\W*{_YES_OR_NO}\b|\b(?:answer|is|are|therefore|so)\b\W{{0,8}}{_YES_OR_NO}\b|\b{_YES_OR_NO}\W{{0,8}}$"
    return bool(re.search(said, _ends(text), re.IGNORECASE))


def _is_number(text: str) -> bool:
    if len(text) > MAX_SHORT_CHARS:
        return False
    bare = re.sub(r"^\W+|\W+$", "", text)
    return bool(re.fullmatch(r"\d[\d.,\s/]*[%°]?\s?(?:[^\d\s]{1,12})?", bare))


def _is_letter(text: str) -> bool:
    """Whether it begins with one, is one in the small, or says that the answer is one."""
    one = r"(?:[A-Z]\b|[a-z](?:\W*$|[).:\]]))"
    said = rf"\W*(?:{one}|(?i:(?:the )?(?:correct )?(?:answer|option|choice)(?: is)?)\W+{one})"
    return bool(re.match(said, text[:MAX_SHORT_CHARS]))


def _is_word(text: str) -> bool:
    return len(text) <= MAX_SHORT_CHARS and len(text.split()) <= 3


def _items(text: str) -> set[int]:
    """How many items a text may be said to have: of one indentation, of one mark, all; its lines if none is marked."""
    lines = [line for line in text.splitlines() if line.strip()]
    found = [item for line in lines if (item := _ITEM.match(line[:MAX_SHORT_CHARS]))]
    alike = Counter[tuple[str, ...]]()
    for indentation, mark in (item.groups() for item in found):
        alike.update([(indentation,), (indentation, mark or "1.")])
    return {*alike.values(), len(found or lines)}


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
