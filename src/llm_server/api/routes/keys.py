"""The routes of API keys."""

from __future__ import annotations

from fastapi import Response

from llm_server.api import views
from llm_server.api.contract import Service, answer, keyed_router, problems
from llm_server.api.schemas import keys

router = keyed_router()


@router.get("/keys", response_model=keys.KeyList)
async def list_keys(service: Service) -> Response:
    """List every tenant's keys, without their secrets."""
    return answer(keys.KeyList(keys=[views.key(key) for key in service.keys.all()]))


@router.post("/keys", status_code=201, response_model=keys.CreatedKey, responses=problems(400, 413, 415, 422))
async def create_key(new: keys.NewKey, service: Service) -> Response:
    """Make a key; its token is in this answer and in no other. After the first, every call needs a key."""
    made, token = service.keys.create(new.tenant, new.scopes, limits=new.limits.to_domain(), name=new.name)
    return answer(views.created_key(made, token), 201)


@router.delete("/keys/{key_id}", status_code=204, responses=problems(404, 422))
async def revoke_key(key_id: str, service: Service) -> Response:
    """Refuse a key from now on (other processes within a minute); once more changes nothing."""
    service.keys.revoke(key_id)
    return Response(status_code=204)
