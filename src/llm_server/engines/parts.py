"""The objects that engines are built from; the factory passes them to each adapter."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, field

from llm_server.engines.connections import EnginePool
from llm_server.engines.credentials import Credentials
from llm_server.orchestration.domain.engines.catalog import Catalog, EngineSpec

if TYPE_CHECKING:
    from llm_server.engines.embedded import Analyse


class EngineParts(Struct, frozen=True, kw_only=True):
    """The catalogue, and the objects that its engines share; each adapter uses only some of them.

    `models_dir` is the folder of pulled models. The embedded engine uses `analyse`, which analyses prompts, and
    `on_aws`, on which its advice on how to configure an engine depends.
    """

    catalog: Catalog
    credentials: Credentials
    analyse: Analyse
    on_aws: bool = False
    models_dir: Path = Path()
    pool: EnginePool = field(default_factory=EnginePool)

    def spec(self, name: str) -> EngineSpec:
        """Return the configuration of an engine."""
        return self.catalog.engines[name]

    def api_key(self, name: str) -> Callable[[], str | None]:
        """Return a function that looks up an engine's API key; it returns None for an engine without one.

        The function raises EngineUnavailable if the key cannot be fetched.
        """
        reference = self.spec(name).api_key
        return partial(self.credentials.resolve, reference) if reference else lambda: None
