"""The server's own part of the HTTP contract: figures, catalogue, engines, health."""

from __future__ import annotations

from fastapi import APIRouter, Response

from llm_server import __version__
from llm_server.api import views
from llm_server.api.body import OpenRoute
from llm_server.api.contract import PREFIX, Caller, Service, answer, keyed_router, problems
from llm_server.api.schemas import server

router = keyed_router()
health = APIRouter(prefix=PREFIX, route_class=OpenRoute, responses=problems(422, 500))
"""What is open to everybody."""


@router.get("/metrics", response_model=server.MetricsView, responses=problems(503))
async def get_metrics(service: Service) -> Response:
    """Read the nine figures."""
    return answer(server.MetricsView.model_validate(service.metrics()))


@router.get("/usage", response_model=server.UsageView, responses=problems(503))
async def get_usage(service: Service, caller: Caller) -> Response:
    """Read what the caller's tenant spent today, and what its key allows and has used."""
    return answer(views.usage(service.usage(caller)))


@router.get("/catalog", response_model=server.CatalogView)
async def get_catalog(service: Service) -> Response:
    """Show the configured profiles, roles and engines; `toggle` and `locked` as they were switched since."""
    return answer(views.catalog(service.catalog, service.engine_specs()))


@router.get("/engines", response_model=server.EnginesView, responses=problems(503))
async def get_engines(service: Service) -> Response:
    """List the engines that serve, with their switches and their status, as `GET /metrics` lists them."""
    return answer(views.engines(service.engines()))


@router.patch(
    "/engines/{name:path}",  # a configured name may hold a slash
    response_model=server.EngineNowView,
    responses=problems(400, 404, 413, 415, 422, 503),
)
async def switch_engine(name: str, change: server.EngineChange, service: Service) -> Response:
    """Switch an engine on or off, lock or unlock it: everywhere within 5 s, until it is switched again."""
    return answer(views.engine(service.switch_engine(name, change.to_domain())))


@health.get("/health", response_model=server.HealthView)
async def get_health() -> Response:
    """Tell that the process answers; touches neither store nor engine."""
    return answer(server.HealthView(status="ok", version=__version__))
