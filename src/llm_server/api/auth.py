"""Checks a call's API key and its scope before the body is read.

Once a server has API keys, every call needs one. A server without keys listens on loopback only, but every page in a
browser on that machine can still call it. Such a server therefore refuses calls whose Host header names a host that is
not loopback (against DNS rebinding), and calls from pages of other sites.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from fastapi import Request
from fastapi.security import APIKeyHeader, HTTPBearer

from llm_server.api.error_codes import Refusal
from llm_server.api.executor import Executor
from llm_server.loopback import is_loopback_url
from llm_server.orchestration.access.keyring import Keyring, RequestsLeft
from llm_server.orchestration.domain.api_key import Caller
from llm_server.orchestration.domain.errors import ScopeMissing, Unauthenticated

SCOPES = {"metrics": "metrics", "engines": "admin", "keys": "admin"}
"""The scope that a call needs, by the first segment of its path below /api/v1. All other paths need `tasks`."""

BEARER = HTTPBearer(scheme_name="bearer", description="`llms_<id>_<secret>`", auto_error=False)
HEADER = APIKeyHeader(
    name="X-Api-Key",
    scheme_name="header",
    description="Send the key in this header if a proxy uses `Authorization` for itself",
    auto_error=False,
)
"""BEARER and HEADER describe the key in the OpenAPI document only; `Gate` reads the headers itself."""

_OTHER_SITE = "Without API keys the server does not accept calls from pages of other sites."


class Gate:
    """Checks callers. With `open_without_keys`, a call needs no key until the first key is created.

    Until then pages of other sites may call only if `origins` names theirs; `*` does not count.

    What the keyring knows from memory needs no executor; only what it must read or write is run by `run`.
    """

    def __init__(self, keys: Keyring, run: Executor, *, open_without_keys: bool, origins: Collection[str] = ()) -> None:
        self._keys = keys
        self._run = run
        self._open_without_keys = open_without_keys
        self._origins = origins

    async def admit(self, request: Request) -> tuple[Caller, dict[str, str]]:
        """Return the caller, and the response headers that say how many requests the key has left in this minute.

        The headers are empty if the key does not limit requests.

        Raises:
            Unauthenticated: the call has no key, or its key is not valid.
            TooManyRequests: the key's requests of this minute are used up.
            Refusal: the server has no keys, and the call names a host that is not loopback, or comes from another site.
        """
        if self._open_without_keys and not await self._requires_key(request):
            _check_local(request, self._origins)
            return Caller(), {}
        token = _token(request)
        caller = self._keys.known_caller(token)
        if caller is None:
            caller = await self._run.read(partial(self._keys.caller, token))
        if caller.payer is None or caller.payer.limits.requests_per_minute is None:
            return caller, {}
        left = await self._run.write(partial(self._keys.count_request, caller.payer))
        return caller, rate_headers(left) if left else {}

    async def check_again(self, request: Request) -> None:
        """Check the key of a caller whose response still goes on. This does not count as another request.

        Raises Unauthenticated.
        """
        if self._open_without_keys and not await self._requires_key(request):
            return
        token = _token(request)
        if self._keys.known_caller(token) is None:
            await self._run.read(partial(self._keys.caller, token))

    async def _requires_key(self, request: Request) -> bool:
        """Return whether this call needs a key.

        If it sends one, another process may just have made the first key; the call must not be taken for one of the
        tenant `local`.
        """
        known = self._keys.known_required()
        if known or (known is False and not _sends_key(request)):
            return known
        return await self._run.read(partial(self._keys.required, fresh=True))


def check_scope(caller: Caller, path: str, prefix: str) -> None:
    """Raise ScopeMissing unless the caller's key has the scope that a path needs."""
    scope = SCOPES.get(path.removeprefix(prefix).strip("/").partition("/")[0], "tasks")
    if scope not in caller.scopes:
        raise ScopeMissing(scope)


def rate_headers(left: RequestsLeft) -> dict[str, str]:
    """Return the headers that say how many requests a key has left.

    Their form is that of draft-ietf-httpapi-ratelimit-headers-10, sections 3 and 4.
    """
    return {
        "RateLimit-Policy": f'"requests";q={left.most};w=60',
        "RateLimit": f'"requests";r={left.left};t={left.reset_s}',
    }


def _token(request: Request) -> str:
    """Return the token that a call sends. Raises Unauthenticated if it sends none.

    X-Api-Key is read before Authorization, because a proxy's authorizer may use Authorization for itself.
    """
    api_key = request.headers.get("x-api-key")
    if api_key is not None:
        return api_key.strip()
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated
    return token.strip()


def _sends_key(request: Request) -> bool:
    return "x-api-key" in request.headers or "authorization" in request.headers


def _check_local(request: Request, origins: Collection[str]) -> None:
    """Raise Refusal unless the call names a loopback host, and comes from no page, a local one or one of `origins`."""
    host, origin = request.headers.get("host"), request.headers.get("origin")
    if host is not None and not is_loopback_url(f"//{host}"):
        raise Refusal(
            "host_not_allowed", "Without API keys the server accepts calls to loopback names only, such as localhost."
        )
    if origin in origins and origin != "*":
        return
    if origin is not None and not is_loopback_url(origin):
        raise Refusal("origin_not_allowed", _OTHER_SITE)
    if request.headers.get("sec-fetch-site") == "cross-site":
        raise Refusal("origin_not_allowed", _OTHER_SITE)
