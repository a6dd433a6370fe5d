"""Check a value against a JSON schema, in a bounded number of steps.

Import this module only where a task has a schema: the libraries take long to import.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend
from pydantic_core import SchemaError, SchemaValidator, core_schema
from pydantic_core import ValidationError as NoMatch

MAX_STEPS = 200_000
"""How many keywords may be applied to check one value; a schema can ask for a number that grows exponentially."""
MAX_FAULTS = 5
_MAX_FAULT_CHARS = 200
_MAX_POINTER_CHARS = 100
_NO_VALUE = "no value is allowed"
_BY_NAME = frozenset(
    {_NO_VALUE, "$ref", "allOf", "anyOf", "oneOf", "not", "if", "enum", "properties", "patternProperties"}
)
_LIST_OF_ITEMS = frozenset({"items", "contains", "uniqueItems", "propertyNames", "additionalProperties"})

_Rule = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


class _TooManySteps(Exception):
    """The check was given up."""


def faults(schema: Mapping[str, Any], value: Any) -> list[str]:
    """Return what in a value breaks an accepted schema: at most five, each as JSON pointer and rule.

    They do not contain values of the answer.
    """
    root = {key: part for key, part in schema.items() if key not in ("$id", "$schema")}
    return _found(_bounded(root), value)


def faults_of_schema(schema: Mapping[str, Any]) -> list[str]:
    """Return what makes a schema invalid."""
    return _found(_bounded(Draft202012Validator.META_SCHEMA), schema)


def is_pattern(pattern: str) -> bool:
    """Return whether a regular expression can be used. Matching takes linear time, so some features are missing."""
    try:
        _matcher(pattern)
    except SchemaError:
        return False
    return True


def _found(validator: Any, value: Any) -> list[str]:
    found = list[str]()
    try:
        for error in validator.iter_errors(value):
            found.append(_described(error))
            if len(found) == MAX_FAULTS:
                break
    except _TooManySteps:
        return [*found, f"at the root: cannot be checked in {MAX_STEPS} steps"][-MAX_FAULTS:]
    except RecursionError:
        return [*found, "at the root: nested too deeply to be checked"][-MAX_FAULTS:]
    return found


def _described(error: ValidationError) -> str:
    """Return a fault as JSON pointer and rule."""
    pointer = "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in error.absolute_path)
    where = f"at {pointer[:_MAX_POINTER_CHARS] or 'the root'}"
    rule = _NO_VALUE if error.validator is None else str(error.validator)
    if error.validator == "required":
        rule = error.message
    elif error.validator is not None and error.validator not in _BY_NAME:
        rule = f"{rule} {json.dumps(error.validator_value, ensure_ascii=False, default=str)}"
    return f"{where}: {rule}"[:_MAX_FAULT_CHARS]


def _bounded(schema: Any) -> Any:
    """Return a validator of the schema that stops after `MAX_STEPS`."""
    left = MAX_STEPS

    def counted(keyword: str, rule: _Rule) -> _Rule:
        def apply(validator: Any, wanted: Any, value: Any, part: Any) -> Iterator[ValidationError] | None:
            nonlocal left
            left -= _weight(keyword, wanted, value)
            if left < 0:
                raise _TooManySteps
            return rule(validator, wanted, value, part)

        return apply

    rules = {**Draft202012Validator.VALIDATORS, **_OWN_RULES}
    bounded = extend(Draft202012Validator, {keyword: counted(keyword, rule) for keyword, rule in rules.items()})
    return bounded(schema)


def _weight(keyword: str, wanted: Any, value: Any) -> int:
    """Return how many steps the library takes for a keyword itself, about."""
    own = len(wanted) if isinstance(wanted, list | tuple | Mapping) else 0
    if keyword == "patternProperties" and isinstance(value, Mapping):
        return 1 + own * len(value)
    if keyword in _LIST_OF_ITEMS and isinstance(value, list | tuple | Mapping):
        return 1 + own + len(value)
    return 1 + own + (len(value) // 100 if isinstance(value, str) else 0)


@lru_cache(maxsize=256)
def _matcher(pattern: str) -> SchemaValidator:
    return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))


def matches(pattern: str, text: str) -> bool:
    """Return whether a pattern matches anywhere in a text, in linear time (the library's own rule uses `re`)."""
    try:
        _matcher(pattern).validate_python(text, strict=True)
    except NoMatch:
        return False
    return True


def _pattern(validator: Any, pattern: str, value: Any, _: Any) -> Iterator[ValidationError]:
    if validator.is_type(value, "string") and not matches(pattern, value):
        yield ValidationError("")


def _properties(validator: Any, fields: Any, value: Any, _: Any) -> Iterator[ValidationError]:
    """Name the field that must not be there (the library's own rule names the object)."""
    if validator.is_type(value, "object"):
        for name, part in fields.items():
            if name in value and part is False:
                yield ValidationError("", validator=_NO_VALUE, path=[name])
            elif name in value:
                yield from validator.descend(value[name], part, path=name, schema_path=name)


def _pattern_properties(validator: Any, patterns: Any, value: Any, _: Any) -> Iterator[ValidationError]:
    if validator.is_type(value, "object"):
        for pattern, part in patterns.items():
            for name, field in value.items():
                if matches(pattern, name):
                    yield from validator.descend(field, part, path=name, schema_path=pattern)


def _additional_properties(validator: Any, part: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    if not validator.is_type(value, "object"):
        return
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for name, field in value.items():
        if name not in known and not any(matches(pattern, name) for pattern in patterns):
            if part is False:
                yield ValidationError("")
                return
            yield from validator.descend(field, part, path=name)


def _multiple_of(validator: Any, step: Any, value: Any, _: Any) -> Iterator[ValidationError]:
    """Calculate with decimals, because 19.99 is a multiple of 0.01, and not so with floating-point numbers."""
    if validator.is_type(value, "number") and Fraction(str(value)) % Fraction(str(step)):
        yield ValidationError("")


def _unique_items(validator: Any, wanted: Any, value: Any, _: Any) -> Iterator[ValidationError]:
    """Compare in linear time (the library's own rule compares each pair)."""
    if wanted and validator.is_type(value, "array") and len({_canonical(item) for item in value}) < len(value):
        yield ValidationError("")


def _canonical(value: Any) -> str:
    return json.dumps(_with_whole_numbers(value), sort_keys=True)


def _with_whole_numbers(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {name: _with_whole_numbers(field) for name, field in value.items()}
    return [_with_whole_numbers(item) for item in value] if isinstance(value, list | tuple) else value


_OWN_RULES: dict[str, _Rule] = {
    "pattern": _pattern,
    "properties": _properties,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "multipleOf": _multiple_of,
    "uniqueItems": _unique_items,
}
