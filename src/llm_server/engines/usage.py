"""Read the token counts in an engine's answer. No value that an engine sends as a count makes the reading fail."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from llm_server.orchestration.domain.engines.usage import Usage

MAX_TOKENS = 100_000_000
"""A larger number is read as this one: no call can use so many, so the call is priced at its limit."""


class ReportedUsage(Struct, frozen=True, kw_only=True):
    """The token counts that an engine reported.

    `tokens_in` counts all tokens of the input, `cache_write_tokens` all that were written to the prompt cache, and
    `tokens_out` all tokens of the output. Each of the others is a part of one of these. A total is None if the engine
    did not report it. `implausible`: the engine sent a value that is not a count.
    """

    tokens_in: int | None = None
    tokens_out: int | None = None
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    implausible: bool = False

    @property
    def is_complete(self) -> bool:
        return self.tokens_in is not None and self.tokens_out is not None

    def completed(self, *, tokens_in: int, tokens_out: int) -> Usage:
        """Return the usage, with these numbers for totals that were not reported.

        If parts contradict their total, the total counts, and the parts are corrected to the reading that costs more.
        """
        total_in = tokens_in if self.tokens_in is None else self.tokens_in
        total_out = tokens_out if self.tokens_out is None else self.tokens_out
        read, write = self.cache_read_tokens, self.cache_write_tokens
        if self.tokens_in is None:
            read = write = 0
        contradicts = read + write > total_in
        if contradicts:
            read, write = 0, min(write, total_in)
        write_1h, reasoning = min(self.cache_write_1h_tokens, write), min(self.reasoning_tokens, total_out)
        return Usage(
            input_tokens=total_in - read - write,
            cache_read_tokens=read,
            cache_write_tokens=write - write_1h,
            cache_write_1h_tokens=write_1h,
            output_tokens=total_out,
            reasoning_tokens=reasoning,
            estimated=not self.is_complete,
            implausible=self.implausible
            or contradicts
            or self.cache_write_1h_tokens > self.cache_write_tokens
            or (self.tokens_out is not None and self.reasoning_tokens > total_out),
        )


def without_output(usage: ReportedUsage) -> ReportedUsage:
    """Return the usage of an answer that is not finished: what it has of the output does not count all of it."""
    return replace(usage, tokens_out=None, reasoning_tokens=0)


class _Counts:
    """The counts in a JSON object; `nonsense` tells whether a value was found that is not a count."""

    def __init__(self, fields: Any) -> None:
        self._fields = fields
        self.nonsense = False

    def get(self, *paths: str) -> int | None:
        """Return the first count that one of these paths leads to; the names of a path are joined by dots."""
        for path in paths:
            value = self._fields
            for name in path.split("."):
                value = value.get(name) if isinstance(value, dict) else None
            if value is not None:
                count = _count(value)
                self.nonsense |= count is None or count > MAX_TOKENS
                if count is not None:
                    return min(count, MAX_TOKENS)
        return None


def chat_usage(answer: dict[str, Any]) -> ReportedUsage:
    """Read the usage of Chat Completions (OpenAI, and the servers that are compatible with it).

    `prompt_tokens` includes the tokens of the cache. Where each server puts them:

    - OpenAI, Azure, OpenRouter, Groq, Mistral, xAI, vLLM: `prompt_tokens_details.cached_tokens`; OpenAI since GPT-5.6
      and OpenRouter also `cache_write_tokens`;
    - DeepSeek: `prompt_cache_hit_tokens`; Moonshot: `cached_tokens`;
    - LiteLLM: `prompt_tokens_details.cache_creation_tokens`, `cache_creation_input_tokens`;
    - llama.cpp: `timings.cache_n` beside the usage, and in older versions no usage at all.
    """
    counts, timings = _Counts(answer.get("usage")), _Counts(answer.get("timings"))
    tokens_in, tokens_out = counts.get("prompt_tokens"), counts.get("completion_tokens")
    cached = counts.get("prompt_tokens_details.cached_tokens", "prompt_cache_hit_tokens", "cached_tokens")
    written = counts.get(
        "prompt_tokens_details.cache_write_tokens",
        "prompt_tokens_details.cache_creation_tokens",
        "cache_creation_input_tokens",
    )
    reasoning = counts.get("completion_tokens_details.reasoning_tokens") or 0
    if cached is None:
        cached = timings.get("cache_n")
    if tokens_in is None and (processed := timings.get("prompt_n")) is not None:
        tokens_in = processed + (cached or 0)
    if tokens_out is None:
        tokens_out = timings.get("predicted_n")
    if tokens_in is not None and tokens_out is not None:
        outside = _reasoning_outside(tokens_in, tokens_out, reasoning, counts.get("total_tokens"))
        tokens_out, reasoning = tokens_out + outside, max(reasoning, outside)
    return ReportedUsage(
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        cache_read_tokens=cached or 0,
        cache_write_tokens=written or 0,
        reasoning_tokens=reasoning,
        implausible=counts.nonsense,
    )


def messages_usage(answer: dict[str, Any]) -> ReportedUsage:
    """Read the usage of Anthropic's Messages; `input_tokens` leaves out the tokens of the cache."""
    counts = _Counts(answer.get("usage"))
    for_5m = counts.get("cache_creation.ephemeral_5m_input_tokens")
    for_1h = counts.get("cache_creation.ephemeral_1h_input_tokens")
    written = counts.get("cache_creation_input_tokens")
    return _beside_the_cache(
        counts,
        tokens_in=counts.get("input_tokens"),
        tokens_out=counts.get("output_tokens"),
        cached=counts.get("cache_read_input_tokens") or 0,
        written=(for_5m or 0) + (for_1h or 0) if written is None else written,
        written_1h=for_1h or 0,
        reasoning=counts.get("output_tokens_details.thinking_tokens") or 0,
    )


