"""Split a text into words: one way for all languages, with names such as c++ and node.js whole."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache

# Marks above, below and beside letters that \w does not match: without them, words of Hindi, Thai and others break up.
_MARKS = (
    "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0903\u093a-\u094f\u0962\u0963"
    "\u0981-\u0983\u09bc-\u09cd\u0e31-\u0e4e\u200c"
)
_FIRST_MARK = "\u0300"
_LETTERS = rf"(?:[^\W_]+|[{_MARKS}]+)+"
# Thai, Chinese and Japanese have no spaces between words.
_UNSPACED = r"[\u0e00-\u0e7f\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
_FIRST_UNSPACED = "\u0e00"
# Sorting hundreds of marks on one letter takes milliseconds.
_MANY_MARKS = r"[\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f]"


def _token(letters: str) -> str:
    return rf"{letters}(?:['\"+#.-]{letters}|[+#]+)*"


_ASCII_TOKEN = re.compile(_token("[a-z0-9]+"))


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    """Compile a pattern that few prompts need, at the first of them: thousands of letters take a millisecond."""
    return re.compile(pattern)


def words(text: str) -> list[str]:
    """Return the words of a text in lower case; a run of a script without spaces is one word."""
    if text.isascii():
        return _ASCII_TOKEN.findall(text.lower())
    if max(text) >= _FIRST_MARK:
        text = compiled(f"({_MANY_MARKS}{{16}}){_MANY_MARKS}+").sub(r"\1", text)
        text = unicodedata.normalize("NFC", text)
        text = compiled(f"{_UNSPACED}+").sub(r" \g<0> ", text)
    return compiled(_token(_LETTERS)).findall(text.replace("İ", "i").lower())


def unspaced(word: str) -> bool:
    """Return whether a word is a run of a script without spaces between words."""
    return word >= _FIRST_UNSPACED and compiled(_UNSPACED).match(word) is not None


def pieces(found: Sequence[str]) -> list[str]:
    """Return the words, and in the place of a run without spaces its pairs of neighbouring characters."""
    if not found or max(found) < _FIRST_UNSPACED:
        return list(found)
    split = []
    for word in found:
        if not unspaced(word) or len(word) == 1:
            split.append(word)
        else:
            split += [word[i : i + 2] for i in range(len(word) - 1)]
    return split
