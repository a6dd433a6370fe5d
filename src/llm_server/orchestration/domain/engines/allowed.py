"""Which engines a task may call: one that it names, and those with the sources that it and its keys allow (ADR 34)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict, replace

from llm_server.orchestration.domain.engines.catalog import SOURCES, Source, Sources
from llm_server.orchestration.domain.errors import InvalidInput


class AllowedEngines(Struct, frozen=True, kw_only=True):
    """The engines that a task may call: `engine` alone, or any (None); and only those with one of the `sources`."""

    engine: str | None = None
    sources: Sources | None = None

    def admits(self, engine: str, source: Source) -> bool:
        """Return whether the task may call an engine with this name and this source."""
        return self.engine in (None, engine) and (self.sources is None or source in self.sources)

    def within(self, sources: Sources | None) -> AllowedEngines:
        """Return the engines that this further limit allows, too."""
        return replace(self, sources=common(self.sources, sources))

    @property
    def kind(self) -> str:
        """What each engine with an allowed source is, for a sentence: `engine`, or `engine with the source local`."""
        return "engine" if self.sources is None else f"engine with the source {either(self.sources)}"


ANY_ENGINE = AllowedEngines()


def either(sources: Iterable[str]) -> str:
    """Return sources as text: `local or api`."""
    return " or ".join(sources)


def _wrong(message: str) -> InvalidInput:
    return InvalidInput("sources", message, within="limits")


def checked_sources(words: Sequence[str] | None) -> Sources | None:
    """Check a limit as callers write it, and return it in the order of `SOURCES`. None, no limit, stays None.

    Raises:
        InvalidInput: the list is empty, or has an unknown word or one word twice.
    """
    if words is None:
        return None
    known = f"known are {', '.join(SOURCES)}"
    if not words:
        raise _wrong(f"The list limits.sources is empty; {known}. Leave it out to allow every source.")
    for word in words:
        if word not in SOURCES:
            raise _wrong(f"Unknown source {word[:60]!r} in limits.sources; {known}.")
    if len(set(words)) < len(words):
        raise _wrong(f"The list limits.sources has a source twice; {known}, each at most once.")
    return tuple(source for source in SOURCES if source in words)


def common(*limits: Sources | None) -> Sources | None:
    """Return the sources that all limits allow; None if no limit is set. The result is () if they have none in common.

    A further limit never allows a source that the others do not.
    """
    lists = [limit for limit in limits if limit is not None]
    return tuple(source for source in SOURCES if all(source in each for each in lists)) if lists else None


def without_unset_sources(record: Struct) -> dict[str, Any]:
    """Return the fields of a record and of the records in it as a dict, without `sources` if it is not set.

    So a record without this limit has the text, and the hash, that versions gave it which do not know the limit. A
    request can then be repeated after an update.
    """
    return {
        name: without_unset_sources(value) if isinstance(value, Struct) else value
        for name, value in asdict(record).items()
        if name != "sources" or value is not None
    }
