"""Limit the token counts of a call to what the call could use, so that a wrong count cannot use up a key's money."""

from __future__ import annotations

from msgspec.structs import replace

from llm_server.orchestration.dispatch.reservation import max_tokens_in
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.engines.usage import Usage

MAX_ADDED_TOKENS_IN = 1_024
"""Tokens that an engine may add to a prompt: a chat template, a system prompt of its own, instructions for a schema."""

MAX_ADDED_TOKENS_OUT = 64
"""Tokens that an engine may count beyond the output limit: the marks around the answer and its parts."""


def limited(usage: Usage, call: EngineCall) -> Usage:
    """Return the usage with each total that cannot be true replaced by the most that the call could use.

    The input of a call cannot have more tokens than its texts have bytes, and its output not more than its limit. Such
    input counts as plain input, because nothing reliable is known of the cache.
    """
    max_in, max_out = max_tokens_in(call), call.max_output_tokens + call.max_reasoning_tokens
    if usage.tokens_in > max_in + MAX_ADDED_TOKENS_IN:
        output = {"output_tokens": usage.output_tokens, "reasoning_tokens": usage.reasoning_tokens}
        usage = Usage(input_tokens=max_in, **output, estimated=usage.estimated, implausible=True)
    if usage.output_tokens > max_out + MAX_ADDED_TOKENS_OUT:
        reasoning = min(usage.reasoning_tokens, max_out)
        usage = replace(usage, output_tokens=max_out, reasoning_tokens=reasoning, implausible=True)
    return usage
