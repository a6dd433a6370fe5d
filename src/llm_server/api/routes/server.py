"""The routes of the server itself: figures, usage, catalogue, engines, health."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from llm_server import __version__
from llm_server.api import views
from llm_server.api.body import OpenRoute
from llm_server.api.contract import PREFIX, Caller, Service, answer, keyed_router, problems
from llm_server.api.schemas import server

router = keyed_router("Server")
engines = keyed_router("Engines")
health = APIRouter(prefix=PREFIX, tags=["Server"], route_class=OpenRoute, responses=problems(422, 500))
"""The one route that needs no key."""
EngineName = Annotated[str, Path(description="The configured name of the engine.", examples=["claude"])]


@router.get(
    "/metrics",
    summary="Read the metrics",
    response_model=server.MetricsView,
    response_description="The nine figures.",
    responses=problems(503),
)
async def get_metrics(service: Service) -> Response:
    """Read nine figures about the whole server: engines, speed, tasks and costs."""
    return answer(server.MetricsView.model_validate(service.metrics()))


@router.get(
    "/usage",
    summary="Read the usage",
    response_model=server.UsageView,
    response_description="What was spent and what is allowed.",
    responses=problems(503),
)
async def get_usage(service: Service, caller: Caller) -> Response:
    """Read what the caller's tenant spent today (UTC), and what the caller's key allows and has used."""
    return answer(views.usage(service.usage(caller)))


@router.get(
    "/catalog",
    summary="Read the catalogue",
    response_model=server.CatalogView,
    response_description="Profiles, roles and engines by their names.",
)
async def get_catalog(service: Service) -> Response:
    """Read the configured profiles, roles and engines. `toggle` and `locked` of an engine are as last switched."""
    return answer(views.catalog(service.catalog, service.engine_specs()))


@engines.get(
    "/engines",
    summary="List the engines",
    response_model=server.EnginesView,
    response_description="Every engine by its name.",
    responses=problems(503),
)
async def get_engines(service: Service) -> Response:
    """List the engines that serve, with their switches and their status, as `GET /metrics` lists them."""
    return answer(views.engines(service.engines()))


@engines.patch(
    "/engines/{name:path}",  # a configured name may hold a slash
    summary="Switch an engine",
    response_model=server.EngineNowView,
    response_description="The engine as it is switched now.",
    responses=problems(400, 404, 413, 415, 422, 503),
)
async def switch_engine(name: EngineName, change: server.EngineChange, service: Service) -> Response:
    """Switch an engine on or off, or lock or unlock it.

    Every process of the server follows within 5 seconds. The switch holds, also after a restart, until it is changed.
    """
    return answer(views.engine(service.switch_engine(name, change.to_domain())))


@health.get(
    "/health",
    summary="Check that the server runs",
    response_model=server.HealthView,
    response_description="The process answers.",
)
async def get_health() -> Response:
    """Check that the process answers. Neither the database nor an engine is called."""
    return answer(server.HealthView(status="ok", version=__version__))
