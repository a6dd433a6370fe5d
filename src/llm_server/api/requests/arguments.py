"""The arguments of a route's function, read from a request as the function's signature declares them.

FastAPI declares and describes the parameters. Its own code for reading them looks at the declarations again for each
request, which takes as much time as the rest of the HTTP layer. Here they are looked at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import request_params_to_args

Values = dict[str, Any]
Faults = list[Any]


class Arguments:
    """Reads the arguments of one function.

    It can have parameters of the path, the query and the headers, one body, the request, and dependencies. A dependency
    is a plain function, which has parameters of the same kinds but no body. Dependencies of a router have no name: they
    only describe how to send a key.
    """

    def __init__(self, dependant: Dependant) -> None:
        self._dependencies: list[tuple[str, Callable[..., Any], Arguments]] = [
            (dependency.name, dependency.call, Arguments(dependency))
            for dependency in dependant.dependencies
            if dependency.name and dependency.call
        ]
        self._path = dependant.path_params
        self._query = _Optional(dependant.query_params)
        self._headers = _Optional(dependant.header_params)
        self._body = dependant.body_params[0] if dependant.body_params else None
        self._request_name = dependant.request_param_name

    def read(self, request: Request, body: Any = None) -> tuple[Values, Faults]:
        """Return the arguments by their names, and the faults that pydantic finds in the request.

        A dependency that has faults is not called. What a dependency raises is raised.
        """
        values: Values = {}
        faults: Faults = []
        for name, call, arguments in self._dependencies:
            given, found = arguments.read(request)
            if found:
                faults += found
            else:
                values[name] = call(**given)
        for field in self._path:
            value, found = field.validate(request.path_params[field.alias], loc=("path", field.alias))
            _add(values, faults, field.name, value, found)
        if self._query.fields:
            faults += self._query.read(values, request.query_params if request.scope["query_string"] else {})
        if self._headers.fields:
            faults += self._headers.read(values, request.headers)
        if self._body is not None:
            value, found = self._body.validate(body, loc=("body",))
            _add(values, faults, self._body.name, value, found)
        if self._request_name is not None:
            values[self._request_name] = request
        return values, faults


class _Optional:
    """Parameters of the query or the headers. Most calls send few of them, and the others have their defaults."""

    def __init__(self, fields: Sequence[Any]) -> None:
        assert not any(field.field_info.is_required() for field in fields), "a required parameter is not supported"
        self.fields = [(field.alias, field) for field in fields]
        self._defaults = {field.name: field.get_default() for field in fields}

    def read(self, values: Values, sent: Mapping[str, Any]) -> Faults:
        """Add the values of all parameters to `values`; return the faults of those that are sent."""
        values.update(self._defaults)
        faults: Faults = []
        for alias, field in self.fields:
            if alias in sent:
                given, found = request_params_to_args([field], sent)
                values.update(given)
                faults += found
        return faults


def _add(values: Values, faults: Faults, name: str, value: Any, found: Faults) -> None:
    if found:
        faults += found
    else:
        values[name] = value
