"""Fixtures: the real llama.cpp server in this process, with a model of random weights."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import xllamacpp

from llm_server.orchestration.execution import plan_proposal
from support import tiny_gguf

MODEL = "tiny-random"
CONTEXT = 4096
API_KEY = "sk-llamacpp-test"


class LlamaServer(NamedTuple):
    """`url` is the root, `base_url` is for Chat Completions; prompt and answer share `CONTEXT` tokens."""

    url: str
    api_key: str
    model: str

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    tiny_gguf.write(path)
    return path


@pytest.fixture(scope="session")
def llamacpp_server(tiny_model: Path) -> Iterator[LlamaServer]:
    """Serve random answers until the session ends."""
    with _served(_parameters(tiny_model)) as server:
        yield server


@pytest.fixture(scope="module")
def planning_server(tiny_model: Path) -> Iterator[LlamaServer]:
    """Serve a plan of two steps to every call without a schema, like a server started with `--json-schema`."""
    first, second = (_short_step(["Writing-Agent"], f"s{n}", after) for n, after in ((1, []), (2, ["s1"])))
    schema = _short_plan({"type": "array", "prefixItems": [first, second], "items": False, "minItems": 2})
    parameters = _parameters(tiny_model)
    parameters.sampling.grammar = xllamacpp.CommonGrammar(
        xllamacpp.common_grammar_type.COMMON_GRAMMAR_TYPE_USER, xllamacpp.json_schema_to_grammar(schema)
    )
    with _served(parameters) as server:
        yield server


def plan_schema(roles: Collection[str]) -> dict[str, Any]:
    """Return our schema of plans, reduced to what random weights can follow: one named step with short texts."""
    return _short_plan({"type": "array", "items": _short_step(roles, "s1", []), "minItems": 1, "maxItems": 1})


def _short_plan(steps: dict[str, Any]) -> dict[str, Any]:
    schema = plan_proposal.schema(["Writing-Agent"])
    schema["properties"] |= {"goal": {"type": "string", "maxLength": 20}, "steps": steps}
    return schema


def _short_step(roles: Collection[str], step_id: str, after: list[str]) -> dict[str, Any]:
    step: dict[str, Any] = plan_proposal.schema(roles)["properties"]["steps"]["items"]
    step["properties"] |= {
        "id": {"const": step_id},
        "instruction": {"type": "string", "minLength": 1, "maxLength": 20},
        "depends_on": {"const": after},
    }
    return step


@contextmanager
def _served(parameters: xllamacpp.CommonParams) -> Iterator[LlamaServer]:
    """Serve on a free port."""
    server = xllamacpp.Server(parameters)
    yield LlamaServer(url=server.listening_address, api_key=API_KEY, model=MODEL)
    del server  # it serves as long as the object exists


def _parameters(path: Path) -> xllamacpp.CommonParams:
    """Return the server's parameters; with one thread, because two are slow on a busy machine."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.model_alias = {MODEL}
    parameters.n_ctx = CONTEXT
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = 1
    parameters.cpuparams_batch.n_threads = 1
    parameters.api_keys = [API_KEY]
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.warmup = False
    parameters.verbosity = 0
    parameters.sampling.seed = 7
    return parameters
