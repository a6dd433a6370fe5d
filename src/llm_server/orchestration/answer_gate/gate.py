"""The answer gate: what is plainly wrong with a cheap engine's answer, so that a strong one may be asked instead.

Every check reads the text and nothing else: no call, no code of the answer is run. A check that is not sure passes.
Patterns are compiled when the first answer comes, not at import; each is linear in its text, or reads a bounded part:
an engine may answer with megabytes of anything.
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
"""Read at each end of a request: what stands between is its material."""


def fault(asked: str, context: str, completion: Completion, *, limit_is_callers: bool = False) -> str | None:
    """Name the first fault of an answer in a short phrase for the receipt; None when none is found.

    `asked` is the request that is being answered, `context` all the engine was given. With `limit_is_callers` a cut
    answer is as long as the caller allows, and so would the next one be.
    """
    return next(_faults(asked, context, completion, limit_is_callers), None)


def _faults(asked: str, context: str, completion: Completion, limit_is_callers: bool) -> Iterator[str]:
    text = _said(completion.text.strip())
    if not text:
        yield "empty"
        return
    request = _ends(asked)
    if is_refusal(request, text):
        yield "a refusal"
    if completion.truncated:
        if not limit_is_callers:
            yield "cut off by the output limit"
        return  # what is cut breaks forms and code, and another call would be cut as well
    if form := broken_form(request, text):
        yield f"not the form asked for: {form}"
    if language := broken_code(context, text):
        yield f"{language} code that does not parse"
    if equation := wrong_equation(text, context):
        yield f"arithmetic that is wrong: {equation}"


def _said(text: str) -> str:
    """The text without the thoughts it begins with: in them an engine may try what is wrong."""
    opened = re.match(r"<(think|thinking|reasoning)>", text)
    if not opened:
        return text
    _, closed, after = text.partition(f"</{opened[1]}>")
    return after.strip() if closed else text


def _ends(asked: str) -> str:
    if len(asked) <= 2 * MAX_REQUEST_CHARS:
        return asked
    return f"{asked[:MAX_REQUEST_CHARS]}\n{asked[-MAX_REQUEST_CHARS:]}"
