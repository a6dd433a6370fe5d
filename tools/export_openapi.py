"""Print the OpenAPI document of the HTTP API: `python tools/export_openapi.py > docs/openapi.json`."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from llm_server.api.app import create_app
from llm_server.api.executor import InlineExecutor
from llm_server.settings import Settings

if TYPE_CHECKING:
    from llm_server.orchestration.service import Service


def document() -> str:
    """Return the document as text. It does not depend on a service, so a stand-in with two attributes is enough."""
    service = cast("Service", SimpleNamespace(prompt_max_chars=Settings().prompt_max_chars, keys=None))
    app = create_app(service, lambda: "", executor=InlineExecutor(service))
    return json.dumps(app.openapi(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(document(), end="")
