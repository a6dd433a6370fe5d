"""Choose among roles that the configuration adds, by their purposes and examples; nothing is trained.

Each word of a role's purpose and examples weighs as much as it is likelier there than in prompts at large (naive
Bayes). How likely a word is in prompts at large comes from a packaged table. docs/analysis.md has the figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from functools import cache, partial

from msgspec import Struct

from llm_server.orchestration.routing.text_features import BEGINNING, CONCEPT, kind_of, text_features
from llm_server.orchestration.routing.tokens import unspaced
from llm_server.orchestration.routing.word_rates import WordRates, load

Features = Callable[[str], Set[str]]
"""Returns the features of a text; descriptions and prompts must be read by the same function."""

SHOWN_WORDS = 4
SHOWN_EXAMPLE_CHARS = 80

# How much a feature of each kind counts, and how many prompts at large its rate is mixed with.
_FACTORS = {"word": 1.0, "beginning": 0.5, "concept": 4.0}
_PRIOR_PROMPTS = 10.0
_PRIOR_PROMPTS_OF_CONCEPT = 2.0
# What several examples share counts more, and what many prompts have (such as "the") less; concepts are not damped.
_SHARED = 1.5
_DAMPED_RATE = 0.01
# Short words and hiragana are mostly grammar. The table knows few prompts in most languages, so they get this rate.
_MIN_RATE_OF_GRAMMAR = 0.02
_MAX_GRAMMAR_LETTERS = 3
# Long prompts have more features by chance: totals are divided by the root of their number, plus this.
_MORE_FEATURES = 4.0
_MIN_DEVIATION = 0.05
# An example with more features than this counts less, so that a page does not outweigh the other examples.
_FEATURES_OF_EXAMPLE = 60.0
# The logarithm of a role's odds is slope * distance + level; both depend on the logarithm of the number of examples.
# Fitted on simulated roles, with and without concepts; see docs/analysis.md.
_SLOPE = {False: (0.33, 0.025), True: (0.8, 0.055)}
_LEVEL = {False: (-1.62, -0.03), True: (-1.9, -0.105)}
# Beyond this the logarithm of the odds grows slowly, because single rare words do; _ALIKE if the prompt is almost an
# example.
_BEND = {False: (0.9, 0.45), True: (1.4, 0.6)}
_BEYOND = 0.2
_ALIKE = 4.0
_MIN_ALIKE_SHARE = 0.5
_ALL_FIELDS = 11
_ROLES_AS_LIKELY_AS_ALL_FIELDS = 8
_NEITHER = 0.02
_MIN_SHARE = 0.08


class Description(Struct, frozen=True, kw_only=True):
    """What a role's entry in the configuration says about the prompts that the role is for."""

    name: str
    purpose: str
    examples: tuple[str, ...] = ()


class Score(Struct, frozen=True, kw_only=True):
    """How strongly a prompt speaks for a role.

    `odds` are those of this role against everything else, if one prompt in six is for it. `spoken` is whether any of
    the role's words is in the prompt.
    """

    role: str
    odds: float
    spoken: bool


class _Role(Struct, frozen=True, kw_only=True):
    name: str
    texts: tuple[tuple[str, Set[str]], ...]
    weights: Mapping[str, float]
    mean: float
    deviation: float
    slope: float
    level: float
    bend: float


