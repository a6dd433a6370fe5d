"""How each field of OpenAI's requests is treated: used, ignored, or refused unless its value asks for nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from llm_server.api.openai.requests.reading import Part

OURS = frozenset({"limits", "profile", "role"})
"""Fields of ours that a request may have beside OpenAI's; the SDKs send them as `extra_body`."""

CHAT_USED = frozenset(
    {
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "metadata",
        "model",
        "response_format",
        "stream",
        "stream_options",
        "tool_choice",
        "tools",
    }
)
CHAT_IGNORED = frozenset(
    {
        "frequency_penalty",
        "moderation",
        "parallel_tool_calls",
        "presence_penalty",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning_effort",
        "safety_identifier",
        "seed",
        "service_tier",
        "store",
        "temperature",
        "top_p",
        "user",
        "verbosity",
    }
)
CHAT_REFUSED: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "function_call": (),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "stop": ([], ""),
    "top_logprobs": (0,),
    "web_search_options": (),
}
"""The refused fields of a chat completion, each with the values that are accepted because they ask for nothing."""

RESPONSES_USED = frozenset(
    {
        "background_options",
        "conversation",
        "input",
        "instructions",
        "max_output_tokens",
        "metadata",
        "model",
        "previous_response_id",
        "stream",
        "background",
        "text",
        "tool_choice",
        "tools",
    }
)
RESPONSES_IGNORED = frozenset(
    {
        "frequency_penalty",
        "include",
        "max_tool_calls",
        "moderation",
        "parallel_tool_calls",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning",
        "safety_identifier",
        "service_tier",
        "store",
        "stream_options",
        "temperature",
        "top_p",
        "truncation",
        "user",
    }
)
RESPONSES_REFUSED: Mapping[str, tuple[Any, ...]] = {
    "access_programs": ([], {}),
    "context_management": ([], {}),
    "image": (),
    "prompt": (),
    "top_logprobs": (0,),
}
"""The refused fields of a response, like `CHAT_REFUSED`."""


def check(body: Part, used: Collection[str], ignored: Collection[str], refused: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse unknown fields, and refused ones that ask for something.

    Raises:
        InvalidInput: it names the field, and the values that are accepted.
    """
    body.only({*used, *ignored, *refused, *OURS})
    for name, harmless in refused.items():
        value = body.value(name)
        if value is not None and not any(type(value) is type(each) and value == each for each in harmless):
            send = " or ".join(
                ["leave it out", *(f"send {_json(each)}" for each in harmless if each not in ("", [], {}))]
            )
            body.fail(name, f"asks for something that this server does not do; {send}")


def _json(value: Any) -> str:
    return "false" if value is False else str(value).replace("'", '"')
