"""The tokens of an input, estimated as the server estimates them everywhere, without an engine."""

from __future__ import annotations

import msgspec

from llm_server.api.openai.requests import fields, responses, tools
from llm_server.api.openai.requests.reading import Part
from llm_server.orchestration.domain.engines.usage import estimate_tokens

_ELSEWHERE = ("conversation", "previous_response_id")


def tokens(body: Part) -> int:
    """Return the tokens of the input, the instructions and the tools of a response. Raises InvalidInput."""
    fields.check(body, fields.RESPONSES_USED, fields.RESPONSES_IGNORED, fields.RESPONSES_REFUSED)
    for name in _ELSEWHERE:
        if body.has(name):
            body.fail(name, "is not counted here: only what the call itself contains; leave it out")
    said = responses.spoken(body)
    offered = "".join(msgspec.json.encode(tool).decode() for tool in tools.of_responses(body))
    return estimate_tokens("".join([said.instructions, *(message.texts for message in said.messages), offered]))
