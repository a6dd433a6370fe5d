"""Check the JSON schema that a caller gives for the result of a task. Nothing is fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from llm_server.orchestration.domain.errors import InvalidInput

FIELD = "output_schema"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
MAX_SCHEMA_BYTES = 32 * 1024
MAX_SCHEMA_LEVELS = 8
MAX_JSON_LEVELS = 64
MAX_PATTERN_CHARS = 256
MAX_PATTERNS = 64
MAX_PATTERN_SIZE = 1_000
"""Bounds the time to compile all patterns of a schema: 0.5 s in the worst case."""

_Read = TypeVar("_Read")

_ONE = ("items", "contains", "additionalProperties", "propertyNames", "not", "if", "then", "else", "contentSchema")
_LISTS = ("prefixItems", "allOf", "anyOf", "oneOf")
_MAPS = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
_IN_PLACE = frozenset({"allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas"})
"""The keywords whose schemas are applied to the same value as the schema that has them."""

_UNSUPPORTED = frozenset(
    {
        "$dynamicRef",
        "$dynamicAnchor",
        "$recursiveRef",
        "$recursiveAnchor",
        "$vocabulary",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
_ROOT_ONLY = frozenset({"$schema", "$id"})


def check(schema: Mapping[str, Any]) -> None:
    """Check a caller's schema (JSON Schema 2020-12).

    The root is the first level of nesting, and a schema inside a schema is one level deeper; a `$ref` adds none.

    Raises:
        InvalidInput: the schema is too large or too deep, not valid, of another dialect, or uses what is not supported.
    """
    _check_size(schema)
    _check_dialect(schema)
    _check_valid(schema)
    found = dict(_schemas(schema))
    targets = _targets(found)
    for pointer, part in found.items():
        if isinstance(part, Mapping):
            _check_part(pointer, part, targets)
    _check_patterns(found)
    _check_loops(found, targets)


def _check_size(schema: Mapping[str, Any]) -> None:
    level: list[Any] = [schema]
    for _ in range(MAX_JSON_LEVELS):
        level = [child for value in level for child in _children(value)]
    if level:
        raise _refused(f"it is nested more than {MAX_JSON_LEVELS} levels deep, as JSON.")
    try:
        encoded = msgspec.json.encode(schema)
        is_kept = msgspec.json.decode(encoded) == schema
    except (UnicodeEncodeError, OverflowError, msgspec.DecodeError, msgspec.ValidationError):
        is_kept = False
    if not is_kept:
        raise _refused("it has a number that is too large or not finite, or a text that is not valid Unicode.")
    size = len(encoded)
    if size > MAX_SCHEMA_BYTES:
        raise _refused(f"it has {size} bytes as JSON; at most {MAX_SCHEMA_BYTES} are accepted.")


def _children(value: Any) -> list[Any]:
    values = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [child for child in values if isinstance(child, Mapping | list | tuple)]


def _check_dialect(schema: Mapping[str, Any]) -> None:
    dialect = schema.get("$schema", DIALECT)
    if not isinstance(dialect, str) or dialect.rstrip("#") != DIALECT:
        raise _refused(f'its $schema is not known; the only one accepted is "{DIALECT}".')


def _check_valid(schema: Mapping[str, Any]) -> None:
    # Imported here because it takes long, and most tasks have no schema.
    from llm_server.orchestration.domain.result_schema import validation

    if found := validation.faults_of_schema(schema):
        raise _refused(f"it is not valid {found[0]}.")


def _schemas(root: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each schema in a valid schema with its JSON pointer. Raises InvalidInput if one is too deep."""
    waiting: list[tuple[str, Any, int]] = [("", root, 1)]
    while waiting:
        pointer, schema, level = waiting.pop()
        if level > MAX_SCHEMA_LEVELS:
            raise _refused(f"the schema at {pointer} is at level {level}; at most {MAX_SCHEMA_LEVELS} are accepted.")
        yield pointer, schema
        waiting += [(f"{pointer}/{path}", part, level + 1) for _, path, part in _parts(schema)]


