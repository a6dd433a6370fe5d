"""The routes for the server itself: metrics, usage, catalogue, engines and health."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import Path, Response

from llm_server import __version__
from llm_server.api import views
from llm_server.api.contract import Caller, Run, Service, answer, keyed_router, open_router, problems
from llm_server.api.schemas import server

router = keyed_router("Server")
engines = keyed_router("Engines")
health = open_router("Server")
"""The router of `GET /health`, which needs no key."""
EngineName = Annotated[str, Path(description="The configured name of the engine.", examples=["claude"])]


@router.get(
    "/metrics",
    summary="Read the metrics",
    response_model=server.MetricsView,
    response_description="The nine figures.",
    responses=problems(503),
)
async def get_metrics(run: Run, service: Service) -> Response:
    """Read nine figures about the whole server: engines, speed, tasks and costs."""
    figures = service.known_metrics() or await run.read(service.metrics)
    return answer(server.MetricsView.model_validate(figures))


@router.get(
    "/usage",
    summary="Read the usage",
    response_model=server.UsageView,
    response_description="The amounts spent, and the limits of the key.",
    responses=problems(503),
)
async def get_usage(run: Run, service: Service, caller: Caller) -> Response:
    """Read the amount that the caller's tenant spent today (UTC), and the limits of the caller's key and their use."""
    return answer(views.usage(await run.read(partial(service.usage, caller))))


@router.get(
    "/catalog",
    summary="Read the catalogue",
    response_model=server.CatalogView,
    response_description="Profiles, roles and engines by their names.",
)
async def get_catalog(run: Run, service: Service) -> Response:
    """Read the configured profiles, roles and engines. `toggle` and `locked` are the current switches."""
    return answer(views.catalog(service.catalog, await run.read(service.engine_specs)))


@engines.get(
    "/engines",
    summary="List the engines",
    response_model=server.EnginesView,
    response_description="Every engine by its name.",
    responses=problems(503),
)
async def get_engines(run: Run, service: Service) -> Response:
    """List the engines in use, with their switches and their status; `GET /api/v1/metrics` lists the same engines."""
    return answer(views.engines(await run.read(service.engines)))


@engines.patch(
    "/engines/{name:path}",  # a configured name may contain a slash
    summary="Switch an engine",
    response_model=server.EngineNowView,
    response_description="The engine after the change.",
    responses=problems(400, 404, 413, 415, 422, 503),
)
async def switch_engine(name: EngineName, change: server.EngineChange, run: Run, service: Service) -> Response:
    """Switch an engine on or off, or lock or unlock it.

    The change takes effect in every process of the server within 5 seconds. It lasts, even after a restart, until the
    next change.
    """
    return answer(views.engine(await run.write(partial(service.switch_engine, name, change.to_domain()))))


@health.get(
    "/health",
    summary="Check that the server runs",
    response_model=server.HealthView,
    response_description="The process answers.",
)
async def get_health(run: Run) -> Response:
    """Check that the process answers. Neither the database nor an engine is called.

    The answer is an error if the server knows that its database file is damaged, or was removed or replaced.
    """
    await run.check_store()
    return answer(server.HealthView(status="ok", version=__version__))
