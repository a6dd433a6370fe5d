"""Collect weighted evidence for each role from the signals of a prompt, and estimate the prompt's complexity."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from msgspec import Struct

from llm_server.orchestration.routing import lexicon
from llm_server.orchestration.routing.clauses import STEP_VERBS
from llm_server.orchestration.routing.features import spread
from llm_server.orchestration.routing.signals import Signals, phrases

# The weight of a word is multiplied by the factor of its place in the prompt.
TITLE, HEAD, TOPIC, BODY = 1.5, 1.0, 0.5, 0.3
REPETITION_FACTOR = 0.65
"""Each further piece of evidence for a role weighs this much of the piece before it."""
PROFILE_LEAN = {"Developer": lexicon.FAST, "Productivity": lexicon.WRITING, "General": lexicon.CHAT}


class Evidence(Struct, frozen=True):
    """A finding in a prompt, and how strongly it speaks for a role."""

    role: str
    weight: float
    what: str


def gather(signals: Signals, profile: str | None) -> list[Evidence]:
    """Return all evidence in a prompt, strongest first.

    Each further piece of evidence for the same role weighs less, so that repetition alone cannot decide.
    """
    found = [*_from_words(signals), *_from_structure(signals), *_from_steps(signals)]
    if profile in PROFILE_LEAN:
        found.append(Evidence(PROFILE_LEAN[profile], 0.5, f"profile {profile}"))
    found.sort(key=lambda e: (-e.weight, e.role, e.what))
    share: dict[str, float] = defaultdict(lambda: 1.0)
    weighed = []
    for evidence in found:
        weighed.append(Evidence(evidence.role, evidence.weight * share[evidence.role], evidence.what))
        share[evidence.role] *= REPETITION_FACTOR
    return weighed


def totals(found: Iterable[Evidence]) -> dict[str, float]:
    """Return the sum of the weights for each role."""
    sums: dict[str, float] = defaultdict(float)
    for evidence in found:
        sums[evidence.role] += evidence.weight
    return dict(sums)


def effort(signals: Signals) -> float:
    """Return how much better a strong engine would answer, as a logit.

    It is computed from length, commas, repetition, hard words, code, steps and lists.

    Length, commas and repeated words together rank unseen questions better than length alone.
    """
    length, commas, repetition = spread(signals.text)
    hard = sum(phrase in lexicon.HARD for phrase in {*signals.head, *signals.title})
    has_code = signals.fence or signals.code_lines > 3
    return (
        -3.5
        + 0.55 * min(length, 6.4)
        + 0.5 * min(commas, 3.0)
        + 1.9 * min(repetition, 1.0)
        + 0.9 * min(hard, 3)
        + (0.5 if has_code else 0.0)
        + 0.1 * min(len(signals.steps), 5)
        + 0.1 * min(signals.items, 6)
    )


def _from_words(signals: Signals) -> Iterator[Evidence]:
    """Yield evidence for the words of the lexicon; each word counts once, at the place where it weighs most."""
    seen: set[str] = set()
    for words, place in (
        (signals.title, TITLE),
        (signals.head, HEAD),
        (signals.topic, TOPIC),
        (signals.body, BODY),
    ):
        for phrase in phrases(words):
            if phrase not in seen and phrase in _LEXICON:
                seen.add(phrase)
                for role, weight in _LEXICON[phrase]:
                    yield Evidence(role, weight * place, phrase.replace("_", " "))


def _from_structure(s: Signals) -> Iterator[Evidence]:
    """Yield evidence for the form of the prompt; each rule is a role, a weight, a reason and a condition."""
    rules = (
        (lexicon.CHAT, 1.0, "always possible", True),
        (lexicon.CHAT, 1.0, "begins as a question", s.question),
        (lexicon.CHAT, 0.6, "ends with a question mark", s.question_mark),
        (lexicon.CHAT, 0.8, "short", s.words <= 12),
        (lexicon.TEACHER, 0.6, "begins as a question", s.question),
        (lexicon.TEACHER, 2.0, "mathematical notation", s.maths),
        (lexicon.TEACHER, 1.2, "numbers and a question", s.numbers >= 2 and s.question_mark),
        (lexicon.FAST, 2.0, "code fence", s.fence),
        (lexicon.FAST, 2.0, "lines of code", s.code_lines >= 2),
        (lexicon.FAST, 1.0, "a line of code", s.code_lines == 1),
        (lexicon.FAST, 1.2, "names as in code", s.code_names > 0),
        (lexicon.WRITING, 1.0, "asks to write", bool(_WRITES & set(s.steps))),
    )
    return (Evidence(role, weight, what) for role, weight, what, holds in rules if holds)


def _from_steps(s: Signals) -> Iterator[Evidence]:
    """Yield evidence for a plan: several steps, words such as "then", several specialities.

    The evidence counts less if the prompt gives the engine a persona, because a list may then name the persona's
    duties.
    """
    steps, groups = len(s.steps), min(len(s.groups - {"errand"}), 4)
    factor = 0.4 if s.title else 1.0
    if steps >= 2:
        weight = min(1.2 * steps - 1.4, 4.5) + min(0.6 * s.sequence, 1.2) + 1.2 * max(groups - 1, 0)
        what = f"{steps} steps: {', '.join(s.steps[:4])}" + (f" in {groups} specialities" if groups > 1 else "")
        yield Evidence(lexicon.PLANNER, factor * weight, what)
    if s.numbered >= 3:
        yield Evidence(lexicon.PLANNER, factor * 2.0, "numbered list")


_WRITES = frozenset(STEP_VERBS["write"].split()) - {"email", "send", "share", "post"}
_LEXICON: dict[str, list[tuple[str, float]]] = defaultdict(list)
for _role, _by_weight in lexicon.WORDS.items():
    for _weight, _phrases in _by_weight.items():
        for _phrase in _phrases.split():
            _LEXICON[_phrase].append((_role, _weight))
