"""Which schemas of results are accepted, and what values break them."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import pytest

from llm_server.orchestration.domain.errors import InvalidInput
from llm_server.orchestration.domain.result_schema import accepted, validation
from llm_server.orchestration.domain.result_schema.accepted import DIALECT, MAX_SCHEMA_BYTES, check
from llm_server.orchestration.domain.result_schema.patterns import size_of

NODE = {"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": False}


def nested(levels: int) -> dict[str, Any]:
    """Return a schema with so many levels."""
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels - 1):
        schema = {"items": schema}
    return schema


def of_size(size: int) -> dict[str, Any]:
    return {"const": "x" * (size - len('{"const":""}'))}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"$schema": DIALECT},
        {"$schema": f"{DIALECT}#", "$id": "https://example.com/a", "$ref": "#/$defs/a", "$defs": {"a": True}},
        NODE,
        nested(8),
        of_size(MAX_SCHEMA_BYTES),
        {"properties": {"a": False, "$ref": {"type": "string"}}},
        {"$defs": {"a": {"$anchor": "here"}}, "items": {"$ref": "#here"}},
        {"properties": {"a/b~": {"type": "integer"}, "c": {"$ref": "#/properties/a~1b~0"}}},
        {"const": {"$ref": "https://example.com/", "$dynamicRef": 1}},
        {"pattern": r"^\p{L}{1,20}$"},
        {"type": "integer", "minimum": 5, "maximum": 3},
    ],
)
def test_a_schema_is_accepted(schema: dict[str, Any]) -> None:
    """Contradictions are no error: whether a value exists is not decided here."""
    check(schema)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (of_size(MAX_SCHEMA_BYTES + 1), "it has 32769 bytes as JSON; at most 32768 are accepted"),
        (nested(9), "is at level 9; at most 8 are accepted"),
        ({"type": "text"}, "it is not valid at /type"),
        ({"properties": 5}, 'it is not valid at /properties: type "object"'),
        ({"$ref": 5}, "it is not valid at /$ref"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, f'the only one accepted is "{DIALECT}"'),
        ({"$schema": 5}, "its $schema is not known"),
        ({"items": {"$ref": "https://example.com/x"}}, 'the $ref at /items must begin with "#"'),
        ({"$ref": "#/$defs/gone"}, "the $ref at its root leads to no schema"),
        ({"enum": [{"type": "string"}], "items": {"$ref": "#/enum/0"}}, "leads to no schema"),
        ({"$ref": "#"}, "leads back to itself"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [True, {"$ref": "#/$defs/a"}]}}}, "leads back to itself"),
        ({"items": {"$id": "https://example.com/"}}, "the schema at /items has $id"),
        ({"items": {"$schema": DIALECT}}, "the schema at /items has $schema"),
        ({"$dynamicRef": "#a"}, "has $dynamicRef"),
        ({"unevaluatedProperties": False}, "has unevaluatedProperties"),
        ({"pattern": "a" * 257}, "has 257 characters; at most 256"),
        ({"pattern": "("}, "is not a regular expression"),
        ({"pattern": "(?=a)"}, "look-around"),
        ({"patternProperties": {r"(a)\1": True}}, "back-reference"),
        ({"minimum": float("inf")}, "too large or not finite"),
        ({"const": "\ud800"}, "not valid Unicode"),
    ],
)
def test_a_schema_is_refused_with_the_reason(schema: dict[str, Any], reason: str) -> None:
    """The error names the field, and where in the schema the fault is."""
    with pytest.raises(InvalidInput) as caught:
        check(schema)

    assert caught.value.field == "output_schema"
    assert reason in str(caught.value)


def test_a_schema_as_deep_as_the_body_can_be_is_refused() -> None:
    """Python's recursion limit must not be what ends the check."""
    deep: Any = []
    for _ in range(5_000):
        deep = [deep]
    with pytest.raises(InvalidInput, match="nested more than 64 levels"):
        check({"const": deep})


