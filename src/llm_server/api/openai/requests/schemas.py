"""The form that a request wants for its answer: a text, any JSON object, or JSON that follows a schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_server.api.openai.requests.reading import Part

_TYPES = ("text", "json_object", "json_schema")


def of_chat(body: Part) -> Mapping[str, Any] | None:
    """Read `response_format`: the schema is in an object of its own. Raises InvalidInput."""
    wanted = body.part("response_format")
    if wanted is None or wanted.choice("type", _TYPES) != "json_schema":
        return _plain(wanted)
    return _schema(wanted.needed_part("json_schema"))


def of_responses(body: Part) -> Mapping[str, Any] | None:
    """Read `text.format`. Raises InvalidInput."""
    text = body.part("text")
    if text is None:
        return None
    text.only(("format", "verbosity"))
    wanted = text.part("format")
    if wanted is None or wanted.choice("type", _TYPES) != "json_schema":
        return _plain(wanted)
    return _schema(wanted)


def _plain(wanted: Part | None) -> Mapping[str, Any] | None:
    return {"type": "object"} if wanted is not None and wanted.value("type") == "json_object" else None


def _schema(holder: Part) -> Mapping[str, Any]:
    holder.needed_part("schema")
    schema: Mapping[str, Any] = holder.value("schema")
    return schema
