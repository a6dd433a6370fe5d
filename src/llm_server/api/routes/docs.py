"""Serve the API's documentation page. Swagger UI comes from this package, so the page works offline."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from importlib import resources

from fastapi import APIRouter, HTTPException, Request, Response
from msgspec import Struct
from starlette.routing import Route

from llm_server.api.contract import PREFIX
from llm_server.api.freshness import matches

PAGE = "index.html"
MEDIA_TYPES = {
    PAGE: "text/html",
    "start.js": "text/javascript",
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
}
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",  # the style sheet contains its icons as data URLs
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


class Asset(Struct, frozen=True, kw_only=True):
    """A file of the documentation page."""

    content: bytes
    etag: str


@cache
def _asset(name: str) -> Asset:
    """Read a file when it is first requested, so that it does not lengthen a cold start."""
    content = (resources.files("llm_server") / "data" / "swagger-ui" / name).read_bytes()
    return Asset(content=content, etag=f'"{sha256(content).hexdigest()[:32]}"')


async def read_docs(request: Request) -> Response:
    """Return the documentation page. Its links are relative, so it also works below the stage of an API Gateway."""
    return _served(PAGE, request)


async def read_docs_asset(request: Request) -> Response:
    """Return a script or the style sheet of the documentation page."""
    name = request.path_params["name"]
    if name not in MEDIA_TYPES:
        raise HTTPException(404)
    return _served(name, request)


def _served(name: str, request: Request) -> Response:
    asset = _asset(name)
    headers = {
        "ETag": asset.etag,
        "Cache-Control": "no-cache",
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    }
    if matches(request.headers.get("if-none-match", ""), asset.etag):
        return Response(status_code=304, headers=headers)
    return Response(asset.content, headers=headers, media_type=MEDIA_TYPES[name])


router = APIRouter(routes=[Route(f"{PREFIX}/docs", read_docs), Route(f"{PREFIX}/docs/{{name}}", read_docs_asset)])
