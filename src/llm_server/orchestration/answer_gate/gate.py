"""The answer gate: find obvious faults in a cheap engine's answer, so that a strong engine can be asked instead.

Each check only reads the text. A check that is not sure reports no fault. An answer may have megabytes of any text, so
each pattern takes linear time or reads a part of limited length. Patterns are compiled at the first answer, not at
import.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from llm_server.orchestration.answer_gate.arithmetic import wrong_equation
from llm_server.orchestration.answer_gate.code_blocks import broken_code
from llm_server.orchestration.answer_gate.refusal import is_refusal
from llm_server.orchestration.answer_gate.requested_form import broken_form
from llm_server.orchestration.domain.engines.call import Completion

MAX_REQUEST_CHARS = 1_000
"""How many characters are read at each end of a request. The text between the ends is taken for material."""


def fault(request: str, context: str, completion: Completion, *, limit_is_callers: bool = False) -> str | None:
    """Return the first fault of an answer, as a short phrase for the receipt; None if no check finds one.

    `request` is the request that the answer must satisfy, `context` the whole prompt of the engine. With
    `limit_is_callers`, the output limit was set by the caller, so an answer that it cuts off is not a fault.
    """
    for found in _faults(_ends(request), context, completion, limit_is_callers):
        return found
    return None


def _faults(request: str, context: str, completion: Completion, limit_is_callers: bool) -> Iterator[str]:
    text = _without_thoughts(completion.text.strip())
    if not text:
        yield "empty"
        return
    if is_refusal(request, text):
        yield "a refusal"
    if completion.truncated:
        if not limit_is_callers:
            yield "cut off by the output limit"
        return  # the end is missing, so the checks of form and code would always fail
    if form := broken_form(request, text):
        yield f"not the form asked for: {form}"
    if language := broken_code(context, text):
        yield f"{language} code that does not parse"
    if equation := wrong_equation(text, context):
        yield f"wrong arithmetic: {equation}"


def _without_thoughts(text: str) -> str:
    """Return the text without a block of thoughts at its start, in which an engine may try out wrong answers."""
    opened = re.match(r"<(think|thinking|reasoning)>", text)
    if not opened:
        return text
    _, closed, after = text.partition(f"</{opened[1]}>")
    return after.strip() if closed else text


def _ends(request: str) -> str:
    if len(request) <= 2 * MAX_REQUEST_CHARS:
        return request
    return f"{request[:MAX_REQUEST_CHARS]}\n{request[-MAX_REQUEST_CHARS:]}"
