"""Find an engine if none is configured: by an API key in the environment, a server on this machine, or a model file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from llm_server.orchestration.domain.engines import demonstration
from llm_server.orchestration.domain.engines.catalog import EngineSpec
from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused

if TYPE_CHECKING:
    from llm_server.engines.connections import EnginePool

PROBE_TIMEOUT_S = 0.3
CPU_TIMEOUT_S = 600
"""High, because a laptop generates a few tokens a second. The server lowers it to what a worker can wait."""
_NOT_FOR_CHAT = re.compile(
    r"embed|rerank|whisper|moderation|transcri|diffusion|tts|dall-e|flux|colbert|clip|minilm|(^|[/-])(bge|gte|e5)-",
    re.IGNORECASE,
)
MAX_SMALL_PARAMETERS = 4_500_000_000
"""A model with at most so many parameters is a small engine, like the largest one that `llm-server models` lists."""
_PARAMETERS = re.compile(r"(?<![a-z0-9.])(\d{1,4}(?:\.\d{1,3})?)([bm])(?![a-z0-9])", re.IGNORECASE)
"""The number of parameters in a model's name: `3b`, `135m`. In `30b-a3b`, `a3b` is not read."""


class LoopbackServer(NamedTuple):
    """A kind of LLM server and its default port; `title` is its name in messages for users."""

    name: str
    title: str
    port: int


LOOPBACK_SERVERS = (
    LoopbackServer("ollama", "Ollama", 11434),
    LoopbackServer("lm-studio", "LM Studio", 1234),
    LoopbackServer("llama-cpp", "llama.cpp", 8080),
    LoopbackServer("vllm", "vLLM", 8000),
)

OPENAI = EngineSpec(
    kind="openai",
    source="api",
    model="gpt-6-luna",
    base_url="https://api.openai.com/v1",
    api_key="env:OPENAI_API_KEY",
    max_tokens_field="max_completion_tokens",
    send_temperature=False,
)
ANTHROPIC = EngineSpec(
    kind="anthropic",
    source="api",
    model="claude-haiku-5-5",
    base_url="https://api.anthropic.com",
    api_key="env:ANTHROPIC_API_KEY",
    send_temperature=False,
)
EMBEDDED = EngineSpec(kind="embedded", source="local", model="embedded")


class DiscoveredEngine(NamedTuple):
    """A discovered engine; `reason` is the sentence about it that the server prints when it starts."""

    name: str
    spec: EngineSpec
    reason: str


def discover(
    environ: Mapping[str, str],
    *,
    loopback: Sequence[LoopbackServer] = LOOPBACK_SERVERS,
    own_port: int | None = None,
    model: str | None = None,
    demonstration_model: str | None = None,
    pool: EnginePool | None = None,
) -> DiscoveredEngine:
    """Return the first engine that is there.

    The order is: OPENAI_API_KEY, ANTHROPIC_API_KEY, a loopback server, `model`, the demonstration engine, the embedded
    engine. `loopback` lists the servers on this machine to try, each for at most 0.3 s. A server at `own_port` is
    skipped. `model` is the value of LLM_SERVER_MODEL. `demonstration_model` is the demonstration model of this machine,
    if it has one.
    """
    for name, spec in (("openai", OPENAI), ("anthropic", ANTHROPIC)):
        variable = f"{name.upper()}_API_KEY"
        if environ.get(variable, "").strip():
            return DiscoveredEngine(name, spec, f"{variable} is set, so {spec.model} answers.")
    for server in loopback:
        base_url = f"http://127.0.0.1:{server.port}/v1"
        listed = None if server.port == own_port else _first_chat_model(pool, base_url)
        if listed:
            served, small = listed["id"], _is_small(listed)
            spec = EngineSpec(
                kind="openai", source="local", model=served, base_url=base_url, max_concurrency=4, small=small
            )
            return DiscoveredEngine(
                server.name, spec, f"A server answers at {base_url} ({server.title}), so its model {served} answers."
            )
    if model and model != demonstration_model:
        spec = EngineSpec(kind="llamacpp", source="local", model=model, max_concurrency=1, timeout_s=CPU_TIMEOUT_S)
        return DiscoveredEngine("llamacpp", spec, f"LLM_SERVER_MODEL is set, so {model} answers in this process.")
    if demonstration_model:
        spec = EngineSpec(kind="demonstration", source="local", model=demonstration_model, max_concurrency=1)
        reason = f"No LLM was found ({_looked_for(loopback)}), so {demonstration_model} answers."
        return DiscoveredEngine("demonstration", spec, f"{reason} {demonstration.OF_MODEL}")
    return DiscoveredEngine(
        "embedded", EMBEDDED, f"No LLM was found ({_looked_for(loopback)}), so the embedded engine answers."
    )


def _first_chat_model(pool: EnginePool | None, base_url: str) -> dict[str, Any] | None:
    """Return the first chat model that a server lists, with its `id`; None if it lists none or does not answer."""
    from llm_server.engines.connections import EnginePool  # imported here because AWS probes no server
    from llm_server.engines.http import exchange
    from llm_server.engines.wire import json_objects

    try:
        answer = exchange(pool or EnginePool(), "GET", f"{base_url}/models", headers={}, timeout_s=PROBE_TIMEOUT_S)
    except (EngineUnavailable, PromptRefused):
        return None
    for model in json_objects(answer.get("data")):
        name: Any = model.get("id")
        if isinstance(name, str) and name and not _NOT_FOR_CHAT.search(name):
            return model
    return None


def _is_small(model: dict[str, Any]) -> bool:
    """Return whether a model is small, by the parameters that llama.cpp tells, or else by its name."""
    meta = model.get("meta")
    parameters = meta.get("n_params") if isinstance(meta, dict) else None
    if isinstance(parameters, int):
        return parameters <= MAX_SMALL_PARAMETERS
    units = {"b": 1e9, "m": 1e6}
    sizes = [float(number) * units[unit.lower()] for number, unit in _PARAMETERS.findall(model["id"])]
    return bool(sizes) and max(sizes) <= MAX_SMALL_PARAMETERS


def _looked_for(loopback: Sequence[LoopbackServer]) -> str:
    """Return the places that were searched, for the sentence that says no LLM was found."""
    keys = "OPENAI_API_KEY, ANTHROPIC_API_KEY"
    if not loopback:
        return keys
    return f"{keys}, loopback ports {', '.join(str(s.port) for s in loopback)}, LLM_SERVER_MODEL"
