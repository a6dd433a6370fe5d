"""Read the features of a text that are compared with the descriptions of roles: words, and beginnings of words."""

from __future__ import annotations

import re
from collections.abc import Set

BEGINNING, KIND = "~", "#"
"""The marks of two kinds of features: `~cont` is the beginning of a word, `#law` a kind of thing that a text is about.

A feature with a space is a pair of words; all other features are words.
"""
MAX_WORDS = 220
HEAD_CHARS, TAIL_CHARS = 1_000, 500
_TOKEN = re.compile(r"[^\W_]+(?:['+#.][^\W_]+|[+#]+)*")


def text_features(text: str) -> Set[str]:
    """Return the features of a text: words, and beginnings of words of 4 and 6 letters.

    Scripts without spaces between words are read as pairs of characters. Numbers are left out. Of a long text, the
    first 1,000 and the last 500 characters are read.
    """
    if len(text) > HEAD_CHARS + TAIL_CHARS:
        text = f"{text[:HEAD_CHARS]}\n{text[-TAIL_CHARS:]}"
    tokens = _TOKEN.findall(text.lower().replace("’", "'"))
    spaced = [token for token in tokens if not token.isdigit()]
    words = spaced
    if not text.isascii():
        words = [part for token in spaced for part in _parts(token)]
        spaced = [token for token in spaced if not is_unspaced(token[0])]
    words, spaced = words[:MAX_WORDS], spaced[:MAX_WORDS]
    features = set(words)
    features.update([BEGINNING + word[:4] for word in spaced if len(word) >= 4])
    features.update([BEGINNING + word[:6] for word in spaced if len(word) > 6])
    return features


def _parts(token: str) -> list[str]:
    """Return the pairs of characters of a token without spaces between its words; any other token whole."""
    if len(token) < 2 or not is_unspaced(token[0]):
        return [token]
    return [token[i : i + 2] for i in range(len(token) - 1)]


def is_unspaced(character: str) -> bool:
    """Return whether a character belongs to a script without spaces between words (not Hangul)."""
    return "\u0e00" <= character <= "\u0e7f" or (character >= "\u2e80" and not "\uac00" <= character <= "\ud7a3")


def kind_of(feature: str) -> str:
    if feature[0] == BEGINNING:
        return "beginning"
    if feature[0] == KIND:
        return "kind"
    return "pair" if " " in feature else "word"
