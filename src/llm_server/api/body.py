"""Routes that check the caller's key, and then parse the query and the body strictly.

JSON that two parsers could read differently is refused, such as duplicate keys and NaN (RFC 8259, RFC 7493). Unknown
and repeated query parameters are refused as well.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, get_args, get_origin

from fastapi import Request, Response, params
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_flat_params
from fastapi.routing import APIRoute

from llm_server.api.auth import Gate, check_scope
from llm_server.api.edge import ANSWER_HEADERS
from llm_server.api.error_codes import Refusal
from llm_server.orchestration.domain.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class QueryPrefix:
    """A dependency that takes every query parameter whose name begins with `prefix`, such as `metadata.`.

    A parameter of type `Annotated[Mapping[str, str], Depends(QueryPrefix("metadata."))]` maps the rest of each name to
    its value. The caller may send each name once.
    """

    prefix: str

    def __call__(self, request: Request) -> Mapping[str, str]:
        query = request.query_params.items()
        return {name.removeprefix(self.prefix): value for name, value in query if name.startswith(self.prefix)}


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryRules:
    """The query parameters that a route accepts.

    `repeatable` are those declared as lists. `prefixes` are those of the route's `QueryPrefix` dependencies.
    """

    known: tuple[str, ...]
    repeatable: frozenset[str]
    prefixes: tuple[str, ...]

    @classmethod
    def of(cls, dependant: Dependant) -> QueryRules:
        """Read the rules from a route's signature."""
        declared = [p for p in get_flat_params(dependant) if isinstance(p.field_info, params.Query)]
        calls = [dependency.call for dependency in dependant.dependencies]
        return cls(
            known=tuple(p.alias for p in declared),
            repeatable=frozenset(p.alias for p in declared if _is_list(p.field_info.annotation)),
            prefixes=tuple(call.prefix for call in calls if isinstance(call, QueryPrefix)),
        )

    def check(self, request: Request) -> None:
        """Refuse the first parameter that is unknown, or that is repeated although it is not `repeatable`.

        Raises:
            InvalidInput: its code is `unknown_parameter` or `repeated_parameter`.
        """
        query = request.query_params
        for name in query:
            if name not in self.known and not name.startswith(self.prefixes):
                message = f"Unknown query parameter {name[:60]!r}; {self._allowed()}."
                raise InvalidInput(name, message, code="unknown_parameter")
            if name not in self.repeatable and len(query.getlist(name)) > 1:
                message = f"The query parameter {name[:60]!r} is given more than once."
                raise InvalidInput(name, message, code="repeated_parameter")

    def _allowed(self) -> str:
        names = [*self.known, *(f"{prefix}<key>" for prefix in self.prefixes)]
        return f"known are {', '.join(names)}" if names else "this call takes no query parameters"


class OpenRoute(APIRoute):
    """A route that needs no key. Like every route, it refuses unknown and repeated query parameters."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle, rules = super().get_route_handler(), QueryRules.of(self.dependant)

        async def handle_checked(request: Request) -> Response:
            rules.check(request)
            return await handle(request)

        return handle_checked


class StrictRoute(APIRoute):
    """A route that checks the caller's key first, and accepts only strict JSON sent as application/json as a body.

    Unknown and repeated query parameters are refused. If they were ignored, a misspelt `dry_run` would spend money,
    and a misspelt filter would list every task.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle, rules = super().get_route_handler(), QueryRules.of(self.dependant)

        async def handle_strictly(request: Request) -> Response:
            gate: Gate = request.app.state.gate
            request.state.caller, rate = await gate.admit(request)
            request.scope[ANSWER_HEADERS].update(rate)
            check_scope(request.state.caller, self.path, request.app.state.prefix)
            rules.check(request)
            strict = _StrictRequest(request.scope, request.receive)
            if self.body_field is not None:
                await _check_body(strict)
            return await handle(strict)

        return handle_strictly


async def _check_body(request: _StrictRequest) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise Refusal("content_type_not_json", "Send JSON, with the header Content-Type: application/json.")
    if not (await request.body()).strip():
        raise Refusal("body_empty", "The body is empty; send a JSON object.")


def _is_list(annotation: Any) -> bool:
    """Return whether a parameter takes several values: it is declared as a list, or as a list or None."""
    return list in [get_origin(kind) or kind for kind in (annotation, *get_args(annotation))]


class _StrictRequest(Request):
    async def body(self) -> bytes:
        """Return the body, of at most `max_body_bytes`.

        The framework's own limit is not used, because it would answer in plain text and without our headers.
        """
        if not hasattr(self, "_body"):
            max_bytes = self.app.state.max_body_bytes
            too_large = Refusal("body_too_large", f"The body is too large; at most {max_bytes} bytes are accepted.")
            if _declared_length(self.headers.get("content-length", "")) > max_bytes:
                raise too_large
            received = bytearray()
            async for chunk in self.stream():
                received += chunk
                if len(received) > max_bytes:
                    raise too_large
            self._body = bytes(received)
        return self._body

    async def json(self) -> Any:
        return parse(await self.body())


def parse(body: bytes) -> Any:
    """Parse one JSON document in UTF-8.

    Raises:
        Refusal: 400. The body is not JSON or not UTF-8, has a duplicate key, NaN, an infinite or too long number or
            half of a surrogate pair, or is nested too deeply.
    """
    try:
        text = body.decode()
        if text.startswith("\ufeff"):
            raise Refusal("body_encoding_invalid", "The body begins with a byte order mark; leave it out.")
        value = json.loads(
            text, parse_constant=_not_a_number, parse_float=_finite, object_pairs_hook=_without_duplicates
        )
        if "\\u" in text:  # only an escape can make half of a surrogate pair, and encoding fails on it
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise Refusal("body_encoding_invalid", "The body is not valid UTF-8.") from error
    except UnicodeEncodeError as error:
        raise Refusal("body_encoding_invalid", "The body contains half of a surrogate pair.") from error
    except json.JSONDecodeError as error:
        detail = f"The body is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        raise Refusal("body_json_invalid", detail) from error
    except RecursionError as error:
        raise Refusal("body_too_deep", "The body is nested too deeply.") from error
    except ValueError as error:  # Python limits the digits of an integer
        raise Refusal("body_number_invalid", "The body contains a number with too many digits.") from error
    return value


def _declared_length(text: str) -> float:
    """Return the number in a Content-Length header, or 0 if it is not a number. Received bytes are counted as well."""
    return float(text) if text.isascii() and text.isdigit() else 0


def _not_a_number(name: str) -> NoReturn:
    raise Refusal("body_number_invalid", f"The body contains {name}, which is not a JSON number.")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise Refusal("body_number_invalid", "The body contains a number too large for a 64-bit float.")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for name, content in pairs:
        if name in value:
            raise Refusal("body_key_repeated", f"The body contains the key {name[:60]!r} twice in one object.")
        value[name] = content
    return value
