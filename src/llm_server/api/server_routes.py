"""The server's own part of the HTTP contract: figures, catalogue, engines, keys, health."""

from __future__ import annotations

from fastapi import APIRouter, Response

from llm_server import __version__
from llm_server.api import inputs, server_models, views
from llm_server.api.contract import PREFIX, Caller, Service, answer, keyed_router, problems

router = keyed_router()
health = APIRouter(prefix=PREFIX, responses=problems(500))
"""What is open to everybody."""


@router.get("/metrics", response_model=server_models.MetricsView, responses=problems(503))
async def get_metrics(service: Service) -> Response:
    """Read the nine figures."""
    return answer(server_models.MetricsView.model_validate(service.metrics()))


@router.get("/usage", response_model=server_models.UsageView, responses=problems(503))
async def get_usage(service: Service, caller: Caller) -> Response:
    """Read what the caller's tenant spent today, and what its key allows and has used."""
    return answer(views.usage(service.usage(caller)))


@router.get("/catalog", response_model=server_models.CatalogView)
async def get_catalog(service: Service) -> Response:
    """Show the configured profiles, roles and engines; `toggle` and `locked` as they were switched since."""
    return answer(views.catalog(service.catalog, service.engine_specs()))


@router.get("/engines", response_model=server_models.EnginesView, responses=problems(503))
async def get_engines(service: Service) -> Response:
    """Show every engine, how it is switched and how it is."""
    return answer(views.engines(service.engines()))


@router.patch(
    "/engines/{name:path}",  # a configured name may hold a slash
    response_model=server_models.EngineNowView,
    responses=problems(400, 404, 413, 415, 422, 503),
)
async def switch_engine(name: str, change: inputs.EngineChange, service: Service) -> Response:
    """Switch an engine on or off, lock or unlock it: everywhere within 5 s, until it is switched again."""
    return answer(views.engine(service.switch_engine(name, change.to_domain())))


@router.get("/keys", response_model=server_models.KeyList)
async def list_keys(service: Service) -> Response:
    """List every tenant's keys, without their secrets."""
    return answer(server_models.KeyList(keys=[views.key(key) for key in service.keys.all()]))


@router.post("/keys", status_code=201, response_model=server_models.CreatedKey, responses=problems(400, 413, 415, 422))
async def create_key(new: inputs.NewKey, service: Service) -> Response:
    """Make a key; its token is in this answer and in no other. After the first, every call needs a key."""
    made, token = service.keys.create(new.tenant, new.scopes, limits=new.limits.to_domain(), name=new.name)
    return answer(views.created_key(made, token), 201)


@router.delete("/keys/{key_id}", status_code=204, responses=problems(404, 422))
async def revoke_key(key_id: str, service: Service) -> Response:
    """Refuse a key from now on (other processes within a minute); once more changes nothing."""
    service.keys.revoke(key_id)
    return Response(status_code=204)


@health.get("/health", response_model=server_models.HealthView)
async def get_health() -> Response:
    """Tell that the process answers; touches neither store nor engine."""
    return answer(server_models.HealthView(status="ok", version=__version__))
