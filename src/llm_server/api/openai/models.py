"""The routes of models: what a request may name as its `model`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Response

from llm_server.api.contract import Service
from llm_server.api.openai import calls
from llm_server.api.openai.calls import answer
from llm_server.api.openai.errors import ModelNotFound
from llm_server.api.openai.requests.target import models
from llm_server.orchestration.domain.status import known_spelling

router = calls.router()
_CREATED = 0
"""When a model was created: it is not known, and clients require a number."""


@router.get("/models")
async def list_models(service: Service) -> Response:
    """List `auto`, the modes, the roles and the engines."""
    names = models(service.catalog)
    return answer({"object": "list", "data": [_model(name) for name in names]})


@router.get("/models/{model:path}")
async def get_model(model: Annotated[str, Path()], service: Service) -> Response:
    """Read one model."""
    known = models(service.catalog)
    name = known_spelling(model, known)
    if name not in known:
        raise ModelNotFound(model, known)
    return answer(_model(name))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "llm-server"}
