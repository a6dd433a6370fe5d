"""Which engines a task may call: one that it names, and those with the sources that it and its keys allow (ADR 34)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict, replace

from llm_server.orchestration.domain.engines.catalog import SOURCES, Source, Sources
from llm_server.orchestration.domain.engines.chat import Need
from llm_server.orchestration.domain.errors import InvalidInput


class AllowedEngines(Struct, frozen=True, kw_only=True):
    """The engines that a task may call: `engine` alone, or any (None); and only those with one of the `sources`.

    `needs` is what each of them must take: function tools, images.
    """

    engine: str | None = None
    sources: Sources | None = None
    needs: tuple[Need, ...] = ()

    def admits(self, engine: str, source: Source) -> bool:
        """Return whether the task may call an engine with this name and this source."""
        return self.engine in (None, engine) and (self.sources is None or source in self.sources)

    def within(self, sources: Sources | None) -> AllowedEngines:
        """Return the engines that this further limit allows, too."""
        return replace(self, sources=common(self.sources, sources))

    def needing(self, needs: tuple[Need, ...]) -> AllowedEngines:
        """Return those of the engines that take what a call needs, in place of what was needed before."""
        return self if self.needs == needs else replace(self, needs=needs)

    @property
    def kind(self) -> str:
        """What each allowed engine is, for a sentence, such as `engine with the source local that takes images`."""
        source = "" if self.sources is None else f" with the source {either(self.sources)}"
        return f"engine{source}{f' that takes {in_words(self.needs)}' if self.needs else ''}"


ANY_ENGINE = AllowedEngines()


def in_words(needs: Iterable[Need]) -> str:
    """Return what engines must take as text: `function tools and images`."""
    words: dict[Need, str] = {"tools": "function tools", "vision": "images"}
    return " and ".join(words[need] for need in needs)


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
