"""Describes each fault that pydantic finds in a request in one sentence: the place, and what is allowed there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from llm_server.api.schemas.new_task import NO_NUL

_PLACES = {"query": "query parameter", "header": "header", "path": "path parameter"}
_ALLOWED = {
    "missing": "is missing",
    "string_type": "must be a string",
    "string_too_short": "must have {min_length} or more characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match the pattern {pattern}",
    "list_type": "must be a list",
    "too_short": "must have {min_length} or more {parts}",
    "too_long": "must have at most {max_length} {parts}",
    "dict_type": "must be a JSON object",
    "model_type": "must be a JSON object",
    "model_attributes_type": "must be a JSON object",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "enum": "must be {expected}",
    "literal_error": "must be {expected}",
    "int_type": "must be {number}",
    "int_parsing": "must be {number}",
    "int_parsing_size": "must be {number}",
    "int_from_float": "must be {number}",
    "float_type": "must be {number}",
    "float_parsing": "must be {number}",
    "finite_number": "must be {number}",
    "greater_than": "must be {number}",
    "greater_than_equal": "must be {number}",
    "less_than": "must be {number}",
    "less_than_equal": "must be {number}",
}
"""What is allowed, by pydantic's type of the fault. The names in braces are of its context, or {number} or {parts}."""


def pointer(location: Sequence[str | int]) -> str:
    """Return a JSON pointer (RFC 6901) into the body, or a slash and a parameter's name."""
    return "".join(f"/{part.replace('~', '~0').replace('/', '~1')}" for part in _parts(location))


def sentence(fault: Any, route: Any) -> str:
    """Describe one fault of a call of `route`. A type that the table lacks is described by pydantic's message."""
    location, kind, context = fault["loc"], fault["type"], fault.get("ctx", {})
    parts = _parts(location)
    if not parts:
        return "The body is not a JSON object."
    if kind == "extra_forbidden":
        return f"Unknown field {'.'.join(parts)!r}; known are {_known_fields(_body_model(route), parts)}."
    if kind == "string_pattern_mismatch" and context["pattern"] == NO_NUL:
        return f"{_subject(location)} contains a NUL character."
    if kind in _ALLOWED:
        words = {"number": _number(_field(route, location)), "parts": _parts_counted(context)}
        return f"{_subject(location)} {_ALLOWED[kind].format(**context, **words)}."
    return f"{_subject(location)} is not valid: {fault['msg']}."


def _parts(location: Sequence[str | int]) -> list[str]:
    """Return the path of a fault inside the body, query or URL.

    pydantic's location begins with "body", "query" or "path", and ends in "[key]" where a key itself is at fault.
    """
    return [str(part)[:60] for part in location[1:] if part != "[key]"]


def _subject(location: Sequence[str | int]) -> str:
    parts = _parts(location)
    if location[-1] == "[key]":
        return f"The key {parts[-1]!r} of the field {'.'.join(parts[:-1])!r}"
    return f"The {_PLACES.get(str(location[0]), 'field')} {'.'.join(parts)!r}"


def _body_model(route: Any) -> Any:
    body = getattr(route, "body_field", None)
    return body.field_info.annotation if body else None


def _known_fields(model: Any, parts: Sequence[str]) -> str:
    """Return the names of the fields that are allowed where an unknown one was found."""
    for part in parts[:-1]:
        model = _entry_model(model) if part.isdigit() else model.model_fields[part].annotation
    return ", ".join(model.model_fields)


def _entry_model(entries: Any) -> Any:
    """Return the model of a list's entries."""
    return next(leaf for leaf in _leaves(entries) if isinstance(leaf, type) and issubclass(leaf, BaseModel))


def _field(route: Any, location: Sequence[str | int]) -> Any:
    """Return the field, query parameter or header at fault; None for an entry of a list or of a JSON object."""
    if location[0] in ("query", "header"):
        declared = (*route.dependant.query_params, *route.dependant.header_params)
        return next((p.field_info for p in declared if p.alias == location[1]), None)
    found = _body_model(route)
    for part in location[1:]:
        model = found.annotation if isinstance(found, FieldInfo) else found
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return None
        found = model.model_fields[str(part)]
    return found


def _parts_counted(context: Any) -> str:
    """Return what a length counts. pydantic calls a string that may be null a "Value"."""
    return "characters" if context.get("field_type") == "Value" else "entries"


def _number(field: Any) -> str:
    """Describe the numbers that a field accepts: "a whole number from 1 to 100"."""
    leaves = list(_leaves(field))
    bounds = {
        name: f"{getattr(leaf, name):,.6f}" for leaf in leaves for name in ("ge", "gt", "le") if hasattr(leaf, name)
    }
    low, above, high = (bounds.get(name, "").rstrip("0").rstrip(".") for name in ("ge", "gt", "le"))
    kind = "a whole number" if int in leaves else "a number"
    if low and high:
        return f"{kind} from {low} to {high}"
    limits = (
        [f"greater than {above}"] * bool(above) + [f"at least {low}"] * bool(low) + [f"at most {high}"] * bool(high)
    )
    return f"{kind} {' and '.join(limits)}".rstrip()


def _leaves(part: Any) -> Iterator[Any]:
    """Yield a field, and the types and constraints that it consists of."""
    yield part
    for inner in [*part.metadata, part.annotation] if isinstance(part, FieldInfo) else get_args(part):
        yield from _leaves(inner)
