"""What engines are built from: given once to the factory, and by it to the adapter of each engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from llm_server.engines.connections import EnginePool
from llm_server.engines.credentials import Credentials
from llm_server.orchestration.domain.catalog import Catalog, EngineSpec

if TYPE_CHECKING:
    from llm_server.engines.embedded import Analyse


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineParts:
    """The catalogue and what the engines in it share; an adapter takes what its kind needs.

    `models_dir` is where pulled models are; `analyse` measures prompts for the embedded engine.
    """

    catalog: Catalog
    credentials: Credentials
    analyse: Analyse
    models_dir: Path = Path()
    pool: EnginePool = field(default_factory=EnginePool)

    def spec(self, name: str) -> EngineSpec:
        """The configuration of an engine."""
        return self.catalog.engines[name]

    def api_key(self, name: str) -> Callable[[], str | None]:
        """A function that fetches an engine's key when it is called; it returns None for an engine without one.

        It raises EngineUnavailable when the key cannot be fetched.
        """
        reference = self.spec(name).api_key
        return partial(self.credentials.resolve, reference) if reference else lambda: None
