"""Choose the role within a field of work: a specialist whose words the request names, or the field's first role."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llm_server.orchestration.routing import lexicon
from llm_server.orchestration.routing.signals import Signals

_MAX_PHRASE = 4


def named_specialists(signals: Signals) -> dict[str, str]:
    """Return the specialists that the request or its persona names, each with the first of their words."""
    found: dict[str, str] = {}
    for words in (signals.title, signals.head):
        for phrase in _phrases(words):
            role = _ROLE_OF.get(phrase)
            if role is not None:
                found.setdefault(role, phrase.replace("_", " "))
    return found


def _phrases(words: Sequence[str]) -> Iterator[str]:
    """Yield the words, and the runs of two to four words joined by `_`, the form in which `SPECIALISTS` has them."""
    for i, word in enumerate(words):
        yield word
        if word in _FIRST_WORDS:
            for size in range(2, _MAX_PHRASE + 1):
                yield "_".join(words[i : i + size])


_ROLE_OF = {phrase: role for role, phrases in lexicon.SPECIALISTS.items() for phrase in phrases.split()}
_FIRST_WORDS = {phrase.partition("_")[0] for phrase in _ROLE_OF if "_" in phrase}