def schemas_of(root: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schemas in an accepted schema by what a `$ref` to them is."""
    found = dict(_schemas(root))
    return {ref: found[pointer] for ref, pointer in _targets(found).items()}


def _parts(schema: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield the schemas directly inside a valid schema, each with its keyword and its pointer from this schema."""
    if not isinstance(schema, Mapping):
        return
    for keyword in _ONE:
        if keyword in schema:
            yield keyword, keyword, schema[keyword]
    for keyword in _LISTS:
        for index, part in enumerate(schema.get(keyword, ())):
            yield keyword, f"{keyword}/{index}", part
    for keyword in _MAPS:
        named = schema.get(keyword, {})
        for name, part in named.items() if isinstance(named, Mapping) else ():
            yield keyword, f"{keyword}/{_escaped(name)}", part


def _targets(found: Mapping[str, Any]) -> dict[str, str]:
    """Return what a `$ref` may be, each with the pointer of the schema that it means."""
    targets = {f"#{pointer}": pointer for pointer in found}
    for pointer, part in found.items():
        if isinstance(part, Mapping) and "$anchor" in part:
            targets[f"#{part['$anchor']}"] = pointer
    return targets


def _check_part(pointer: str, part: Mapping[str, Any], targets: Mapping[str, str]) -> None:
    where = pointer or "its root"
    unsupported = _UNSUPPORTED & part.keys() or (_ROOT_ONLY & part.keys() if pointer else set())
    if unsupported:
        raise _refused(f"the schema at {where} has {min(unsupported)}, which is not supported there.")
    target = part.get("$ref")
    if target is not None and not target.startswith("#"):
        raise _refused(f'the $ref at {where} must begin with "#": only schemas inside the document can be used.')
    if target is not None and target not in targets:
        raise _refused(f"the $ref at {where} leads to no schema in the document.")


def _check_patterns(found: Mapping[str, Any]) -> None:
    """Check each different pattern once. The bounds come first, because compiling takes time."""
    patterns = {pattern: pointer or "its root" for pointer, part in found.items() for pattern in _patterns(part)}
    if not patterns:
        return
    # Imported here because most schemas have no pattern.
    from llm_server.orchestration.domain.result_schema.patterns import Pattern, size_of

    if len(patterns) > MAX_PATTERNS:
        raise _refused(f"it has {len(patterns)} different patterns; at most {MAX_PATTERNS} are accepted.")
    for pattern, where in patterns.items():
        if len(pattern) > MAX_PATTERN_CHARS:
            raise _refused(
                f"a pattern at {where} has {len(pattern)} characters; at most {MAX_PATTERN_CHARS} are accepted."
            )
    size = sum(_usable(where, size_of, pattern) for pattern, where in patterns.items())
    if size > MAX_PATTERN_SIZE:
        raise _refused(
            f"its patterns have {size} characters and classes together, with each counted repetition such as {{9}} "
            f"written out; at most {MAX_PATTERN_SIZE} are accepted."
        )
    for pattern, where in patterns.items():
        _usable(where, Pattern, pattern)


def _usable(where: str, read: Callable[[str], _Read], pattern: str) -> _Read:
    from llm_server.orchestration.domain.result_schema.patterns import PatternInvalid

    try:
        return read(pattern)
    except PatternInvalid:
        raise _refused(
            f"a pattern at {where} cannot be used: it is not a regular expression, it is too large, or it has a "
            "look-around, a back-reference or the flag x."
        ) from None


def _patterns(part: Any) -> Iterator[str]:
    """Yield the patterns directly in a valid schema."""
    if isinstance(part, Mapping):
        if "pattern" in part:
            yield part["pattern"]
        yield from part.get("patternProperties", ())


def _check_loops(found: Mapping[str, Any], targets: Mapping[str, str]) -> None:
    """Refuse a schema that applies itself to the same value again, without end."""
    finished, at_work = set[str](), set[str]()

    def visit(pointer: str) -> None:
        if pointer in at_work:
            raise _refused(f"the schema at {pointer or 'its root'} leads back to itself by $ref for the same value.")
        if pointer in finished:
            return
        at_work.add(pointer)
        schema = found[pointer]
        for keyword, path, _ in _parts(schema):
            if keyword in _IN_PLACE:
                visit(f"{pointer}/{path}")
        if isinstance(schema, Mapping) and "$ref" in schema:
            visit(targets[schema["$ref"]])
        at_work.remove(pointer)
        finished.add(pointer)

    try:
        for pointer in found:
            visit(pointer)
    except RecursionError:
        raise _refused("its chain of $ref is too long.") from None


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _refused(reason: str) -> InvalidInput:
    return InvalidInput(FIELD, f"The schema cannot be used: {reason}")
