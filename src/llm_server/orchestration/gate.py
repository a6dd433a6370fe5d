"""The answer gate: what is plainly wrong with a cheap engine's answer, so that a strong one may be asked instead.

Every check reads the text and nothing else: no call, no code of the answer is run. A check that is not sure passes.
Patterns are compiled when the first answer comes, not at import.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from llm_server.orchestration._arithmetic import wrong_equation
from llm_server.orchestration._asked_form import broken_form
from llm_server.orchestration._fences import broken_code
from llm_server.orchestration.ports import Completion

REFUSAL_MOST_CHARS = 600
"""A longer text that begins like a refusal goes on to say something."""

# What models say instead of an answer; a letter that declines an invitation uses other verbs.
_REFUSALS = (
    r"(?:i['’]?m (?:very |really |so )?sorry|i (?:deeply )?apologi[sz]e|sorry|unfortunately|my apologies)?[\s,.!:;-]*"
    r"(?:but )?(?:as an? (?:ai|artificial intelligence|(?:large )?language model)[^,.]{0,40}, )?"
    r"i(?: am|['’]m)? ?(?:can ?not|can['’]t|won['’]t|will not|unable to|not able to|not allowed to|am not able to) "
    r"(?:really |directly |currently )?(?:help|assist|answer|comply|fulfil|complete|provide|generate|create|produce|"
    r"process|perform|solve|engage|discuss|continue|do that|do this|access|see|view|open)",
    r"as an? (?:ai|artificial intelligence|(?:large )?language model)[^.]{0,60}\bi (?:do not|cannot|(?:don|can)['’]t)",
    r"es tut mir leid[^.]{0,20}\bich kann (?:dabei|dir|ihnen|das|diese[rns]?|hier)\b[^.]{0,60}\bnicht\b",
    r"(?:je suis désolée?|désolée?)[^.]{0,20}\bje ne (?:peux|suis) pas\b",
    r"lo siento[^.]{0,20}\bno puedo (?:ayudar|responder|cumplir|proporcionar|hacer)",
)


def fault(asked: str, context: str, completion: Completion, *, limit_is_callers: bool = False) -> str | None:
    """Name the first fault of an answer in a short phrase for the receipt; None when none is found.

    `asked` is the request that is being answered, `context` all the engine was given. With `limit_is_callers` a cut
    answer is as long as the caller allows, and so would the next one be.
    """
    return next(_faults(asked, context, completion, limit_is_callers), None)


def _faults(asked: str, context: str, completion: Completion, limit_is_callers: bool) -> Iterator[str]:
    text = completion.text.strip()
    if not text:
        yield "empty"
        return
    if is_refusal(text):
        yield "a refusal"
    if completion.truncated:
        if not limit_is_callers:
            yield "cut off by the output limit"
        return  # what is cut breaks forms and code, and another call would be cut as well
    if form := broken_form(asked, text):
        yield f"not the form asked for: {form}"
    if language := broken_code(asked, text):
        yield f"{language} code that does not parse"
    if equation := wrong_equation(text, context):
        yield f"arithmetic that is wrong: {equation}"


def is_refusal(text: str) -> bool:
    """Whether a text as a whole declines to answer; English, German, French and Spanish are known."""
    return len(text) <= REFUSAL_MOST_CHARS and any(re.match(pattern, text, re.IGNORECASE) for pattern in _REFUSALS)
