"""Reads a JSON object of a request field by field; a fault names the field by its path, such as `input.0.content`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NoReturn

from llm_server.orchestration.domain.errors import InvalidInput


class Part:
    """A JSON object of a request, and its path in it ("" for the body). A field that is null counts as left out.

    Every method raises InvalidInput if the field is not what it asks for.
    """

    def __init__(self, fields: Mapping[str, Any], path: str = "") -> None:
        self._fields = fields
        self._path = path

    def path(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name

    def has(self, name: str) -> bool:
        return self._fields.get(name) is not None

    def value(self, name: str) -> Any:
        """Return a field as it is; None if it is left out."""
        return self._fields.get(name)

    def fail(self, name: str, what: str) -> NoReturn:
        """Refuse a field; `what` completes the sentence "The field 'x' ..."."""
        raise InvalidInput(self.path(name), f"The field {self.path(name)!r} {what}.")

    def only(self, known: Collection[str]) -> None:
        """Refuse fields that are not known."""
        for name in self._fields:
            if name not in known:
                listed = ", ".join(sorted(known))
                raise InvalidInput(self.path(name[:60]), f"Unknown field {self.path(name[:60])!r}; known are {listed}.")

    def text(self, name: str, *, max_chars: int | None = None) -> str | None:
        value = self.value(name)
        if value is not None and not isinstance(value, str):
            self.fail(name, "must be a string")
        if value is not None and max_chars is not None and len(value) > max_chars:
            self.fail(name, f"must have at most {max_chars} characters")
        if value is not None and "\x00" in value:
            self.fail(name, "contains a NUL character")
        return value

    def needed_text(self, name: str) -> str:
        value = self.text(name)
        if value is None:
            self.fail(name, "is missing")
        return value

    def choice(self, name: str, allowed: Collection[str]) -> str | None:
        value = self.text(name)
        if value is not None and value not in allowed:
            listed = ", ".join(repr(each) for each in allowed)
            self.fail(name, f"must be one of {listed}")
        return value

    def flag(self, name: str) -> bool:
        """Return a field that is true or false; False if it is left out."""
        value = self.value(name)
        if value is not None and not isinstance(value, bool):
            self.fail(name, "must be true or false")
        return bool(value)

    def whole(self, name: str, *, least: int, most: int) -> int | None:
        value = self.value(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self.fail(name, f"must be a whole number from {least:,} to {most:,}")
        return value

    def part(self, name: str) -> Part | None:
        value = self.value(name)
        if value is not None and not isinstance(value, dict):
            self.fail(name, "must be a JSON object")
        return None if value is None else Part(value, self.path(name))

    def needed_part(self, name: str) -> Part:
        part = self.part(name)
        if part is None:
            self.fail(name, "is missing")
        return part

    def parts(self, name: str) -> Iterator[Part]:
        """Yield the objects of a list; nothing if the field is left out."""
        value = self.value(name)
        if value is not None and not isinstance(value, list):
            self.fail(name, "must be a list")
        for index, entry in enumerate(value or ()):
            if not isinstance(entry, dict):
                self.fail(f"{name}.{index}", "must be a JSON object")
            yield Part(entry, self.path(f"{name}.{index}"))
