"""The answer gate: find plain faults in a cheap engine's answer, so that a strong engine can be asked instead.

Each check only reads the text, and passes an answer if it is not sure. Because an answer may have megabytes of any
text, each pattern takes linear time or reads a bounded part. Patterns are compiled at the first answer, not at import.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from llm_server.orchestration.answer_gate.arithmetic import wrong_equation
from llm_server.orchestration.answer_gate.code_blocks import broken_code
from llm_server.orchestration.answer_gate.refusal import is_refusal
from llm_server.orchestration.answer_gate.requested_form import broken_form
from llm_server.orchestration.domain.engine_call import Completion

MAX_REQUEST_CHARS = 1_000
"""Characters read at each end of a request; the text between them is its material."""


def fault(request: str, context: str, completion: Completion, *, limit_is_callers: bool = False) -> str | None:
    """Return the first fault of an answer, as a short phrase for the receipt; None if no check finds one.

    `request` is the request that the answer must satisfy, `context` the whole prompt of the engine. With
    `limit_is_callers`, the output limit was set by the caller, so that an answer cut off by it is not a fault.
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
        return  # a cut answer always breaks forms and code, and the answer to another call would be cut as well
    if form := broken_form(request, text):
        yield f"not the form asked for: {form}"
    if language := broken_code(context, text):
        yield f"{language} code that does not parse"
    if equation := wrong_equation(text, context):
        yield f"arithmetic that is wrong: {equation}"


def _without_thoughts(text: str) -> str:
    """Return the text without the thoughts it begins with; an engine may try out wrong answers in them."""
    opened = re.match(r"<(think|thinking|reasoning)>", text)
    if not opened:
        return text
    _, closed, after = text.partition(f"</{opened[1]}>")
    return after.strip() if closed else text


def _ends(request: str) -> str:
    if len(request) <= 2 * MAX_REQUEST_CHARS:
        return request
    return f"{request[:MAX_REQUEST_CHARS]}\n{request[-MAX_REQUEST_CHARS:]}"
