"""Adapter that runs a GGUF file in this process.

llama.cpp's own server listens on a loopback port, with a random API key that only this process knows.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import threading
import time
import weakref
from typing import Any

from llm_server.engines.connections import EnginePool
from llm_server.engines.local import model_files
from llm_server.engines.local.model_files import ModelFile
from llm_server.engines.openai import OpenAIEngine
from llm_server.engines.parts import EngineParts
from llm_server.orchestration.domain.engines.call import Completion, Engine, EngineCall
from llm_server.orchestration.domain.engines.catalog import EngineSpec
from llm_server.orchestration.domain.errors import ConfigurationError, EngineUnavailable


def build(name: str, parts: EngineParts) -> Engine:
    """Build the engine with this name. The model and the extra [local] may be missing if it is switched off.

    Raises:
        ConfigurationError: the engine is switched on, but its model is not on this machine, or the extra is not
            installed.
    """
    spec = parts.spec(name)
    file = model_files.locate(spec.model, parts.catalog.models, parts.models_dir)
    if spec.toggle:
        _require_extra(f"engines.{name}")
        model_files.require(file, named_by=f"engines.{name}.model")
    return LlamaCppEngine(spec, file, parts.pool)


def _require_extra(named_by: str) -> None:
    """Raise ConfigurationError if xllamacpp is not installed; `named_by` is the setting that needs it."""
    if importlib.util.find_spec("xllamacpp") is None:
        how = "`pip install 'llm-server[local]'`, or `make run LOCAL=1`"
        raise ConfigurationError(f"{named_by} needs the extra [local], which is not installed: {how}.")


class LlamaCppEngine:
    """Loads the model at the first call and keeps it until `close`, or until the process ends.

    While the model is loaded, all other threads wait, because xllamacpp holds Python's global interpreter lock.
    """

    def __init__(self, spec: EngineSpec, file: ModelFile, pool: EnginePool) -> None:
        self._spec = spec
        self._file = file
        self._pool = pool
        self._lock = threading.Lock()
        self._wire: OpenAIEngine | None = None
        self._servers: list[Any] = []  # at most one; the server runs until its object is deleted
        weakref.finalize(self, self._servers.clear)

    def complete(self, call: EngineCall, *, timeout_s: float) -> Completion:
        started_s = time.monotonic()
        wire = self._started()
        return wire.complete(call, timeout_s=timeout_s - (time.monotonic() - started_s))

    def close(self) -> None:
        """Stop the server and free its memory; a later call starts it again."""
        with self._lock:
            self._wire = None
            self._servers.clear()

    def _started(self) -> OpenAIEngine:
        with self._lock:
            if self._wire is None:
                self._wire = self._start()
            return self._wire

    def _start(self) -> OpenAIEngine:
        try:
            import xllamacpp
        except (
            ImportError
        ) as error:  # the engine was off at the start, when the extra is not required, and was switched on later
            raise EngineUnavailable("The extra [local] is not installed.", kind="unreachable") from error
        key = secrets.token_urlsafe(32)
        try:
            server = xllamacpp.Server(self._parameters(xllamacpp.CommonParams(), key))
        except RuntimeError as error:
            raise EngineUnavailable("The model's file cannot be loaded.", kind="unreachable") from error
        self._servers.append(server)
        spec = EngineSpec(
            kind="openai",
            source="local",
            model=self._spec.model,
            base_url=f"{server.listening_address}/v1",
            structured_output=self._spec.structured_output,
            send_temperature=self._spec.send_temperature,
            small=self._spec.is_small,
            stop=self._spec.stop,
            repeat_penalty=self._spec.repeat_penalty,
            idle_timeout_s=self._spec.idle_timeout_s,
        )
        return OpenAIEngine(spec, self._pool, lambda: key)

    def _parameters(self, parameters: Any, key: str) -> Any:
        """Set the parameters that differ from llama.cpp's defaults, which use a GPU if one is supported."""
        places = self._spec.max_concurrency
        parameters.model.path = str(self._file.path)
        parameters.n_ctx = (self._spec.context or self._file.context) * places
        parameters.n_parallel = places
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = _threads()
        parameters.api_keys = [key]
        parameters.hostnames = ["127.0.0.1"]
        parameters.port = 0
        parameters.ui = False
        parameters.endpoint_slots = False  # this endpoint would show prompts
        parameters.cache_ram_mib = 0  # the default keeps up to 8 GiB of past prompts
        parameters.warmup = False
        parameters.verbosity = 0
        return parameters


def _threads() -> int:
    """Return the number of cores less one, which is left to the server; more threads than cores slow one another."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable - 1)
