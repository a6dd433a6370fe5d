"""The real llama.cpp server, in this process, on a model of random weights; a fixture for any test."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import xllamacpp

import tiny_gguf

MODEL = "tiny-random"
CONTEXT = 2048
API_KEY = "sk-llamacpp-test"


class LlamaServer(NamedTuple):
    """`url` is the root, `base_url` what Chat Completions wants; `CONTEXT` tokens hold prompt and answer."""

    url: str
    api_key: str
    model: str

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"


@pytest.fixture(scope="session")
def llamacpp_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    """Serve on a free port until the session ends; one thread, because two spin badly on a busy machine."""
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    tiny_gguf.write(path)
    server = xllamacpp.Server(_parameters(path))
    yield LlamaServer(url=server.listening_address, api_key=API_KEY, model=MODEL)
    del server  # it serves as long as the object lives


def _parameters(path: Path) -> xllamacpp.CommonParams:
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
