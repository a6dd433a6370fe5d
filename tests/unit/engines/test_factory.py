"""The factory makes one adapter for each configured engine, without network and without unnecessary imports."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from llm_server.engines import bedrock
from llm_server.engines.anthropic import AnthropicEngine
from llm_server.engines.bedrock import BedrockEngine
from llm_server.engines.credentials import Credentials, has_credentials
from llm_server.engines.embedded import EmbeddedEngine
from llm_server.engines.factory import build
from llm_server.engines.http import HttpWire
from llm_server.engines.local.llamacpp import LlamaCppEngine
from llm_server.engines.openai import OpenAIEngine
from llm_server.engines.parts import EngineParts
from llm_server.orchestration.configuration import catalog_checks
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.engines.catalog import REQUIRED_FIELDS, Catalog, Defaults, EngineKind, EngineSpec
from llm_server.orchestration.domain.engines.message import user
from llm_server.orchestration.domain.errors import ConfigurationError, EngineUnavailable
from llm_server.orchestration.routing.analysis import analyse

DEFAULTS = Defaults(
    timeout_s=60,
    max_output_tokens=1024,
    plan_max_output_tokens=1024,
    verdict_max_output_tokens=1024,
    small_max_output_tokens=1024,
    confidence_threshold=0.7,
    parallel_steps=4,
    profile="general",
    planner="Planner-Agent",
    synthesis_tier="strong",
    answer_gate=True,
)


def spec(kind: Any, **changes: Any) -> EngineSpec:
    return EngineSpec(**({"kind": kind, "source": "api", "model": "m", "base_url": "http://127.0.0.1:1"} | changes))


def catalog(**engines: EngineSpec) -> Catalog:
    return Catalog(defaults=DEFAULTS, profiles={}, roles={}, engines=engines)


def parts(catalog: Catalog, credentials: Credentials | None = None) -> EngineParts:
    return EngineParts(catalog=catalog, credentials=credentials or Credentials({}), analyse=analyse)


def no_network(service: str) -> Any:
    raise AssertionError(f"{service} was asked")


def test_every_kind_has_its_adapter_and_none_asks_for_anything_yet() -> None:
    """No key and no AWS client is needed before the first call."""
    configured = catalog(
        a=spec("openai", api_key="ssm:/k"),
        b=spec("anthropic", api_key="ssm:/k"),
        c=spec("bedrock"),
        d=spec("embedded", source="local"),
    )
    given = parts(configured, Credentials({}, client=no_network))
    engines = build(given)

    made = {name: type(engine) for name, engine in engines.items()}
    assert bedrock.build("c", given, client=lambda *_: no_network("bedrock"))
    assert made == {"a": OpenAIEngine, "b": AnthropicEngine, "c": BedrockEngine, "d": EmbeddedEngine}


def test_each_kind_has_an_adapter_of_its_own() -> None:
    """Engines that are switched off need no model file and no extra."""
    kinds = get_args(EngineKind)
    engines = build(parts(catalog(**{kind: spec(kind, toggle=False) for kind in kinds})))

    assert len({type(engine) for engine in engines.values()}) == len(kinds) > 1


def test_a_kind_that_is_not_known_is_refused() -> None:
    """The configuration refuses it before the factory does."""
    with pytest.raises(AssertionError, match="gopher"):
        build(parts(catalog(a=spec("gopher"))))


def test_a_kind_asks_for_the_fields_that_its_adapter_uses() -> None:
    """An HTTP engine needs an address, which must not contain the adapter's path already."""
    kinds = get_args(EngineKind)
    engines = build(parts(catalog(**{kind: spec(kind, toggle=False) for kind in kinds})))

    assert set(REQUIRED_FIELDS) == set(kinds)
    for kind, engine in engines.items():
        needs_address = "base_url" in REQUIRED_FIELDS[spec(kind).kind]
        assert needs_address == isinstance(engine, HttpWire), kind
        if isinstance(engine, HttpWire):
            doubled = catalog(a=spec(kind, base_url=f"http://127.0.0.1:1{engine.path}"))
            assert any(f"base_url must not end with {engine.path}" in fault for fault in catalog_checks.faults(doubled))


