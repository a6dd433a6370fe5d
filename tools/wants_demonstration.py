"""Tell `make run` by the exit code whether to install the demonstration model: 0 if nothing else would answer."""

import os
import sys
from collections.abc import Sequence

from llm_server.catalog_loading import load_catalog
from llm_server.engines.discovery import LOOPBACK_SERVERS, LoopbackServer
from llm_server.orchestration.domain.errors import ConfigurationError
from llm_server.settings import Settings


def wants_demonstration(
    settings: Settings, own_port: int, *, loopback: Sequence[LoopbackServer] = LOOPBACK_SERVERS
) -> bool:
    """Return whether no engine is configured or found, and LLM_SERVER_MODEL is not set. Raises ConfigurationError."""
    if settings.model or settings.on_aws:
        return False
    catalog = load_catalog(settings, loopback=loopback, own_port=own_port).catalog
    return all(spec.demonstration for spec in catalog.engines.values())


def main() -> int:
    """Return the exit code. A wrong setting is left to the server, which names it."""
    try:
        return 0 if wants_demonstration(Settings.read(), int(os.environ.get("PORT", "8000"))) else 1
    except (ConfigurationError, ValueError):
        return 1


if __name__ == "__main__":
    sys.exit(main())