@pytest.mark.parametrize(
    ("schema", "value", "fault"),
    [
        ({"type": "integer"}, "secret", 'at the root: type "integer"'),
        ({"properties": {"a/b": {"maximum": 3}}}, {"a/b": 4}, "at /a~1b: maximum 3"),
        ({"required": ["a"]}, {"b": 1}, "at the root: 'a' is a required property"),
        ({"additionalProperties": False}, {"secret": 1}, "at the root: additionalProperties false"),
        ({"items": {"enum": ["a"]}}, ["a", "secret"], "at /1: enum"),
        ({"items": False}, ["secret"], "at the root: items false"),
        ({"properties": {"a": False}}, {"a": "secret"}, "at /a: no value is allowed"),
        ({"oneOf": [{"type": "integer"}, {"minimum": 0}]}, 5, "at the root: oneOf"),
        (
            {"patternProperties": {"^a": {"type": "null"}}, "additionalProperties": False},
            {"ab": 1},
            'at /ab: type "null"',
        ),
        ({"pattern": "^a+$"}, "secret", 'at the root: pattern "^a+$"'),
        ({"multipleOf": 0.01}, 19.995, "at the root: multipleOf 0.01"),
        ({"uniqueItems": True}, [{"a": 1}, {"a": 1.0}], "at the root: uniqueItems true"),
        (NODE, {"next": {"next": {"other": 1}}}, "at /next/next: additionalProperties false"),
    ],
)
def test_a_fault_names_the_place_and_the_rule(schema: dict[str, Any], value: Any, fault: str) -> None:
    """It shows no value of the answer."""
    check(schema)
    (found,) = validation.faults(schema, value)

    assert found == fault
    assert "secret" not in found


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"multipleOf": 0.01}, 19.99),
        ({"type": "integer"}, 1.0),
        ({"uniqueItems": True}, [1, True, "1", [1]]),
        ({"pattern": "b"}, "abc"),
        ({"patternProperties": {"^a": {"type": "null"}}, "additionalProperties": False}, {"ab": None}),
        (NODE, {"next": {"next": {}}}),
        ({"$id": "https://example.com/a", "$defs": {"a": {"type": "null"}}, "$ref": "#/$defs/a"}, None),
    ],
)
def test_a_value_that_follows_the_schema_has_no_fault(schema: dict[str, Any], value: Any) -> None:
    """Decimals are exact, and patterns match anywhere in a text."""
    check(schema)

    assert validation.faults(schema, value) == []


def test_at_most_five_faults_are_named() -> None:
    """They go into a prompt."""
    assert len(validation.faults({"items": {"type": "null"}}, list(range(100)))) == 5


TWICE = {"$ref": "#/$defs/n"}
BRANCHING = {"$defs": {"n": {"properties": {"c": {"allOf": [TWICE, TWICE]}}}}, "$ref": "#/$defs/n"}


def deep_value(levels: int, name: str | None) -> Any:
    value: Any = {} if name else []
    for _ in range(levels):
        value = {name: value} if name else [value]
    return value


@pytest.mark.parametrize(
    ("schema", "value", "fault"),
    [
        (BRANCHING, deep_value(60, "c"), "cannot be checked in 200000 steps"),
        ({"items": {"enum": [[n] for n in range(4_000)]}}, [[3_999]] * 20_000, "cannot be checked in 200000 steps"),
        ({"pattern": "^(a+)+$"}, "a" * 100_000 + "b", "pattern"),
        ({"patternProperties": {"^(a|aa)+$": False}}, {"a" * 50_000 + "b": 1}, ""),
        ({"items": {"$ref": "#"}}, deep_value(900, None), "nested too deeply"),
        ({"uniqueItems": True}, [[n] for n in range(50_000)] + [[1]], "uniqueItems"),
    ],
)
def test_no_schema_makes_a_check_endless(schema: dict[str, Any], value: Any, fault: str) -> None:
    """A worker that checks a result can do nothing else, and a task must not occupy it."""
    check(schema)
    started_s = time.process_time()
    found = " ".join(validation.faults(schema, value))

    assert fault in found
    assert bool(found) == bool(fault)
    assert time.process_time() - started_s < 10


def test_the_schemas_of_a_document_are_found_by_their_references() -> None:
    """Data that looks like a schema is not one of them."""
    schema = {"$defs": {"a": {"$anchor": "here", "const": {"$defs": {"b": {}}}}}, "items": False}

    assert accepted.schemas_of(schema).keys() == {"#", "#/$defs/a", "#here", "#/items"}


