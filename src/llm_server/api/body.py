"""Callers let in, then what they sent read strictly: what one parser takes and another refuses is refused here.

RFC 8259, RFC 7493.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import HTTPException, Request, Response, params
from fastapi.dependencies.utils import get_flat_params
from fastapi.routing import APIRoute

from llm_server.api.auth import Gate, check_scope
from llm_server.api.edge import ANSWER_HEADERS
from llm_server.orchestration.domain.errors import InvalidInput

_WRITING = frozenset({"DELETE", "PATCH", "POST"})


class StrictRoute(APIRoute):
    """A route for callers who may, whose body must be one strict JSON document sent as application/json.

    One that writes takes no query parameter it does not know, and none twice: a `dry_run` that is misspelt or taken
    back would spend money.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        known = [p.alias for p in get_flat_params(self.dependant) if isinstance(p.field_info, params.Query)]

        async def handle_strictly(request: Request) -> Response:
            gate: Gate = request.app.state.gate
            request.state.caller, rate = gate.admit(request)
            request.scope[ANSWER_HEADERS].update(rate)
            check_scope(request.state.caller, self.path, request.app.state.prefix)
            if request.method in _WRITING:
                _check_query(request, known)
            strict = _StrictRequest(request.scope, request.receive)
            if self.body_field is not None:
                media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
                if media_type != "application/json":
                    raise HTTPException(415, "Send JSON, with the header Content-Type: application/json.")
                if not (await strict.body()).strip():
                    raise HTTPException(400, "The body is empty; send a JSON object.")
            return await handle(strict)

        return handle_strictly


def _check_query(request: Request, known: list[str]) -> None:
    for name in (name for name in request.query_params if name not in known):
        allowed = f"known are {', '.join(known)}" if known else "this call takes none"
        raise InvalidInput(name, f"Unknown query parameter {name[:60]!r}; {allowed}.")
    for name in known:
        if len(request.query_params.getlist(name)) > 1:
            raise InvalidInput(name, f"The query parameter {name!r} is given more than once.")


class _StrictRequest(Request):
    async def body(self) -> bytes:
        """Read no more than the app takes: the framework's own limit answers in plain text, outside our middleware."""
        if not hasattr(self, "_body"):
            most = self.app.state.max_body_bytes
            detail = f"The body is too large; at most {most} bytes are taken."
            if _number(self.headers.get("content-length", "")) > most:
                raise HTTPException(413, detail)
            read = bytearray()
            async for chunk in self.stream():
                read += chunk
                if len(read) > most:
                    raise HTTPException(413, detail)
            self._body = bytes(read)
        return self._body

    async def json(self) -> Any:
        return parse(await self.body())


def parse(body: bytes) -> Any:
    """Parse one JSON document in UTF-8.

    Raises:
        HTTPException: 400; no JSON, not UTF-8, a duplicate key, NaN or an infinite number, a lone surrogate, too deep.
    """
    try:
        text = body.decode()
        if text.startswith("\ufeff"):
            raise HTTPException(400, "The body begins with a byte order mark; leave it out.")
        value = json.loads(
            text, parse_constant=_not_a_number, parse_float=_finite, object_pairs_hook=_without_duplicates
        )
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise HTTPException(400, "The body is not valid UTF-8.") from error
    except UnicodeEncodeError as error:
        raise HTTPException(400, "The body holds half of a surrogate pair.") from error
    except json.JSONDecodeError as error:
        detail = f"The body is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        raise HTTPException(400, detail) from error
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "The body nests too deep or holds a number that is too long.") from error
    return value


def _number(text: str) -> float:
    """A Content-Length; 0 where it is none, for what really comes is counted too."""
    return float(text) if text.isascii() and text.isdigit() else 0


def _not_a_number(name: str) -> NoReturn:
    raise HTTPException(400, f"The body holds {name}, which is no JSON number.")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise HTTPException(400, "The body holds a number too large for a 64-bit float.")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for name, content in pairs:
        if name in value:
            raise HTTPException(400, f"The body holds the key {name[:60]!r} twice in one object.")
        value[name] = content
    return value