class OwnRoles:
    """The roles of a configuration that prompts are compared with; made once, and never changed."""

    def __init__(self, roles: Sequence[_Role]) -> None:
        self._roles = roles
        self._index: dict[str, list[tuple[int, float]]] = {}
        for number, role in enumerate(roles):
            for feature, weight in role.weights.items():
                self._index.setdefault(feature, []).append((number, weight))

    @classmethod
    def of(
        cls,
        descriptions: Iterable[Description],
        *,
        features: Features | None = None,
        rates: WordRates | None = None,
    ) -> OwnRoles:
        """Read the descriptions of roles; `rates` are those of the package by default."""
        found = list(descriptions)
        if not found:
            return cls(())
        known = rates or load()
        rate_of = cache(partial(_rate, known))
        return cls([_read(each, features or text_features, rate_of, known.features) for each in found])

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(role.name for role in self._roles)

    def scores(self, features: Set[str], among: Collection[str] | None = None) -> list[Score]:
        """Return a score for each role, or for those `among` them, in the order of the configuration.

        `features` are those of the prompt.
        """
        totals = [0.0] * len(self._roles)
        for feature in sorted(features & self._index.keys()):  # sorted, so that sums do not depend on the hash seed
            for number, weight in self._index[feature]:
                totals[number] += weight
        root = math.sqrt(len(features) + _MORE_FEATURES)
        return [
            Score(role=role.name, odds=_odds(role, total / root, features), spoken=total > 0)
            for role, total in zip(self._roles, totals, strict=True)
            if among is None or role.name in among
        ]

    def reason(self, role: str, features: Set[str]) -> str:
        """Say which text of a role a prompt with these features is most like, and by which words; "" if by none.

        The reason quotes the role's description, never the prompt.
        """
        return next((_reason(known, features) for known in self._roles if known.name == role), "")


def joined(packaged: Mapping[str, float], own: Sequence[Score], *, fields: int) -> dict[str, float]:
    """Return the likelihood of each role, best first.

    `packaged` are the packaged roles to choose from with their likelihoods if the prompt is for one of them; `fields`
    is the number of fields of work that they cover. Without packaged roles the choice is among `own`. Beside packaged
    roles, own roles for which little or nothing speaks are left out, so that they do not make a clear decision unsure.
    """
    if packaged:
        own = [score for score in own if score.spoken]
    others = fields / _ALL_FIELDS + _NEITHER * len(own)
    crowd = 1 + len(own) / _ROLES_AS_LIKELY_AS_ALL_FIELDS if packaged else 1.0
    odds = {score.role: score.odds / crowd for score in own}
    odds = {role: odd for role, odd in odds.items() if odd >= _MIN_SHARE * others}
    total = others + sum(odds.values())
    shares = {role: odd / total for role, odd in odds.items()}
    for role, likelihood in packaged.items():
        shares[role] = shares.get(role, 0.0) + likelihood * others / total
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _read(
    description: Description, features: Features, rate_of: Callable[[str], float], features_of_prompt: float
) -> _Role:
    name = description.name.removesuffix("-Agent").replace("-", " ")
    of_purpose = features(f"{name}. {description.purpose}")
    of_examples = [features(example) for example in description.examples]
    counts = _counts(of_examples)
    weigh = cache(partial(_weight, len(of_examples)))  # few of the combinations differ
    has_concepts = False
    weights: dict[str, float] = {}
    expected: list[float] = []
    spread: list[float] = []
    for feature in of_purpose | counts.keys():
        kind, rate = kind_of(feature), rate_of(feature)
        has_concepts = has_concepts or kind == "concept"
        weight = weigh(kind, rate, feature in of_purpose, counts.get(feature, 0.0))
        if weight > 0:
            weights[feature] = weight
            expected.append(rate * weight)
            spread.append(rate * weight * weight)
    texts = zip((description.purpose, *description.examples), (of_purpose, *of_examples), strict=True)
    return _Role(
        name=description.name,
        texts=tuple(texts),
        weights=weights,
        mean=math.fsum(expected) / math.sqrt(features_of_prompt),
        deviation=math.sqrt(math.fsum(spread) / features_of_prompt + _MIN_DEVIATION**2),
        slope=_with_examples(_SLOPE, has_concepts, len(of_examples)),
        level=_with_examples(_LEVEL, has_concepts, len(of_examples)),
        bend=_with_examples(_BEND, has_concepts, len(of_examples)),
    )


def _rate(rates: WordRates, feature: str) -> float:
    rate = rates.rate(feature)
    if rate >= _MIN_RATE_OF_GRAMMAR or feature[0] in (CONCEPT, BEGINNING):
        return rate
    return _MIN_RATE_OF_GRAMMAR if _is_grammar(feature) else rate