def several(number: int, pattern: str) -> dict[str, Any]:
    """Return a schema with so many different patterns; `pattern` has a place for the number."""
    return {"properties": {f"p{n}": {"pattern": pattern.replace("N", str(n))} for n in range(number)}}


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (several(65, "N"), "it has 65 different patterns; at most 64 are accepted"),
        ({"patternProperties": {f"{n}$": {} for n in range(400)}}, "it has 400 different patterns; at most 64"),
        ({"pattern": "a{1000}", "items": {"pattern": "b"}}, "its patterns have 1001 characters and classes together"),
        ({"items": {"pattern": "(?x) a{9}"}}, "a pattern at /items cannot be used"),
        ({"pattern": r"\w{400}"}, "it is too large"),
    ],
)
def test_the_patterns_of_a_schema_are_few_and_small(schema: dict[str, Any], reason: str) -> None:
    """Their compilation takes time, first when the task is submitted."""
    with pytest.raises(InvalidInput, match="The schema cannot be used") as caught:
        check(schema)

    assert caught.value.field == "output_schema"
    assert reason in str(caught.value)


def test_patterns_up_to_the_limits_are_accepted() -> None:
    """A pattern that is used several times counts once."""
    check(several(64, "aN{9}"))
    check({"properties": {f"p{n}": {"pattern": "^[A-Za-z0-9_-]{990}$"} for n in range(300)}})


@pytest.mark.parametrize(
    ("pattern", "size"),
    [
        ("", 0),
        ("abc", 3),
        (r"^\d{4}-\d{2}$", 9),
        (r"(ab){3}c", 7),
        (r"((a{2}b){3}){4}", 36),
        ("a{2}{3}", 6),
        ("a{2,}b{0}c{0,3}", 6),
        (r"[]a{9}]{2}[^]{5}]{2}[[:alpha:]{3}]{2}[\]{3}]", 7),
        (r"\p{Greek}{3}\x{41}{2}\{9\}", 8),
        (r"a|b*?|(?:c+){2}", 8),
        ("a)b{2}(c", 5),
    ],
)
def test_the_size_of_a_pattern_counts_what_is_repeated(pattern: str, size: int) -> None:
    assert size_of(pattern) == size


@pytest.mark.parametrize(
    "schema",
    [
        several(300, r"\w{200}N"),
        {"patternProperties": {rf"\w{{100}}{n}": {} for n in range(400)}, "additionalProperties": False},
        {"allOf": [several(1, r"\w{200}N")] * 3 + [{"items": {"pattern": r"\w{300}"}}]},
    ],
)
def test_no_schema_makes_its_own_check_endless(schema: dict[str, Any]) -> None:
    """A request waits for it. Whether the schema is refused or not does not matter here."""
    started_s = time.process_time()
    with suppress(InvalidInput):
        check(schema)

    assert time.process_time() - started_s < 3


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (several(3, r"\w{200}N"), {f"p{n}": "a" * 100_000 for n in range(3)}),
        ({"items": {"pattern": r"\w{200}-"}}, ["a" * 210] * 20_000),
        (
            {"patternProperties": {rf"\w{{12}}{n}": {} for n in range(64)}, "additionalProperties": False},
            {f"{'a' * 20}{n}": 1 for n in range(20_000)},
        ),
        (
            {"additionalProperties": {"patternProperties": {rf"\w{{12}}{n}": {} for n in range(64)}}},
            {f"o{n}": {"a" * 20: 1} for n in range(20_000)},
        ),
    ],
)
def test_no_pattern_makes_a_check_endless(schema: dict[str, Any], value: Any) -> None:
    """Each pattern is compiled once for a check, however often it is used."""
    check(schema)
    started_s = time.process_time()
    validation.faults(schema, value)

    assert time.process_time() - started_s < 10


def test_matching_counts_by_the_size_of_pattern_and_text() -> None:
    """Each match of a large pattern takes as long as many small ones."""
    large, small = {"items": {"pattern": r"\w{200}"}}, {"items": {"pattern": "a"}}
    value = ["a" * 400] * 2_000

    assert validation.faults(large, value) == ["at the root: cannot be checked in 200000 steps"]
    assert validation.faults(small, value) == []
