"""Read the features of a text that are compared with the descriptions of roles: words, and beginnings of words."""

from __future__ import annotations

from collections.abc import Set

from llm_server.orchestration.routing import tokens
from llm_server.orchestration.routing.signals import excerpt
from llm_server.orchestration.routing.weights import load

BEGINNING, CONCEPT = "~", "#"
"""The marks of two kinds of features: `~cont` is the beginning of a word, `#law` a concept.

All other features are words.
"""
MAX_WORDS = 220


def text_features(text: str) -> Set[str]:
    """Return the features of a text: words, beginnings of words of 4 and 6 letters, and the concepts that it names.

    Scripts without spaces between words are read as pairs of characters. Numbers are left out. Of a long text, the
    first 1,000 and the last 500 characters are read.
    """
    found = [word for word in tokens.words(excerpt(text).replace("’", "'")) if not word.isdigit()]
    words = tokens.pieces(found)[:MAX_WORDS]
    features = set(words)
    spaced = [word for word in found if not tokens.unspaced(word)][:MAX_WORDS]
    features.update([BEGINNING + word[:4] for word in spaced if len(word) >= 4])
    features.update([BEGINNING + word[:6] for word in spaced if len(word) > 6])
    concepts = load().concepts
    named = concepts.of(found, concepts.language(found))
    features.update([CONCEPT + concepts.names[number] for number in named])
    return features


def kind_of(feature: str) -> str:
    if feature[0] == BEGINNING:
        return "beginning"
    if feature[0] == CONCEPT:
        return "concept"
    return "word"
