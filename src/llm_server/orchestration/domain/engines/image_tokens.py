"""How many tokens an image costs at most. Nothing decodes images here, so each counts as the largest one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_server.orchestration.domain.engines.catalog import EngineSpec

CLAUDE = 4_784
"""Claude counts a patch of 28 x 28 pixels as a token, and scales an image down to so many patches at most.

Older models scale it down to about 1,600. https://platform.claude.com/docs/en/build-with-claude/vision
"""
GPT_4O_MINI = 48_169
"""2,833 tokens and 5,667 for each tile of 512 x 512 pixels, of which 768 x 2,048 pixels have 8.

https://developers.openai.com/api/docs/guides/images-vision
"""
GPT = 24_600
"""OpenAI's other models: 10,000 patches at 2.46 tokens each, the largest factor of a model. Tiles need less.

Same page as `GPT_4O_MINI`.
"""
OTHER = 16_384
"""Models that read images in their own size; this is the default limit of Qwen2.5-VL (12,845,056 pixels, 28 x 28 each).

https://huggingface.co/Qwen/Qwen2.5-VL-7B-Instruct (`max_pixels`). Amazon's Nova and Meta's Llama need less.
"""
MAX_TOKENS = GPT_4O_MINI
USUAL_CHARS = 6_400
"""The characters that stand for an image where the engine is not known yet: 1,600 tokens, as a usual image has."""


def most(spec: EngineSpec) -> int:
    """Return how many tokens one image costs at most with this engine."""
    model = spec.model.lower()
    if spec.kind == "anthropic" or "claude" in model:
        return CLAUDE
    if "4o-mini" in model:
        return GPT_4O_MINI
    return GPT if spec.is_openai or "gpt" in model else OTHER
