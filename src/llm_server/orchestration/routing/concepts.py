"""Find the concepts of a prompt: about ninety kinds of things that prompts are about, in over thirty languages.

A concept, such as `money` or `translate`, has words, beginnings of words and phrases in each language. The lists are in
data/routing/concepts; `tools/train` puts them into the data file as one hash table, so that nothing is built at start.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from zlib import crc32

from llm_server.orchestration.routing.tokens import compiled, unspaced

ENGLISH = "en"
PLACES = 3
"""A concept has a weight of its own for being named anywhere, in the first sentence, and in the last one."""
EMPTY = 255
"""The number of an empty place of the table; the languages and concepts are numbered from 0."""
PHRASE_FOLLOWS = 254
"""Stands in the place of a concept where a phrase goes on: at its first word, its first two words, and so on."""
MAX_BEGINNING = 9
"""A beginning of a word has at most this many characters; longer ones are cut to it."""
MAX_UNSPACED, MAX_THAI = 4, 14
"""An entry of a script without spaces between words has at most this many characters."""
_MAX_VOTERS = 24
_MAX_PARTS = 6
_CLEAR_LEAD = 2
_MAX_KNOWN = 20_000
_LAST_THAI = "\u0e7f"
_THAI_MARKS = frozenset("\u0e31" + "".join(map(chr, [*range(0x0E34, 0x0E3B), *range(0x0E47, 0x0E4F)])))
_BREAKS = re.compile(r"['\".-]")
# A language is known by its script if a fifth of the letters, or twelve of them, are of that script.
_SCRIPTS = (
    ("ja", "[\u3040-\u30ff]"),
    ("zh", "[\u4e00-\u9fff]"),
    ("ko", "[\uac00-\ud7a3]"),
    ("th", "[\u0e00-\u0e7f]"),
    ("he", "[\u0590-\u05ff]"),
    ("el", "[\u0370-\u03ff]"),
    ("hi", "[\u0900-\u097f]"),
    ("bn", "[\u0980-\u09ff]"),
    ("ar", "[\u0600-\u06ff]"),
)
_FIRST_OF_SCRIPTS = "\u0370"
_PERSIAN = frozenset("\u067e\u0686\u06a9\u06af\u06cc")
Entry = tuple[int, int]
"""The number of a language, and that of a concept or PHRASE_FOLLOWS."""


class Concepts:
    """The words of all concepts, and the function words (such as "the" and "und") of the languages.

    The table has 2**n places; a place holds 16 bits of an entry's CRC-32 (`checks`), and the numbers of its language
    and its concept (`numbers`, two bytes). An entry with several meanings has several places. One word in ten
    thousand that is not in the table seems to be.
    """

    def __init__(
        self,
        *,
        names: Sequence[str],
        languages: Sequence[str],
        function_words: Mapping[str, Sequence[int]],
        checks: Sequence[int],
        numbers: Sequence[int],
    ) -> None:
        self.names = names
        self.languages = languages
        self._function_words = function_words
        self._checks = checks
        self._numbers = numbers
        self._mask = len(checks) - 1
        self._known: dict[int, tuple[int, ...]] = {}
        self._spoken_in: dict[int, tuple[int, ...]] = {}

    def language(self, words: Sequence[str]) -> str:
        """Return the code of the language that a prompt is probably written in; "en" if nothing tells.

        Its script decides, or else its function words; among languages with nearly as many of them, each word that
        belongs to a concept there counts half a function word.
        """
        by_script = _by_script("".join(words))
        if by_script is not None:
            return by_script
        distinct = list(dict.fromkeys(words))
        votes = Counter(number for word in distinct for number in self._function_words.get(word, ()))
        best, second = ([*sorted(votes.values(), reverse=True), 0, 0])[:2]
        if best > second + _CLEAR_LEAD:
            return self.languages[votes.most_common(1)[0][0]]
        named = Counter(number for word in distinct[:_MAX_VOTERS] for number in self._languages_of(word))
        scores = {n: votes[n] + named[n] / 2 for n in {*votes, *named} if votes[n] >= best - _CLEAR_LEAD}
        if not scores:
            return ENGLISH
        return self.languages[max(scores, key=lambda n: (scores[n], self.languages[n] == ENGLISH, -n))]

    def _languages_of(self, word: str) -> tuple[int, ...]:
        """Return the languages in which a word belongs to a concept; the answers for many words are kept."""
        key = hash(word)
        found = self._spoken_in.get(key)
        if found is None:
            found = tuple({language for language, _ in self._entries(word)})
            if len(self._spoken_in) >= _MAX_KNOWN:
                self._spoken_in.clear()
            self._spoken_in[key] = found
        return found

    def of(self, words: Sequence[str], language: str) -> frozenset[int]:
        """Return the numbers of the concepts that these words name in a language or in English."""
        found: set[int] = set()
        known = self._known
        for i, word in enumerate(words):
            concepts = known.get(hash((word, language)))
            if concepts is None:
                concepts = self._learn(word, language)
            if concepts:
                found.update(concepts)
                last = i + 1
                while PHRASE_FOLLOWS in concepts and last < len(words):
                    last += 1
                    concepts = self._spoken(self._at([crc32(_bytes(" ".join(words[i:last])))]), language)
                    found.update(concepts)
        found.discard(PHRASE_FOLLOWS)
        return frozenset(found)

    def rows(self, places: Sequence[Sequence[str]]) -> list[int]:
        """Return the rows of weights of the concepts that are named: a row for each place and concept.

        The first of the `PLACES` has all words of the prompt, by which its language is known.
        """
        language, size = self.language(places[0]), len(self.names)
        found: list[frozenset[int]] = []
        for place, words in enumerate(places):
            same = places.index(words)  # a prompt of one sentence has the same words in all places
            found.append(found[same] if same < place else self.of(words, language))
        return [place * size + n for place, concepts in enumerate(found) for n in sorted(concepts)]

    def _learn(self, word: str, language: str) -> tuple[int, ...]:
        """Return the concepts of a word in a language or in English, and keep the answer; the word is not kept."""
        concepts = self._spoken(self._entries(word), language)
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        self._known[hash((word, language))] = concepts
        return concepts

    def _spoken(self, entries: Sequence[Entry], language: str) -> tuple[int, ...]:
        if not entries:
            return ()
        return tuple([concept for number, concept in entries if self.languages[number] in (language, ENGLISH)])

    def _entries(self, word: str) -> list[Entry]:
        """Return the entries of a word and its beginnings, or else of its parts; of a run without spaces, all of it."""
        if unspaced(word):
            return self._contained(word)
        crcs, beginning = [crc32(_bytes(word))], 0
        for letter in word[:MAX_BEGINNING]:
            beginning = crc32(_bytes(letter), beginning)
            crcs.append(crc32(b"*", beginning))
        found = self._at(crcs)
        if not found:
            for part in _BREAKS.split(word)[:_MAX_PARTS]:
                if 2 < len(part) < len(word):
                    found += self._entries(part)
        return found

    def _contained(self, run: str) -> list[Entry]:
        crcs: list[int] = []
        characters = [_bytes(character) for character in run]
        size = MAX_THAI if run[0] <= _LAST_THAI else MAX_UNSPACED
        for start in range(len(characters)):
            if run[start] in _THAI_MARKS:  # no word begins with one
                continue
            crc = 0
            for character in characters[start : start + size]:
                crc = crc32(character, crc)
                crcs.append(crc)
        return self._at(crcs)

    def _at(self, crcs: Sequence[int]) -> list[Entry]:
        found = []
        numbers, checks, mask = self._numbers, self._checks, self._mask
        for crc in crcs:
            place = crc & mask
            while (number := numbers[2 * place]) != EMPTY:
                if checks[place] == crc >> 16:
                    found.append((number, numbers[2 * place + 1]))
                place = (place + 1) & mask
        return found


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _by_script(text: str) -> str | None:
    if text.isascii() or max(text) < _FIRST_OF_SCRIPTS:
        return None
    for language, letters in _SCRIPTS:
        count = len(compiled(letters).findall(text))
        if count >= 12 or (count * 5 >= len(text) > 0 and count):
            return "fa" if language == "ar" and not _PERSIAN.isdisjoint(text) else language
    return None
