"""Make a small value that follows a JSON schema, for the engines that ask no model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import islice
from typing import Any

from llm_server.orchestration.domain.errors import PromptRefused
from llm_server.orchestration.domain.result_schema.accepted import schemas_of
from llm_server.orchestration.domain.result_schema.patterns import Pattern
from llm_server.orchestration.domain.result_schema.validation import Checker

TEXT = "Example text: no LLM is configured."
NO_EXAMPLE = "No example was found that follows output_schema. Only an LLM can answer this task; none is configured."
_MAX_TRIES = 100
_MAX_CHOICES = 6
_MAX_LEVELS = 12
_MAX_STEPS = 5_000
_MAX_LENGTH = 1_000
_OF_FORMAT = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "time": "12:00:00Z",
    "email": "example@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_SAMPLES = (
    "a",
    "A",
    "0",
    "a0",
    "AA",
    "AAA",
    "abc",
    "00",
    "000",
    "0000",
    "00000",
    "1.0",
    "0.00",
    *_OF_FORMAT.values(),
    "",
)
_TYPE_OF = {
    "object": ("properties", "required", "additionalProperties", "patternProperties", "minProperties"),
    "array": ("items", "prefixItems", "minItems", "contains"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
_Schema = Mapping[str, Any]


def instance(schema: _Schema) -> Any:
    """Return a small value that follows an accepted schema; its texts say that no LLM is configured, if they may.

    Raises:
        PromptRefused: none was found.
    """
    checker = Checker.of(schema)
    try:
        for value in islice(_Maker(schema).values(schema, 0), _MAX_TRIES):
            if not checker.faults(value):
                return value
    except (_GivenUp, RecursionError, ArithmeticError):
        pass
    raise PromptRefused(NO_EXAMPLE)


class _GivenUp(Exception):
    """The search took too many steps."""


class _Maker:
    """Makes values that are likely to follow a schema; `instance` checks them."""

    def __init__(self, root: _Schema) -> None:
        self._targets = schemas_of(root)
        self._steps = 0
        self._patterns = dict[str, Pattern]()

    def values(self, schema: Any, level: int) -> Iterator[Any]:
        """Yield values for a schema, the most likely first."""
        self._count()
        if level > _MAX_LEVELS or schema is False:
            return
        if not isinstance(schema, Mapping):
            yield TEXT
            return
        for plain in islice(self._plain(schema, level), _MAX_CHOICES):
            if "const" in plain:
                yield plain["const"]
            elif "enum" in plain:
                yield from plain["enum"][:_MAX_CHOICES]
            else:
                for kind in _types(plain):
                    yield from self._of_type(kind, plain, level)

    def _plain(self, schema: _Schema, level: int) -> Iterator[_Schema]:
        """Yield schemas without references and choices, each of which is a way to follow this one."""
        if level > _MAX_LEVELS:
            return
        base = {key: part for key, part in schema.items() if key not in ("$ref", "allOf", "anyOf", "oneOf", "if")}
        choices: list[list[Any]] = [[part] for part in schema.get("allOf", ())]
        choices += [[self._targets.get(schema["$ref"])]] if "$ref" in schema else []
        choices += [schema[key] for key in ("anyOf", "oneOf") if key in schema]
        if "if" in schema:
            positive = {"allOf": [schema["if"], schema.get("then", True)]}
            choices.append([schema.get("else", True), positive])
        yield from self._merged(base, choices, level)

    def _merged(self, base: _Schema, choices: list[list[Any]], level: int) -> Iterator[_Schema]:
        self._count()
        if not choices:
            yield base
            return
        first, *others = choices
        for choice in first:
            if choice is False:
                continue
            for plain in self._plain(choice, level + 1) if isinstance(choice, Mapping) else [{}]:
                yield from self._merged(_both(base, plain), others, level)

    def _count(self) -> None:
        self._steps += 1
        if self._steps > _MAX_STEPS:
            raise _GivenUp

    def _of_type(self, kind: str, schema: _Schema, level: int) -> Iterator[Any]:
        match kind:
            case "object":
                yield from self._objects(schema, level)
            case "array":
                yield from self._arrays(schema, level)
            case "string":
                yield from self._texts(schema)
            case "boolean":
                yield from (False, True)
            case "null":
                yield None
            case _:
                yield from _numbers(schema, whole=kind == "integer")

    def _objects(self, schema: _Schema, level: int) -> Iterator[Any]:
        fields = schema.get("properties", {})
        names = list(dict.fromkeys(schema.get("required", ())))
        dependent = schema.get("dependentRequired", {})
        for name in names:  # grows while it is read
            names += [other for other in dependent.get(name, ()) if other not in names]
        least = min(schema.get("minProperties", 0), _MAX_LENGTH)
        names += [name for name in fields if name not in names][: max(0, least - len(names))]
        names += [f"example_{index}" for index in range(least - len(names))]
        other = schema.get("additionalProperties", True)
        choices = [list(islice(self.values(fields.get(name, other), level + 1), _MAX_CHOICES)) for name in names]
        if all(choices):
            yield from (dict(zip(names, row, strict=True)) for row in _rows(choices))

    def _arrays(self, schema: _Schema, level: int) -> Iterator[Any]:
        prefix, least = list(schema.get("prefixItems", ())), int(min(schema.get("minItems", 0), _MAX_LENGTH))
        wanted = [schema["contains"]] * int(min(schema.get("minContains", 1), 20)) if "contains" in schema else []
        rest = schema.get("items", True)
        parts = prefix[:least]
        parts += [_both_of(rest, part) for part in wanted]
        parts += [rest] * (least - len(parts))
        if not schema.get("uniqueItems"):
            choices = [list(islice(self.values(part, level + 1), _MAX_CHOICES)) for part in parts]
            if all(choices):
                yield from (list(row) for row in _rows(choices))
            return
        items, seen = list[Any](), set[str]()
        for part in parts:
            for value in islice(self.values(part, level + 1), _MAX_TRIES):
                if repr(value) not in seen:
                    seen.add(repr(value))
                    items.append(value)
                    break
        if len(items) == len(parts):
            yield items

    def _texts(self, schema: _Schema) -> Iterator[str]:
        least, most = int(schema.get("minLength", 0)), int(schema.get("maxLength", _MAX_LENGTH))
        if least > _MAX_LENGTH:
            return
        pattern = schema.get("pattern")
        samples = [_OF_FORMAT.get(str(schema.get("format")), TEXT), *_SAMPLES]
        samples += [pattern.removeprefix("^").removesuffix("$")] if pattern else []
        samples += [f"Example {number}" for number in range(1, 21)]
        for sample in samples:
            text = sample[:most]
            text += (text[-1:] or ".") * (least - len(text))
            if not pattern or self._matches(pattern, text):
                yield text

    def _matches(self, pattern: str, text: str) -> bool:
        self._count()
        if pattern not in self._patterns:
            self._patterns[pattern] = Pattern(pattern)
        return self._patterns[pattern].matches(text)


def _rows(choices: list[list[Any]]) -> Iterator[list[Any]]:
    """Yield the first choices together, then each other choice beside the first ones of the rest."""
    first = [choice[0] for choice in choices]
    yield first
    for index, choice in enumerate(choices):
        for value in choice[1:]:
            yield [*first[:index], value, *first[index + 1 :]]


def _types(schema: _Schema) -> list[str]:
    kinds = schema.get("type")
    if kinds is not None:
        return [kinds] if isinstance(kinds, str) else list(kinds)
    likely = [kind for kind, keywords in _TYPE_OF.items() if any(keyword in schema for keyword in keywords)]
    return [*likely, "string", "integer", "object", "array", "boolean", "null"]


def _numbers(schema: _Schema, *, whole: bool) -> Iterator[int | float]:
    step = Fraction(str(schema.get("multipleOf", 1)))
    low = [Fraction(str(schema[key])) for key in ("minimum", "exclusiveMinimum") if key in schema]
    high = [Fraction(str(schema[key])) for key in ("maximum", "exclusiveMaximum") if key in schema]
    start = max(low) if low else min([*high, Fraction(0)])
    first = math.ceil(start / step) if low else math.floor(start / step)
    numbers = [(first + index) * step for index in range(21)] + [(first - index) * step for index in range(1, 21)]
    numbers += [(low[0] + high[0]) / 2] if low and high else []
    for number in numbers:
        if number.denominator == 1:
            yield int(number)
        elif not whole:
            yield float(number)


def _both(one: _Schema, other: _Schema) -> dict[str, Any]:
    """Return a schema that demands what both demand, as far as it is simple."""
    both = dict(one)
    for key, value in other.items():
        both[key] = _joined(key, both[key], value) if key in both else value
    return both


def _joined(key: str, one: Any, other: Any) -> Any:
    if key == "properties":
        return {**one, **{name: _both_of(one.get(name, True), part) for name, part in other.items()}}
    if key == "required":
        return [*one, *other]
    if key == "enum":
        return [value for value in one if value in other] or one
    if key == "type":
        ones, others = ([kind] if isinstance(kind, str) else list(kind) for kind in (one, other))
        return [kind for kind in others if kind in ones or (kind == "integer" and "number" in ones)] or ones
    if key.startswith(("min", "exclusiveMin")):
        return max(one, other)
    if key.startswith(("max", "exclusiveMax")):
        return min(one, other)
    if key in ("items", "additionalProperties", "contains", "propertyNames"):
        return _both_of(one, other)
    return other


def _both_of(one: Any, other: Any) -> Any:
    if one is True or other is True:
        return other if one is True else one
    return False if one is False or other is False else {"allOf": [one, other]}
