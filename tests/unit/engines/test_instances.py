"""The engines without a model answer a caller's schema with a small value that follows it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_server.engines.local.instances import TEXT, instance
from llm_server.orchestration.domain.errors import PromptRefused
from llm_server.orchestration.domain.result_schema import validation
from llm_server.orchestration.domain.result_schema.accepted import check

TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
            "required": ["name", "kids"],
            "additionalProperties": False,
        }
    },
}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({}, TEXT),
        ({"type": "string"}, TEXT),
        ({"type": "string", "maxLength": 7}, TEXT[:7]),
        ({"type": "string", "pattern": "^[A-Z]{3}$"}, "AAA"),
        ({"type": "string", "format": "date"}, "2026-01-31"),
        ({"type": "integer", "minimum": 3}, 3),
        ({"type": "number", "exclusiveMinimum": 0, "multipleOf": 0.01}, 0.01),
        ({"type": "number", "minimum": 0.1, "maximum": 0.2}, 0.15),
        ({"type": ["null", "string"]}, None),
        ({"enum": ["b", "a"]}, "b"),
        ({"const": {"x": [1]}}, {"x": [1]}),
        ({"type": "array", "minItems": 2, "items": {"type": "boolean"}, "uniqueItems": True}, [False, True]),
        ({"type": "array", "contains": {"const": 5}}, [5]),
        ({"oneOf": [{"type": "integer", "minimum": 5}, {"type": "integer", "minimum": 7}]}, 5),
        ({"anyOf": [False, {"type": "null"}]}, None),
        ({"allOf": [{"minimum": 2}, {"type": "integer", "maximum": 9}]}, 2),
        ({"type": "object", "properties": {"a": {"type": "null"}, "b": {}}, "required": ["a"]}, {"a": None}),
        (TREE, {"name": TEXT, "kids": []}),
    ],
)
def test_a_small_value_follows_the_schema(schema: dict[str, Any], value: Any) -> None:
    """Its texts say that no LLM is configured, if they may."""
    check(schema)

    assert instance(schema) == value


@pytest.mark.parametrize(
    "schema",
    [
        {"not": {}},
        {"type": "integer", "minimum": 5, "maximum": 3},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"type": "array", "items": {"enum": [1, 2]}, "minItems": 3, "uniqueItems": True},
        {"type": "string", "minLength": 10**9},
        {"type": "string", "pattern": "^xyzzy-[0-9]{17}$"},
        {"allOf": [*[{"anyOf": [{"type": "integer"}] * 50} for _ in range(20)], {"anyOf": [False]}]},
    ],
)
def test_a_schema_without_an_example_is_refused(schema: dict[str, Any]) -> None:
    """An invalid value is never made up, and the search ends."""
    check(schema)
    with pytest.raises(PromptRefused, match="No example was found"):
        instance(schema)


LEAVES: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.builds(
        lambda least, most: {"type": "string", "minLength": least, "maxLength": most},
        st.integers(0, 60),
        st.integers(0, 60),
    ),
    st.builds(
        lambda low, high, kind: {"type": kind, "minimum": low, "exclusiveMaximum": high},
        st.integers(-50, 50),
        st.integers(-50, 50) | st.floats(-50, 50, allow_nan=False),
        st.sampled_from(["integer", "number"]),
    ),
    st.builds(lambda step: {"type": "number", "multipleOf": step}, st.sampled_from([0.01, 0.1, 3, 7.5])),
    st.lists(st.integers(-3, 3) | st.text(max_size=3) | st.booleans() | st.none(), min_size=1).map(
        lambda e: {"enum": e}
    ),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["null", "integer"]}, {"$ref": "#/$defs/leaf"}]),
)


def larger(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    names = st.sampled_from(["a", "b", "c"])
    return st.one_of(
        st.builds(
            lambda fields, required, closed: {
                "type": "object",
                "properties": fields,
                "required": sorted(required),
                "additionalProperties": not closed,
            },
            st.dictionaries(names, inner, max_size=3),
            st.sets(names),
            st.booleans(),
        ),
        st.builds(
            lambda items, least, unique: {"type": "array", "items": items, "minItems": least, "uniqueItems": unique},
            inner,
            st.integers(0, 3),
            st.booleans(),
        ),
        st.builds(
            lambda keyword, parts: {keyword: parts},
            st.sampled_from(["anyOf", "oneOf", "allOf"]),
            st.lists(inner, min_size=1, max_size=3),
        ),
        inner.map(lambda part: {"not": part}),
    )


@settings(max_examples=150, deadline=None)
@given(st.recursive(LEAVES, larger, max_leaves=6))
def test_each_generated_value_follows_its_schema(schema: dict[str, Any]) -> None:
    """A value that does not is refused rather than returned."""
    schema = {**schema, "$defs": {"leaf": {"type": "integer", "minimum": 4}}}
    check(schema)
    try:
        value = instance(schema)
    except PromptRefused:
        return

    assert validation.faults(schema, value) == []
