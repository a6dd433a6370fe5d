"""Read the word lists of the concepts, and put them into one hash table for the data file."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from zlib import crc32

from llm_server.orchestration.routing.concepts import EMPTY, MAX_BEGINNING, PHRASE_FOLLOWS, Concepts
from train.rows import DATA

BITS = 18
_FOLDER = DATA / "concepts"


@dataclass(frozen=True, slots=True)
class ConceptTable:
    """The names and the table, as `Concepts` reads them; `checks` are 16-bit and `numbers` 8-bit, little-endian."""

    names: list[str]
    languages: list[str]
    function_words: dict[str, list[int]]
    checks: bytes
    numbers: bytes

    def concepts(self) -> Concepts:
        return Concepts(
            names=self.names,
            languages=self.languages,
            function_words=self.function_words,
            checks=memoryview(self.checks).cast("H"),
            numbers=self.numbers,
        )


def concept_table() -> ConceptTable:
    """Return the table of all lists; the same lists always give the same bytes."""
    languages = sorted(path.stem for path in _FOLDER.glob("*.txt"))
    names = [line.partition(":")[0] for line in _lines(languages[0])]
    entries = {
        (crc, number, concept)
        for number, language in enumerate(languages)
        for concept, line in enumerate(_lines(language))
        for crc, concept in _entries(line.partition(":")[2].split(), concept)
    }
    checks, numbers = array("H", [0]) * (1 << BITS), bytearray([EMPTY]) * (2 << BITS)
    for crc, language, concept in sorted(entries):
        place = crc & ((1 << BITS) - 1)
        while numbers[2 * place] != EMPTY:
            place = (place + 1) & ((1 << BITS) - 1)
        checks[place] = crc >> 16
        numbers[2 * place : 2 * place + 2] = bytes((language, concept))
    return ConceptTable(names, languages, _function_words(languages), checks.tobytes(), bytes(numbers))


def _lines(language: str) -> list[str]:
    return (_FOLDER / f"{language}.txt").read_text(encoding="utf-8").splitlines()


def _entries(words: list[str], concept: int) -> Iterator[tuple[int, int]]:
    for word in words:
        if word.endswith("*"):
            yield crc32(word[:-1][:MAX_BEGINNING].encode() + b"*"), concept
        elif "_" in word:
            parts = word.split("_")
            yield crc32(" ".join(parts).encode()), concept
            for size in range(1, len(parts)):
                yield crc32(" ".join(parts[:size]).encode()), PHRASE_FOLLOWS
        else:
            yield crc32(word.encode()), concept


def _function_words(languages: list[str]) -> dict[str, list[int]]:
    """Return the languages of each function word; a language without a list of concepts is left out."""
    found: dict[str, list[int]] = {}
    for line in (DATA / "function_words.txt").read_text(encoding="utf-8").splitlines():
        language, _, words = line.partition(":")
        for word in words.split():
            if language in languages:
                found.setdefault(word, []).append(languages.index(language))
    return dict(sorted(found.items()))