def _is_grammar(word: str) -> bool:
    if unspaced(word):
        return all("\u3040" <= character <= "\u309f" for character in word)
    return len(word) <= _MAX_GRAMMAR_LETTERS


def _counts(examples: Iterable[Set[str]]) -> dict[str, float]:
    """Return in how many examples each feature is; a long example counts less than 1."""
    counts: dict[str, float] = {}
    for found in examples:
        share = math.sqrt(_FEATURES_OF_EXAMPLE / len(found)) if len(found) > _FEATURES_OF_EXAMPLE else 1.0
        for feature in found:
            counts[feature] = counts.get(feature, 0.0) + share
    return counts


def _weight(texts: int, kind: str, rate: float, in_purpose: bool, count: float) -> float:
    """Return the weight of a feature that is in `count` of a role's examples, and perhaps in its purpose."""
    prior = _PRIOR_PROMPTS_OF_CONCEPT if kind == "concept" else _PRIOR_PROMPTS
    weight = _likelier(1.0, 1, rate, prior) if in_purpose else 0.0
    if count:
        weight += (_SHARED if count > 1 else 1.0) * _likelier(count, texts, rate, prior)
    return weight * _FACTORS[kind] * (1.0 if kind == "concept" else math.exp(-rate / _DAMPED_RATE))


def _likelier(count: float, texts: int, rate: float, prior: float) -> float:
    """Return by how much (as a logarithm) a feature is likelier in the texts than at large; 0 if it is not likelier."""
    return max(0.0, math.log((count + prior * rate) / ((texts + prior) * rate)))


def _with_examples(figures: Mapping[bool, tuple[float, float]], has_concepts: bool, examples: int) -> float:
    without, more = figures[has_concepts]
    return without + more * math.log1p(examples)


def _odds(role: _Role, total: float, features: Set[str]) -> float:
    logit = role.slope * (total - role.mean) / role.deviation + role.level
    if logit > role.bend:
        logit = role.bend + _BEYOND * math.log1p(logit - role.bend)
        if any(_is_alike(features, found) for _, found in role.texts[1:]):
            logit = max(logit, _ALIKE)
    return math.exp(logit)


def _is_alike(first: Set[str], second: Set[str]) -> bool:
    """Return whether at least half of the features of two texts are in both."""
    a, b = len(first), len(second)
    if a < _MIN_ALIKE_SHARE * b or b < _MIN_ALIKE_SHARE * a:
        return False
    common = len(first & second)
    return common >= _MIN_ALIKE_SHARE * (a + b - common)


def _reason(role: _Role, features: Set[str]) -> str:
    hits = features & role.weights.keys()
    if not hits:
        return ""
    weighed = [(math.fsum(role.weights[hit] for hit in hits & found), text, found) for text, found in role.texts]
    most, text, found = max(weighed, key=lambda each: each[0])
    shown = _shown(hits & found, role.weights)
    if text is role.texts[0][0] and most == weighed[0][0]:
        return f"like its purpose ({shown})"
    short = " ".join(text.split())
    short = short if len(short) <= SHOWN_EXAMPLE_CHARS else short[: SHOWN_EXAMPLE_CHARS - 1] + "…"
    return f'like its example "{short}" ({shown})'


def _shown(hits: Iterable[str], weights: Mapping[str, float]) -> str:
    """Return the words and concepts with the most weight, without beginnings of words that are shown."""
    words: list[str] = []
    concepts: list[str] = []
    for hit in sorted(hits, key=lambda hit: (-weights[hit], hit)):
        kind = kind_of(hit)
        if kind == "concept":
            concepts.append(hit[1:])
        elif kind == "beginning" and not any(word.startswith(hit[1:]) for word in words):
            words.append(f"{hit[1:]}…")
        elif kind == "word":
            words = [w for w in words if not (w.endswith("…") and hit.startswith(w.rstrip("…")))] + [hit]
    parts = [f"words: {', '.join(words[:SHOWN_WORDS])}"] if words else []
    parts += [f"concepts: {', '.join(concepts[:SHOWN_WORDS])}"] if concepts else []
    return "; ".join(parts)
