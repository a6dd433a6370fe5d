"""Check a value against a JSON schema, in a bounded number of steps.

Import this module only where a task has a schema: the libraries take long to import.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from llm_server.orchestration.domain.result_schema.patterns import Pattern

MAX_STEPS = 200_000
"""How many keywords may be applied by one checker; a schema can ask for a number that grows exponentially."""
_STEP_OF_MATCHING = 500
"""Matching costs a step for so many characters of text, multiplied by the size of the pattern."""
MAX_FAULTS = 5
MAX_FAULT_CHARS = 200
_MAX_POINTER_CHARS = 100
_NO_VALUE = "no value is allowed"
_BY_NAME = frozenset(
    {_NO_VALUE, "$ref", "allOf", "anyOf", "oneOf", "not", "if", "enum", "properties", "patternProperties"}
)
_LIST_OF_ITEMS = frozenset({"items", "contains", "uniqueItems", "propertyNames", "additionalProperties"})

_Rule = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


class _TooManySteps(Exception):
    """The check was given up."""


class Checker:
    """Checks values against one valid schema. Each of its patterns is compiled once."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._left = MAX_STEPS
        self._patterns = dict[str, Pattern]()
        rules: dict[str, _Rule] = {
            **Draft202012Validator.VALIDATORS,
            "pattern": self._pattern,
            "properties": _properties,
            "patternProperties": self._pattern_properties,
            "additionalProperties": self._additional_properties,
            "multipleOf": _multiple_of,
            "uniqueItems": _unique_items,
        }
        counted = {keyword: self._counted(keyword, rule) for keyword, rule in rules.items()}
        self._validator: Any = extend(Draft202012Validator, counted)(schema)

    @classmethod
    def of(cls, schema: Mapping[str, Any]) -> Checker:
        """Return the checker of a caller's schema, in which each `$ref` stays inside the document."""
        return cls({key: part for key, part in schema.items() if key not in ("$id", "$schema")})

    def faults(self, value: Any) -> list[str]:
        """Return what in a value breaks the schema: at most five faults, each as JSON pointer and rule.

        They do not contain values of the answer. All checks of one checker take at most `MAX_STEPS` together.
        """
        found = list[str]()
        try:
            for error in self._validator.iter_errors(value):
                found.append(_described(error))
                if len(found) == MAX_FAULTS:
                    break
        except _TooManySteps:
            return [*found, f"at the root: cannot be checked in {MAX_STEPS} steps"][-MAX_FAULTS:]
        except RecursionError:
            return [*found, "at the root: nested too deeply to be checked"][-MAX_FAULTS:]
        return found

    def _spend(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise _TooManySteps

    def _counted(self, keyword: str, rule: _Rule) -> _Rule:
        def apply(validator: Any, wanted: Any, value: Any, part: Any) -> Iterator[ValidationError] | None:
            self._spend(_weight(keyword, wanted, value))
            return rule(validator, wanted, value, part)

        return apply

    def _matches(self, pattern: str, text: str) -> bool:
        """Return whether a pattern matches anywhere in a text (the library's own rules use `re`)."""
        compiled = self._patterns.get(pattern)
        if compiled is None:
            compiled = self._patterns[pattern] = Pattern(pattern)
        self._spend(1 + compiled.size * len(text) // _STEP_OF_MATCHING)
        return compiled.matches(text)

    def _pattern(self, validator: Any, pattern: str, value: Any, _: Any) -> Iterator[ValidationError]:
        if validator.is_type(value, "string") and not self._matches(pattern, value):
            yield ValidationError("")

    def _pattern_properties(self, validator: Any, patterns: Any, value: Any, _: Any) -> Iterator[ValidationError]:
        if validator.is_type(value, "object"):
            for pattern, part in patterns.items():
                for name, field in value.items():
                    if self._matches(pattern, name):
                        yield from validator.descend(field, part, path=name, schema_path=pattern)

    def _additional_properties(self, validator: Any, part: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
        if not validator.is_type(value, "object"):
            return
        known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
        for name, field in value.items():
            if name not in known and not any(self._matches(pattern, name) for pattern in patterns):
                if part is False:
                    yield ValidationError("")
                    return
                yield from validator.descend(field, part, path=name)


def faults(schema: Mapping[str, Any], value: Any) -> list[str]:
    """Return what in one value breaks an accepted schema, as `Checker.faults`."""
    return Checker.of(schema).faults(value)


def faults_of_schema(schema: Mapping[str, Any]) -> list[str]:
    """Return what makes a schema invalid, as `Checker.faults`."""
    return Checker(Draft202012Validator.META_SCHEMA).faults(schema)


def _described(error: ValidationError) -> str:
    """Return a fault as JSON pointer and rule."""
    pointer = "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in error.absolute_path)
    where = f"at {pointer[:_MAX_POINTER_CHARS] or 'the root'}"
    rule = _NO_VALUE if error.validator is None else str(error.validator)
    if error.validator == "required":
        rule = error.message
    elif error.validator is not None and error.validator not in _BY_NAME:
        rule = f"{rule} {json.dumps(error.validator_value, ensure_ascii=False, default=str)}"
    # An answer may have names that are not valid Unicode.
    return f"{where}: {rule}"[:MAX_FAULT_CHARS].encode(errors="replace").decode()


def _weight(keyword: str, wanted: Any, value: Any) -> int:
    """Return how many steps the library takes for a keyword itself, about."""
    own = len(wanted) if isinstance(wanted, list | tuple | Mapping) else 0
    if keyword in _LIST_OF_ITEMS and isinstance(value, list | tuple | Mapping):
        return 1 + own + len(value)
    return 1 + own + (len(value) // 100 if isinstance(value, str) else 0)


def _properties(validator: Any, fields: Any, value: Any, _: Any) -> Iterator[ValidationError]:
    """Name the field that must not be there (the library's own rule names the object)."""
    if validator.is_type(value, "object"):
        for name, part in fields.items():
            if name in value and part is False:
                yield ValidationError("", validator=_NO_VALUE, path=[name])
            elif name in value:
                yield from validator.descend(value[name], part, path=name, schema_path=name)


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
