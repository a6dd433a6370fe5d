"""Usage objects as vendors document them or as their users reported them, with the cost worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llm_server.engines.usage import ReportedUsage, chat_usage, converse_usage, messages_usage
from llm_server.orchestration.domain.engines.catalog import EnginePrice, EngineSpec

GPT_4O = EnginePrice(input=2.5, cached_input=1.25, output=10)
GPT_5 = EnginePrice(input=1.25, cached_input=0.125, output=10)
GPT_6_LUNA = EnginePrice(input=0.1, cached_input=0.01, cache_write=0.125, output=0.5)
CLAUDE_SONNET = EnginePrice(input=3, cached_input=0.3, cache_write=3.75, cache_write_1h=6, output=15)
CLAUDE_HAIKU_EU = EnginePrice(input=1.1, cached_input=0.11, cache_write=1.375, cache_write_1h=2.2, output=5.5)
DEEPSEEK = EnginePrice(input=0.28, cached_input=0.028, output=0.42)
GROK_4 = EnginePrice(input=3, cached_input=0.75, output=15)
GROK_4_20 = EnginePrice(input=1.25, cached_input=0.2, output=2.5)
GROK_3_MINI = EnginePrice(input=0.3, output=0.5)
GPT_OSS = EnginePrice(input=0.15, cached_input=0.075, output=0.6)
MISTRAL = EnginePrice(input=2, cached_input=0.2, output=6)
GEMINI_FLASH = EnginePrice(input=0.3, output=2.5)
KIMI = EnginePrice(input=0.6, cached_input=0.1, output=3)
RENTED = EnginePrice(input=0.2, output=0.2)


def at(price: EnginePrice) -> EngineSpec:
    """Return an engine with a configured price."""
    return EngineSpec(kind="openai", source="api", model="m", price=price)


def listed(provider: str, model: str) -> EngineSpec:
    """Return an engine whose price is that of the price library."""
    return EngineSpec(kind="openai", source="api", model=model, price_provider=provider)


LOCAL = EngineSpec(kind="openai", source="local", model="m")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An engine's answer and its cost: the sum of `by_hand` (tokens and USD for a million of them), rounded up.

    `tokens` are the input without the cache, read from the cache, written to it, written to it for an hour; the output,
    and the reasoning in it.
    """

    source: str
    read: Callable[[dict[str, Any]], ReportedUsage] = chat_usage
    answer: dict[str, Any]
    engine: EngineSpec
    tokens: tuple[int, int, int, int, int, int]
    by_hand: tuple[tuple[int, str], ...]
    microusd: int


