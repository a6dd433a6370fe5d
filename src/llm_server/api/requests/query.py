"""The query parameters that a route accepts. Unknown and repeated ones are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args, get_origin

from fastapi import Request, params
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_flat_params
from msgspec import Struct

from llm_server.orchestration.domain.errors import InvalidInput


class QueryPrefix(Struct, frozen=True):
    """A dependency that takes every query parameter whose name begins with `prefix`, such as `metadata.`.

    A parameter of type `Annotated[Mapping[str, str], Depends(QueryPrefix("metadata."))]` maps the rest of each name to
    its value. The caller may send each name once.
    """

    prefix: str

    def __call__(self, request: Request) -> Mapping[str, str]:
        query = request.query_params.items()
        return {name.removeprefix(self.prefix): value for name, value in query if name.startswith(self.prefix)}


class QueryRules(Struct, frozen=True, kw_only=True):
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
        if not request.scope["query_string"]:
            return
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


def _is_list(annotation: Any) -> bool:
    """Return whether a parameter takes several values: it is declared as a list, or as a list or None."""
    return list in [get_origin(kind) or kind for kind in (annotation, *get_args(annotation))]
