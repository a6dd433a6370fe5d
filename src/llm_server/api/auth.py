"""Who calls and whether they may: asked before a body is read.

With keys every call needs one. Without, the server is its owner's alone: bound to loopback, and so within reach of
every page in the owner's browser. Then a call must name a loopback host (DNS rebinding) and come from no other origin.
"""

from __future__ import annotations

from fastapi import HTTPException, Request
from fastapi.security import APIKeyHeader, HTTPBearer

from llm_server.loopback import is_loopback_url
from llm_server.orchestration.access.keyring import Keyring, RequestsLeft
from llm_server.orchestration.domain.api_key import Caller
from llm_server.orchestration.domain.errors import ScopeMissing, Unauthenticated

SCOPES = {"metrics": "metrics", "engines": "admin", "keys": "admin"}
"""By the first word of a path below /api/v1; every other is for `tasks`, so that a new route is never open."""

BEARER = HTTPBearer(scheme_name="bearer", description="`llms_<id>_<secret>`", auto_error=False)
HEADER = APIKeyHeader(
    name="X-Api-Key", scheme_name="header", description="Where `Authorization` is taken", auto_error=False
)
"""Both for the OpenAPI document; the Gate reads the headers itself."""


class Gate:
    """Lets a call in or raises. `open_without_keys`: as long as no key was ever made, nobody needs one."""

    def __init__(self, keys: Keyring, *, open_without_keys: bool) -> None:
        self._keys = keys
        self._open_without_keys = open_without_keys

    def admit(self, request: Request) -> tuple[Caller, dict[str, str]]:
        """Who calls, and the headers of the answer that tell how many requests the key has left.

        Raises:
            Unauthenticated: no key, or none of ours.
            QuotaExceeded: the key's requests of this minute are used up.
            HTTPException: 403; there are no keys, and the call comes from a page of another site.
        """
        if self._open_without_keys and not self._keys.required():
            _check_local(request)
            return Caller(), {}
        caller = self._keys.caller(_token(request))
        left = self._keys.count_request(caller.payer) if caller.payer else None
        return caller, rate_headers(left) if left else {}


def check_scope(caller: Caller, path: str, prefix: str) -> None:
    """Refuse a path that the caller's key is not for. Raises ScopeMissing."""
    scope = SCOPES.get(path.removeprefix(prefix).strip("/").partition("/")[0], "tasks")
    if scope not in caller.scopes:
        raise ScopeMissing(scope)


def rate_headers(left: RequestsLeft) -> dict[str, str]:
    """draft-ietf-httpapi-ratelimit-headers-10, sections 3 and 4."""
    return {
        "RateLimit-Policy": f'"requests";q={left.most};w=60',
        "RateLimit": f'"requests";r={left.left};t={left.reset_s}',
    }


def _token(request: Request) -> str:
    """X-Api-Key goes first: an authorizer in front of us takes Authorization for itself."""
    given = request.headers.get("x-api-key")
    if given is not None:
        return given.strip()
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated
    return token.strip()


def _check_local(request: Request) -> None:
    host, origin = request.headers.get("host"), request.headers.get("origin")
    if host is not None and not is_loopback_url(f"//{host}"):
        raise HTTPException(403, "Without API keys the server answers to loopback names only, such as localhost.")
    if origin is not None and not is_loopback_url(origin):
        raise HTTPException(403, "Without API keys the server takes no calls from pages of other sites.")
    if request.headers.get("sec-fetch-site") == "cross-site":
        raise HTTPException(403, "Without API keys the server takes no calls from pages of other sites.")
