"""The base classes of the schemas: requests refuse unknown fields, responses may gain fields in later versions."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from llm_server.orchestration.domain.engines.catalog import Source


def _leave_open(schema: dict[str, Any]) -> None:
    """Describe the object without `additionalProperties: false`, so that a later version may add a field."""
    schema.pop("additionalProperties", None)


class RequestSchema(BaseModel):
    """Part of a request: an unknown field or a value of another type is refused.

    Error messages do not repeat the input, because it may be a prompt.
    """

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class ResponseSchema(BaseModel):
    """Part of a response. Clients must ignore fields they do not know; here an unknown field is a programming error."""

    model_config = ConfigDict(
        extra="forbid", strict=True, hide_input_in_errors=True, json_schema_extra=_leave_open, defer_build=True
    )


Time = Annotated[str, Field(json_schema_extra={"format": "date-time"}, examples=["2026-11-29T12:00:00.000Z"])]
"""An instant as RFC 3339 text in UTC with milliseconds."""

SourceList = Annotated[list[Source], Field(min_length=1, json_schema_extra={"uniqueItems": True})]
"""Sources of engines in a request; `checked_sources` refuses a source that is there twice."""


def whole(value: object) -> object:
    """Convert a float without a fraction to an int: in JSON 7.0 is the integer 7 (JSON Schema 2020-12, 4.2.3)."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