def converse_usage(answer: dict[str, Any]) -> ReportedUsage:
    """Read the usage of Bedrock's Converse; `inputTokens` leaves out the tokens of the cache."""
    usage = answer.get("usage")
    counts = _Counts(usage)
    details = usage.get("cacheDetails") if isinstance(usage, dict) else None
    of_1h = [d for d in details if isinstance(d, dict) and d.get("ttl") == "1h"] if isinstance(details, list) else []
    return _beside_the_cache(
        counts,
        tokens_in=counts.get("inputTokens"),
        tokens_out=counts.get("outputTokens"),
        cached=counts.get("cacheReadInputTokens") or 0,
        written=counts.get("cacheWriteInputTokens") or 0,
        written_1h=sum(_Counts(detail).get("inputTokens") or 0 for detail in of_1h),
    )


def _beside_the_cache(
    counts: _Counts,
    *,
    tokens_in: int | None,
    tokens_out: int | None,
    cached: int,
    written: int,
    written_1h: int,
    reasoning: int = 0,
) -> ReportedUsage:
    """Return the usage of an engine that counts the tokens of the cache beside those of the input."""
    return ReportedUsage(
        tokens_in=None if tokens_in is None else tokens_in + cached + written,
        tokens_out=tokens_out,
        cache_read_tokens=cached,
        cache_write_tokens=written,
        cache_write_1h_tokens=written_1h,
        reasoning_tokens=reasoning,
        implausible=counts.nonsense,
    )


def _reasoning_outside(tokens_in: int, tokens_out: int, reasoning: int, total: int | None) -> int:
    """Return the reasoning tokens that `completion_tokens` leaves out.

    OpenAI includes them. xAI reports them apart, and Google's compatible API reports them only in `total_tokens`.
    """
    if total is not None and total > tokens_in + tokens_out:
        return total - tokens_in - tokens_out
    return reasoning if reasoning > tokens_out else 0


def _count(value: Any) -> int | None:
    """Return the value if it is a whole number from 0, which a float may be too; else None."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if value >= 0 else None
