"""What an image costs at most: reserved before a call, and no reason to doubt the count of an engine."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from llm_server.orchestration.dispatch.plausibility import limited
from llm_server.orchestration.dispatch.reservation import max_tokens_in
from llm_server.orchestration.domain.engines import image_tokens
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.engines.message import user
from llm_server.orchestration.domain.engines.usage import Usage
from support.scripted_engine import an_engine
from support.sent import an_image, with_images

OPENAI = "https://api.openai.com/v1"


@pytest.mark.parametrize(
    ("spec", "most"),
    [
        ({"kind": "anthropic", "model": "claude-opus-4-7"}, 4_784),
        ({"kind": "bedrock", "model": "eu.anthropic.claude-sonnet-4-5-v1:0"}, 4_784),
        ({"kind": "bedrock", "model": "amazon.nova-pro-v1:0"}, 16_384),
        ({"base_url": OPENAI, "model": "gpt-4o-mini-2024-07-18"}, 48_169),
        ({"base_url": OPENAI, "model": "o3"}, 24_600),
        ({"base_url": "https://x.openai.azure.com/openai/v1", "model": "gpt-4.1"}, 24_600),
        ({"base_url": "http://127.0.0.1:8080/v1", "model": "qwen2.5-vl"}, 16_384),
    ],
)
def test_the_most_that_an_image_costs_depends_on_the_engine(spec: dict[str, Any], most: int) -> None:
    call = EngineCall(system="", messages=with_images("Look.", an_image(), an_image()), max_output_tokens=10)
    plain = replace(call, messages=user("Look."))

    fitted = call.for_engine(an_engine(**spec))

    assert fitted.image_tokens == 2 * most <= call.image_tokens
    assert max_tokens_in(fitted) == max_tokens_in(plain) + 2 * most
    assert fitted.for_engine(an_engine(**spec)) == fitted


def test_a_call_without_images_stays_the_same_for_every_engine() -> None:
    call = EngineCall(system="", messages=user("Look."), max_output_tokens=10)

    assert call.for_engine(an_engine(kind="anthropic")) is call


def test_the_tokens_of_an_image_are_plausible() -> None:
    call = EngineCall(system="", messages=with_images("Look."), max_output_tokens=10)
    call = call.for_engine(an_engine(kind="anthropic"))

    assert not limited(Usage(input_tokens=image_tokens.CLAUDE), call).implausible
    assert limited(Usage(input_tokens=2 * image_tokens.CLAUDE), call).implausible