def test_the_bedrock_client_waits_as_long_as_a_call_may_take() -> None:
    asked: list[Any] = []

    class Client:
        def converse(self, **_: Any) -> Any:
            return {"output": {"message": {"content": [{"text": "Hi"}]}}}

    def client(wanted: EngineSpec, timeout_s: float) -> Client:
        asked.append((wanted.region, timeout_s))
        return Client()

    configured = catalog(short=spec("bedrock", region="eu-west-1", timeout_s=7), usual=spec("bedrock"))
    given = parts(configured, Credentials({}, client=no_network))
    for name in configured.engines:
        engine = bedrock.build(name, given, client=client)
        engine.complete(EngineCall(system="", messages=user("Hello?"), max_output_tokens=9), timeout_s=5)

    assert asked == [("eu-west-1", 7), (None, 60)]


def test_an_engine_whose_key_is_missing_is_known_before_it_is_tried() -> None:
    credentials = Credentials({"SET": "k"}, client=no_network)

    assert has_credentials(credentials, spec("openai"))
    assert has_credentials(credentials, spec("openai", api_key="env:SET"))
    assert has_credentials(credentials, spec("bedrock"))
    assert not has_credentials(credentials, spec("openai", api_key="env:MISSING"))


def test_a_model_in_the_process_is_not_loaded_before_its_first_call(tmp_path: Path) -> None:
    """The start reads only the first bytes of the file; the rest of this one is not a model."""
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    configured = catalog(a=spec("llamacpp", source="local", model=str(tmp_path / "m.gguf")))

    assert isinstance(build(parts(configured))["a"], LlamaCppEngine)


def test_a_missing_model_stops_the_start_unless_its_engine_is_switched_off(tmp_path: Path) -> None:
    missing = spec("llamacpp", source="local", model=str(tmp_path / "m.gguf"))
    off = spec("llamacpp", source="local", model=str(tmp_path / "m.gguf"), toggle=False)

    assert build(parts(catalog(a=off)))
    with pytest.raises(ConfigurationError, match=r"^engines\.a\.model is .*m\.gguf'; allowed is a GGUF file"):
        build(parts(catalog(a=missing)))


def test_a_missing_extra_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make run` without LOCAL=1 does not install it."""
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(ConfigurationError) as caught:
        build(parts(catalog(a=spec("llamacpp", source="local"))))

    assert str(caught.value) == (
        "engines.a needs the extra [local], which is not installed: "
        "`pip install 'llm-server[local]'`, or `make run LOCAL=1`."
    )


def test_an_engine_switched_on_later_without_its_extra_is_unreachable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It was off at the start, so the extra was not checked. Tasks go to another engine, and it shows as offline."""
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    off = spec("llamacpp", source="local", model=str(tmp_path / "m.gguf"), toggle=False)
    engine = build(parts(catalog(a=off)))["a"]

    with pytest.raises(EngineUnavailable, match="extra") as caught:
        engine.complete(EngineCall(system="", messages=user("Hi."), max_output_tokens=9), timeout_s=5)
    assert caught.value.kind == "unreachable"


def test_no_lambda_layer_brings_llama_cpp() -> None:
    """A Lambda function has neither the memory nor the time for a model."""
    layers = Path(__file__).parents[3] / "layers"
    files = [*layers.glob("*/requirements.in"), *layers.glob("*/requirements.txt")]

    assert len(files) >= 4
    assert not [file for file in files if "xllamacpp" in file.read_text()]


def test_importing_the_factory_brings_in_no_more_than_http() -> None:
    """Imports lengthen every cold start of the worker function."""
    costly = (
        "boto3",
        "botocore",
        "genai_prices",
        "pydantic",
        "fastapi",
        "llm_server.orchestration.routing.analysis",
        "xllamacpp",
    )
    code = "import llm_server.engines.factory, llm_server.engines.prices, sys; print(*sys.modules)"
    environ = {"PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ)

    assert not set(costly) & set(ran.stdout.split())