ROWS = (
    Row(
        source="OpenAI, guide 'Prompt caching'",
        answer={
            "usage": {
                "prompt_tokens": 2006,
                "completion_tokens": 300,
                "total_tokens": 2306,
                "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
                "completion_tokens_details": {
                    "reasoning_tokens": 0,
                    "audio_tokens": 0,
                    "accepted_prediction_tokens": 0,
                    "rejected_prediction_tokens": 0,
                },
            }
        },
        engine=at(GPT_4O),
        tokens=(86, 1920, 0, 0, 300, 0),
        by_hand=((86, "2.5"), (1920, "1.25"), (300, "10")),  # 215 + 2400 + 3000
        microusd=5615,
    ),
    Row(
        source="OpenAI, guide 'Reasoning models': the output includes the reasoning",
        answer={
            "usage": {
                "prompt_tokens": 75,
                "completion_tokens": 1186,
                "total_tokens": 1261,
                "prompt_tokens_details": {"cached_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 1024},
            }
        },
        engine=at(GPT_5),
        tokens=(75, 0, 0, 0, 1186, 1024),
        by_hand=((75, "1.25"), (1186, "10")),  # 93.75 + 11860
        microusd=11954,
    ),
    Row(
        source="OpenAI, API reference: cache_write_tokens, since GPT-5.6",
        answer={
            "usage": {
                "prompt_tokens": 4000,
                "completion_tokens": 100,
                "total_tokens": 4100,
                "prompt_tokens_details": {"cached_tokens": 1024, "cache_write_tokens": 2048},
            }
        },
        engine=at(GPT_6_LUNA),
        tokens=(928, 1024, 2048, 0, 100, 0),
        by_hand=((928, "0.1"), (1024, "0.01"), (2048, "0.125"), (100, "0.5")),  # 92.8 + 10.24 + 256 + 50
        microusd=410,
    ),
    Row(
        source="OpenAI, pricing: a prompt of more than 272,000 tokens costs more for each token",
        answer={
            "usage": {
                "prompt_tokens": 300_000,
                "completion_tokens": 100,
                "prompt_tokens_details": {"cached_tokens": 200_000},
            }
        },
        engine=listed("openai", "gpt-5.4"),
        tokens=(100_000, 200_000, 0, 0, 100, 0),
        by_hand=((100_000, "5"), (200_000, "0.5"), (100, "22.5")),  # 500000 + 100000 + 2250
        microusd=602_250,
    ),
    Row(
        source="Azure OpenAI, reference: details may be null",
        answer={
            "usage": {
                "prompt_tokens": 33,
                "completion_tokens": 557,
                "total_tokens": 590,
                "prompt_tokens_details": None,
                "completion_tokens_details": None,
            }
        },
        engine=at(GPT_4O),
        tokens=(33, 0, 0, 0, 557, 0),
        by_hand=((33, "2.5"), (557, "10")),  # 82.5 + 5570
        microusd=5653,
    ),
    Row(
        source="OpenRouter, 'Usage accounting'",
        answer={
            "usage": {
                "completion_tokens": 2,
                "completion_tokens_details": {"reasoning_tokens": 0},
                "cost": 0.95,
                "cost_details": {"upstream_inference_cost": 19},
                "prompt_tokens": 194,
                "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 100, "audio_tokens": 0},
                "total_tokens": 196,
            }
        },
        engine=at(CLAUDE_SONNET),
        tokens=(94, 0, 100, 0, 2, 0),
        by_hand=((94, "3"), (100, "3.75"), (2, "15")),  # 282 + 375 + 30
        microusd=687,
    ),
    Row(
        source="OpenRouter, 'Prompt caching'",
        answer={
            "usage": {
                "prompt_tokens": 10339,
                "completion_tokens": 60,
                "total_tokens": 10399,
                "prompt_tokens_details": {"cached_tokens": 10318, "cache_write_tokens": 0},
            }
        },
        engine=at(CLAUDE_SONNET),
        tokens=(21, 10318, 0, 0, 60, 0),
        by_hand=((21, "3"), (10318, "0.3"), (60, "15")),  # 63 + 3095.4 + 900
        microusd=4059,
    ),
    Row(
        source="DeepSeek, 'Context caching': hits and misses beside the total",
        answer={
            "usage": {
                "prompt_tokens": 1500,
                "completion_tokens": 200,
                "total_tokens": 1700,
                "prompt_cache_hit_tokens": 1024,
                "prompt_cache_miss_tokens": 476,
            }
        },
        engine=at(DEEPSEEK),
        tokens=(476, 1024, 0, 0, 200, 0),
        by_hand=((476, "0.28"), (1024, "0.028"), (200, "0.42")),  # 133.28 + 28.672 + 84
        microusd=246,
    ),
    Row(
        source="DeepSeek, API reference 'Create chat completion', with reasoning",
        answer={
            "usage": {
                "prompt_tokens": 17,
                "completion_tokens": 310,
                "total_tokens": 327,
                "prompt_tokens_details": {"cached_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 205},
                "prompt_cache_hit_tokens": 0,
                "prompt_cache_miss_tokens": 17,
            }
        },
        engine=at(DEEPSEEK),
        tokens=(17, 0, 0, 0, 310, 205),
        by_hand=((17, "0.28"), (310, "0.42")),  # 4.76 + 130.2
        microusd=135,
    ),
    Row(
        source="xAI, 'Prompt caching: usage and pricing'",
        answer={
            "usage": {
                "prompt_tokens": 125,
                "completion_tokens": 48,
                "total_tokens": 173,
                "prompt_tokens_details": {
                    "text_tokens": 125,
                    "audio_tokens": 0,
                    "image_tokens": 0,
                    "cached_tokens": 98,
                },
                "completion_tokens_details": {
                    "reasoning_tokens": 0,
                    "audio_tokens": 0,
                    "accepted_prediction_tokens": 0,
                    "rejected_prediction_tokens": 0,
                },
            }
        },
        engine=at(GROK_4),
        tokens=(27, 98, 0, 0, 48, 0),
        by_hand=((27, "3"), (98, "0.75"), (48, "15")),  # 81 + 73.5 + 720
        microusd=875,
    ),
    Row(
        source="xAI, a user's log in which xAI bills USD 0.0232856: the output leaves out the reasoning",
        answer={
            "usage": {
                "prompt_tokens": 10120,
                "completion_tokens": 1499,
                "total_tokens": 14428,
                "prompt_tokens_details": {"cached_tokens": 128},
                "completion_tokens_details": {"reasoning_tokens": 2809},
            }
        },
        engine=at(GROK_4_20),
        tokens=(9992, 128, 0, 0, 4308, 2809),
        by_hand=((9992, "1.25"), (128, "0.2"), (1499 + 2809, "2.5")),  # 12490 + 25.6 + 10770
        microusd=23_286,
    ),
    Row(
        source="xAI, a user's log without total_tokens: more reasoning than output",
        answer={
            "usage": {
                "prompt_tokens": 12,
                "completion_tokens": 1,
                "completion_tokens_details": {"reasoning_tokens": 386},
            }
        },
        engine=at(GROK_3_MINI),
        tokens=(12, 0, 0, 0, 387, 386),
        by_hand=((12, "0.3"), (387, "0.5")),  # 3.6 + 193.5
        microusd=198,
    ),
    Row(
        source="Groq, 'Prompt caching'",
        answer={
            "usage": {
                "queue_time": 0.026959759,
                "prompt_tokens": 4641,
                "prompt_time": 0.009995497,
                "completion_tokens": 1817,
                "completion_time": 5.57691751,
                "total_tokens": 6458,
                "total_time": 5.586913007,
                "prompt_tokens_details": {"cached_tokens": 4608},
            }
        },
        engine=at(GPT_OSS),
        tokens=(33, 4608, 0, 0, 1817, 0),
        by_hand=((33, "0.15"), (4608, "0.075"), (1817, "0.6")),  # 4.95 + 345.6 + 1090.2
        microusd=1441,
    ),
    Row(
        source="Mistral, 'Chat completion'",
        answer={"usage": {"prompt_tokens": 16, "total_tokens": 50, "completion_tokens": 34}},
        engine=at(MISTRAL),
        tokens=(16, 0, 0, 0, 34, 0),
        by_hand=((16, "2"), (34, "6")),  # 32 + 204
        microusd=236,
    ),
    Row(
        source="Mistral, 'Prompt caching': cached tokens cost 10%",
        answer={
            "usage": {
                "prompt_tokens": 3000,
                "total_tokens": 3100,
                "completion_tokens": 100,
                "prompt_tokens_details": {"cached_tokens": 2048},
            }
        },
        engine=at(MISTRAL),
        tokens=(952, 2048, 0, 0, 100, 0),
        by_hand=((952, "2"), (2048, "0.2"), (100, "6")),  # 1904 + 409.6 + 600
        microusd=2914,
    ),
    Row(
        source="Google, compatible API, a user's log: the thoughts are only in the total",
        answer={"usage": {"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 623}},
        engine=at(GEMINI_FLASH),
        tokens=(20, 0, 0, 0, 603, 405),
        by_hand=((20, "0.3"), (198 + 405, "2.5")),  # 6 + 1507.5
        microusd=1514,
    ),
    Row(
        source="Google, pricing: a prompt of more than 200,000 tokens, those of the cache included",
        answer={
            "usage": {
                "prompt_tokens": 250_000,
                "completion_tokens": 1000,
                "total_tokens": 251_000,
                "prompt_tokens_details": {"cached_tokens": 100_000},
            }
        },
        engine=listed("google", "gemini-2.5-pro"),
        tokens=(150_000, 100_000, 0, 0, 1000, 0),
        by_hand=((150_000, "2.5"), (100_000, "0.25"), (1000, "15")),  # 375000 + 25000 + 15000
        microusd=415_000,
    ),
    Row(
        source="Moonshot, 'Context caching': cached_tokens beside the total",
        answer={"usage": {"prompt_tokens": 19, "completion_tokens": 21, "total_tokens": 40, "cached_tokens": 10}},
        engine=at(KIMI),
        tokens=(9, 10, 0, 0, 21, 0),
        by_hand=((9, "0.6"), (10, "0.1"), (21, "3")),  # 5.4 + 1 + 63
        microusd=70,
    ),
    Row(
        source="LiteLLM proxy, 'Prompt caching', before an engine of Anthropic",
        answer={
            "usage": {
                "prompt_tokens": 2400,
                "completion_tokens": 50,
                "total_tokens": 2450,
                "prompt_tokens_details": {"cached_tokens": 1000},
                "cache_creation_input_tokens": 1200,
                "cache_read_input_tokens": 1000,
            }
        },
        engine=at(CLAUDE_SONNET),
        tokens=(200, 1000, 1200, 0, 50, 0),
        by_hand=((200, "3"), (1000, "0.3"), (1200, "3.75"), (50, "15")),  # 600 + 300 + 4500 + 750
        microusd=6150,
    ),
    Row(
        source="vLLM, 'OpenAI-compatible server', at a rented one",
        answer={
            "usage": {"prompt_tokens": 12, "total_tokens": 22, "completion_tokens": 10, "prompt_tokens_details": None}
        },
        engine=at(RENTED),
        tokens=(12, 0, 0, 0, 10, 0),
        by_hand=((12, "0.2"), (10, "0.2")),  # 2.4 + 2
        microusd=5,
    ),
    Row(
        source="vLLM with --enable-prompt-tokens-details; without a price for it, cached input costs as much as input",
        answer={
            "usage": {
                "prompt_tokens": 1300,
                "total_tokens": 1400,
                "completion_tokens": 100,
                "prompt_tokens_details": {"cached_tokens": 1280},
            }
        },
        engine=at(RENTED),
        tokens=(20, 1280, 0, 0, 100, 0),
        by_hand=((20, "0.2"), (1280, "0.2"), (100, "0.2")),  # 4 + 256 + 20
        microusd=280,
    ),
    Row(
        source="Ollama, 'OpenAI compatibility'",
        answer={"usage": {"prompt_tokens": 26, "completion_tokens": 298, "total_tokens": 324}},
        engine=LOCAL,
        tokens=(26, 0, 0, 0, 298, 0),
        by_hand=(),
        microusd=0,
    ),
    Row(
        source="llama.cpp, tools/server README: timings beside the usage",
        answer={
            "usage": {"completion_tokens": 35, "prompt_tokens": 237, "total_tokens": 272},
            "timings": {"cache_n": 236, "prompt_n": 1, "prompt_ms": 30.9, "predicted_n": 35, "predicted_ms": 661.1},
        },
        engine=LOCAL,
        tokens=(1, 236, 0, 0, 35, 0),
        by_hand=(),
        microusd=0,
    ),
    Row(
        source="llama.cpp without a usage",
        answer={"timings": {"cache_n": 236, "prompt_n": 1, "predicted_n": 35}},
        engine=at(RENTED),
        tokens=(1, 236, 0, 0, 35, 0),
        by_hand=((1, "0.2"), (236, "0.2"), (35, "0.2")),  # 0.2 + 47.2 + 7
        microusd=55,
    ),
    Row(
        source="Anthropic, 'Messages'",
        read=messages_usage,
        answer={
            "usage": {
                "input_tokens": 2095,
                "cache_creation_input_tokens": None,
                "cache_read_input_tokens": None,
                "output_tokens": 503,
                "service_tier": "standard",
            }
        },
        engine=at(CLAUDE_SONNET),
        tokens=(2095, 0, 0, 0, 503, 0),
        by_hand=((2095, "3"), (503, "15")),  # 6285 + 7545
        microusd=13_830,
    ),
    Row(
        source="Anthropic, 'Prompt caching': the input leaves out the cache",
        read=messages_usage,
        answer={
            "usage": {
                "input_tokens": 50,
                "cache_read_input_tokens": 100_000,
                "cache_creation_input_tokens": 0,
                "output_tokens": 503,
            }
        },
        engine=at(CLAUDE_SONNET),
        tokens=(50, 100_000, 0, 0, 503, 0),
        by_hand=((50, "3"), (100_000, "0.3"), (503, "15")),  # 150 + 30000 + 7545
        microusd=37_695,
    ),
    Row(
        source="Anthropic, 'Prompt caching: 1-hour cache duration'",
        read=messages_usage,
        answer={
            "usage": {
                "input_tokens": 2048,
                "cache_read_input_tokens": 1800,
                "cache_creation_input_tokens": 248,
                "output_tokens": 503,
                "cache_creation": {"ephemeral_5m_input_tokens": 148, "ephemeral_1h_input_tokens": 100},
            }
        },
        engine=at(CLAUDE_SONNET),
        tokens=(2048, 1800, 148, 100, 503, 0),
        # 6144 + 540 + 555 + 600 + 7545
        by_hand=((2048, "3"), (1800, "0.3"), (148, "3.75"), (100, "6"), (503, "15")),
        microusd=15_384,
    ),
    Row(
        source="Anthropic, 'Extended thinking': output_tokens_details",
        read=messages_usage,
        answer={"usage": {"input_tokens": 40, "output_tokens": 900, "output_tokens_details": {"thinking_tokens": 700}}},
        engine=at(CLAUDE_SONNET),
        tokens=(40, 0, 0, 0, 900, 700),
        by_hand=((40, "3"), (900, "15")),  # 120 + 13500
        microusd=13_620,
    ),
    Row(
        source="Anthropic, pricing: long prompts of Claude Haiku 5.5, of which all is in the cache",
        read=messages_usage,
        answer={"usage": {"input_tokens": 50, "cache_read_input_tokens": 120_000, "output_tokens": 10}},
        engine=listed("anthropic", "claude-haiku-5-5"),
        tokens=(50, 120_000, 0, 0, 10, 0),
        by_hand=((50, "0.5"), (120_000, "0.05"), (10, "2.5")),  # 25 + 6000 + 25
        microusd=6050,
    ),
    Row(
        source="Amazon Bedrock, 'Converse'",
        read=converse_usage,
        answer={"usage": {"inputTokens": 30, "outputTokens": 628, "totalTokens": 658}},
        engine=at(CLAUDE_HAIKU_EU),
        tokens=(30, 0, 0, 0, 628, 0),
        by_hand=((30, "1.1"), (628, "5.5")),  # 33 + 3454
        microusd=3487,
    ),
    Row(
        source="Amazon Bedrock, 'TokenUsage' and 'CacheDetail': the input leaves out the cache",
        read=converse_usage,
        answer={
            "usage": {
                "inputTokens": 4,
                "outputTokens": 120,
                "totalTokens": 2349,
                "cacheReadInputTokens": 500,
                "cacheWriteInputTokens": 1725,
                "cacheDetails": [{"ttl": "1h", "inputTokens": 1000}, {"ttl": "5m", "inputTokens": 725}],
            }
        },
        engine=at(CLAUDE_HAIKU_EU),
        tokens=(4, 500, 725, 1000, 120, 0),
        # 4.4 + 55 + 996.875 + 2200 + 660
        by_hand=((4, "1.1"), (500, "0.11"), (725, "1.375"), (1000, "2.2"), (120, "5.5")),
        microusd=3917,
    ),
)
