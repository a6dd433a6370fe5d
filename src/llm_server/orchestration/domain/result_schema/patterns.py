"""The regular expressions in a schema: how large each is, and matching in linear time.

Import this module only where a task has a schema: pydantic's core takes long to import.
"""

from __future__ import annotations

import re

from pydantic_core import SchemaError, SchemaValidator, core_schema
from pydantic_core import ValidationError as NoMatch

_COUNTED = re.compile(r"\{(\d+)(?:(,)(\d*))?\}")
_FLAGS = re.compile(r"\?[a-zA-Z]*x")


class PatternInvalid(ValueError):
    """The pattern is not a regular expression, or uses what is not supported."""


class Pattern:
    """A compiled pattern. `size`: as `size_of`."""

    def __init__(self, pattern: str) -> None:
        """Compile a pattern. Raises PatternInvalid."""
        self.size = size_of(pattern)
        try:
            self._validator = SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))
        except SchemaError as error:
            raise PatternInvalid(pattern) from error

    def matches(self, text: str) -> bool:
        """Return whether the pattern matches anywhere in a text; `size` bounds the time for each character."""
        try:
            self._validator.validate_python(text, strict=True)
        except NoMatch:
            return False
        return True


def size_of(pattern: str) -> int:
    """Return how many characters and classes a pattern has if its counted repetitions are written out, about.

    `(ab){3}` has 6. The time and the memory that compiling takes grow with it.

    Raises:
        PatternInvalid: the pattern switches on the verbose mode, in which some characters do not count.
    """
    sizes, last, at = [0], 0, 0
    while at < len(pattern):
        character, counted = pattern[at], _COUNTED.match(pattern, at)
        if counted:
            times = max(1, int(counted[3] or counted[1]))
            sizes[-1] += last * (times - 1)
            last, at = last * times, counted.end()
        elif character == "(":
            if _FLAGS.match(pattern, at + 1):
                raise PatternInvalid(pattern)
            sizes.append(0)
            last, at = 0, at + 1
        elif character == ")" and len(sizes) > 1:
            last = sizes.pop()
            sizes[-1] += last
            at += 1
        elif character in "*+?":
            at += 1
        else:
            at = _after_atom(pattern, at)
            sizes[-1] += 1
            last = 1
    return sum(sizes)


def _after_atom(pattern: str, at: int) -> int:
    """Return where the character or class that begins at `at` ends."""
    if pattern[at] == "[":
        return _after_class(pattern, at)
    if pattern[at] != "\\":
        return at + 1
    if pattern[at + 1 : at + 2] in tuple("pPxuU") and pattern[at + 2 : at + 3] == "{":
        return pattern.find("}", at) + 1 or len(pattern)
    return at + 2


def _after_class(pattern: str, at: int) -> int:
    """Return where a class in brackets ends; it may have classes inside."""
    depth, start = 0, at
    while at < len(pattern):
        if pattern[at] == "\\":
            at += 1
        elif pattern[at] == "[":
            depth, start = depth + 1, at + 1 + pattern.startswith("[^", at)
        elif pattern[at] == "]" and at > start:  # directly after the opening bracket it is a character
            depth -= 1
        at += 1
        if not depth:
            return at
    return len(pattern)
