"""Analyse a prompt: choose mode and role by rules over words and structure, and by tables trained on examples.

The analysis uses no network and no store. A role or mode that the caller names is always used; text inside the prompt
cannot set the role, mode, engine or limits.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from msgspec import Struct
from msgspec.structs import replace

from llm_server.orchestration.domain.engines.catalog import Catalog
from llm_server.orchestration.domain.status import Mode
from llm_server.orchestration.routing import lexicon
from llm_server.orchestration.routing.evidence import Evidence, effort, gather, totals
from llm_server.orchestration.routing.features import form
from llm_server.orchestration.routing.own_roles import Description, OwnRoles, joined
from llm_server.orchestration.routing.signals import Signals, read
from llm_server.orchestration.routing.text_features import text_features
from llm_server.orchestration.routing.weights import Weights, load

# The roles of each field of work. The first one is used when the evidence for a specialist is too weak.
FIELDS: dict[str, tuple[str, ...]] = {
    "talk": (lexicon.CHAT,),
    "code": (lexicon.FAST, lexicon.DEEP, lexicon.DEBUG, lexicon.ARCHITECT),
    "text": (lexicon.WRITING, lexicon.EMAIL, lexicon.DOCUMENT),
    "research": (lexicon.RESEARCH,),
    "teaching": (lexicon.TEACHER,),
    "quality": (lexicon.QA,),
    "money": (lexicon.FINANCIAL,),
    "tables": (lexicon.SPREADSHEET,),
    "pictures": (lexicon.VISION,),
    "training": (lexicon.TRAINER,),
    "plan": (lexicon.PLANNER,),
}
MODES = {"talk": Mode.CHAT, "plan": Mode.PLAN}
# A specialist within a field needs evidence of at least this weight.
MIN_SPECIALIST_WEIGHT = 2.0
# Only what the caller chose has the confidence 1.
MAX_CONFIDENCE = 0.999
# From this complexity on, coding tasks go to Deep-Coder-Agent.
MIN_DEEP_COMPLEXITY = 0.5


class Analysis(Struct, frozen=True, kw_only=True):
    """The mode and role chosen for a task, and the reasons; all figures are 0..1.

    `confidence` is the likelihood that role and mode suit the prompt; 1.0 if the caller chose them. `complexity` is how
    much better a strong engine would answer. `multi_step` is the likelihood that the task has several steps.
    `alternatives` are the next best roles with their likelihood, best first.
    """

    mode: Mode
    role: str
    complexity: float
    multi_step: float
    confidence: float
    reasons: tuple[str, ...]
    alternatives: tuple[tuple[str, float], ...] = ()


def analyse(
    prompt: str,
    *,
    role: str | None = None,
    profile: str | None = None,
    mode: Mode | None = None,
    roles: Collection[str] | None = None,
    own: OwnRoles | None = None,
) -> Analysis:
    """Choose mode and role for a prompt; raises no exception for any text.

    `roles` are the roles to choose from, preferred ones first; None means all roles of `FIELDS`. Those of them that the
    package does not know can be chosen by the prompt if `own` has them. `role` and `mode` are the caller's choice and
    are used unchanged. Of a long prompt, the first 1,000 and the last 500 characters are read.
    """
    signals = read(prompt)
    weights = load()
    offered = _ordered(roles)
    if role is not None:
        follows = Mode.CHAT if role == lexicon.CHAT else Mode.AGENT
        return _chosen(signals, weights, mode or follows, role, "role and mode" if mode else "role")
    if mode is Mode.PLAN:
        return _chosen(signals, weights, mode, lexicon.PLANNER, "mode")
    if mode is Mode.CHAT:
        return _chosen(signals, weights, mode, lexicon.CHAT if lexicon.CHAT in offered else offered[0], "mode")
    if own is None or set(own.names).isdisjoint(offered):
        return _weighed(signals, weights, profile, mode, offered)
    return _weighed_with_own(signals, weights, profile, mode, offered, own)


def own_roles(catalog: Catalog) -> OwnRoles:
    """Return the roles that prompts are compared with: those that the package does not know, and those with examples.

    The planner is left out, because it is chosen by the mode.
    """
    return OwnRoles.of(
        Description(name=name, purpose=role.purpose, examples=role.examples)
        for name, role in catalog.roles.items()
        if (name not in _FIELD_OF or role.examples) and name != catalog.defaults.planner
    )


def field_totals(by_role: Mapping[str, float]) -> dict[str, float]:
    """Return the rules' score for each field: the score of its strongest role plus half the sum of its other roles."""
    totals_of = {}
    for field, members in FIELDS.items():
        known = [by_role.get(member, 0.0) for member in members]
        totals_of[field] = max(known) + 0.5 * (sum(known) - max(known))
    return totals_of


def complexity(signals: Signals, weights: Weights) -> float:
    """Return how much better a strong engine would answer, 0..1.

    Trained tables decide for exam questions and word problems, rules for all other prompts.
    """
    trained = weights.expert(signals.text)
    return round(logistic(effort(signals) if trained is None else trained), 4)


def logistic(z: float) -> float:
    """Return the probability that belongs to a logit; logits beyond ±30 are cut to ±30."""
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, z))))


def _ordered(roles: Collection[str] | None) -> list[str]:
    if not roles:
        return [role for members in FIELDS.values() for role in members]
    return sorted(roles) if isinstance(roles, (set, frozenset)) else list(roles)


def _chosen(signals: Signals, weights: Weights, mode: Mode, role: str, what: str) -> Analysis:
    return Analysis(
        mode=mode,
        role=role,
        complexity=complexity(signals, weights),
        multi_step=round(logistic(weights.steps_logit(signals)), 4),
        confidence=1.0,
        reasons=(f"{what} chosen by the caller",),
    )


def _weighed(
    signals: Signals, weights: Weights, profile: str | None, mode: Mode | None, offered: list[str]
) -> Analysis:
    found = gather(signals, profile)
    by_role = totals(found)
    steps = weights.steps_logit(signals)
    from_words = weights.word_scores(signals)
    from_form = weights.form_scores(field_totals(by_role) | form(signals, steps))
    scores = {field: from_form[field] + from_words[field] for field in FIELDS}
    fields = _ranked(scores, offered, alone=mode is Mode.AGENT)
    best, *others = fields
    difficulty = complexity(signals, weights)
    role = _member(best, by_role, difficulty, offered)
    confidence = _confidence(list(fields.values()), weights)
    rest = {_member(field, by_role, difficulty, offered): fields[field] for field in others[:3]}
    return Analysis(
        mode=mode or MODES.get(best, Mode.AGENT),
        role=role,
        complexity=difficulty,
        multi_step=round(logistic(steps), 4),
        confidence=confidence,
        reasons=(*_reasons(found, best, role, difficulty), *_trained_reason(from_words, list(fields))),
        alternatives=_shares(rest, of=1 - confidence, without=role),
    )


def _weighed_with_own(
    signals: Signals, weights: Weights, profile: str | None, mode: Mode | None, offered: list[str], own: OwnRoles
) -> Analysis:
    """Choose among packaged roles and roles of the configuration; the likeliest one wins."""
    packaged = [role for role in offered if role in _FIELD_OF]
    fields = {_FIELD_OF[role] for role in packaged} - (MODES.keys() if mode is Mode.AGENT else set())
    usual = _weighed(signals, weights, profile, mode, packaged or offered)
    features = text_features(signals.text)
    scores = own.scores(features, among=offered)
    beside = {usual.role: usual.confidence, **dict(usual.alternatives)} if fields else {}
    joint = joined(beside, scores, fields=len(fields))
    shares = {role: min(round(share, 3), MAX_CONFIDENCE) for role, share in joint.items()}
    spoken = {score.role for score in scores if score.spoken}
    best = next((role for role in shares if role in beside or role in spoken), offered[0])
    chosen = replace(
        usual,
        role=best,
        confidence=shares.get(best, 0.0),
        alternatives=tuple((role, share) for role, share in shares.items() if role != best and share)[:3],
    )
    if best in spoken and best != (usual.role if fields else ""):
        follows = MODES.get(_FIELD_OF.get(best, ""), Mode.AGENT)
        return replace(chosen, mode=mode or follows, reasons=_own_reasons(own.reason(best, features), shares, best))
    if fields:
        return chosen
    alone = "no other role is offered" if len(scores) == 1 else "no word speaks for a role: the first one is used"
    return replace(chosen, mode=mode or Mode.CHAT, reasons=(alone,))


def _own_reasons(reason: str, shares: Mapping[str, float], best: str) -> tuple[str, ...]:
    second = next((role for role in shares if role != best), None)
    likelier = (f"likelier ({shares[best]:.2f}) than {second} ({shares[second]:.2f})",) if second else ()
    return (reason, *likelier)


def _ranked(scores: Mapping[str, float], offered: list[str], *, alone: bool) -> dict[str, float]:
    """Return the fields to choose from with their scores, best first.

    A field is possible if one of its roles is offered; "talk" always is. With `alone` (Agent mode), "talk" and "plan"
    are left out.
    """
    excluded = MODES if alone else ()
    possible = {
        field: score
        for field, score in scores.items()
        if field not in excluded and (field == "talk" or not _MEMBERS[field].isdisjoint(offered))
    }
    return dict(sorted(possible.items(), key=lambda item: -item[1])) or {"talk": 0.0}


def _member(field: str, by_role: Mapping[str, float], difficulty: float, offered: list[str]) -> str:
    """Return the role that does the work of a field.

    If no role of the field is offered, return the offered role with the most evidence.
    """
    members = [member for member in FIELDS[field] if member in offered]
    if not members:
        talkers = [role for role in offered if role != lexicon.PLANNER] or offered
        return max(talkers, key=lambda role: by_role.get(role, 0.0))
    specialists = [role for role in members[1:] if by_role.get(role, 0.0) >= MIN_SPECIALIST_WEIGHT]
    if specialists:
        return max(specialists, key=lambda role: by_role[role])
    if lexicon.DEEP in members and difficulty >= MIN_DEEP_COMPLEXITY:
        return lexicon.DEEP
    return members[0]


def _confidence(ranked: list[float], weights: Weights) -> float:
    """Return the likelihood that role and mode suit: Platt's logistic function of the two best scores' distance."""
    margin = ranked[0] - ranked[1] if len(ranked) > 1 else ranked[0]
    slope, bias = weights.confidence
    return round(logistic(slope * margin + bias), 3)


def _reasons(found: list[Evidence], field: str, role: str, difficulty: float) -> tuple[str, ...]:
    """Return the four strongest pieces of evidence for the field and, for a coder, the complexity that chose it."""
    strongest = [evidence for evidence in found if evidence.role in FIELDS[field]][:4]
    reasons = [f"{e.what} (+{e.weight:.1f} {e.role.removesuffix('-Agent')})" for e in strongest]
    if role in (lexicon.FAST, lexicon.DEEP):
        reasons.append(f"complexity {difficulty:.2f} (Deep-Coder from {MIN_DEEP_COMPLEXITY:.2f})")
    if role not in FIELDS[field]:
        reasons.append(f"no role for {field} is offered")
    return tuple(reasons)


def _trained_reason(from_words: Mapping[str, float], fields: list[str]) -> tuple[str, ...]:
    """Say by how much the trained tables prefer the best field to the second one."""
    if len(fields) < 2:
        return ()
    best, second = fields[:2]
    margin = round(from_words[best] - from_words[second], 1) + 0.0  # adding 0.0 turns -0.0 into 0.0
    return (f"wording as in the training examples ({margin:+.1f} {best} over {second})",)


def _shares(scores: Mapping[str, float], *, of: float, without: str) -> tuple[tuple[str, float], ...]:
    """Divide the likelihood `of` among the roles that were not chosen, in proportion to the exponentials of scores."""
    best = max(scores.values(), default=0.0)
    odds = {role: math.exp(score - best) for role, score in scores.items() if role != without}
    total = sum(odds.values())
    return tuple((role, round(of * odd / total, 3)) for role, odd in odds.items())


_FIELD_OF = {member: field for field, members in FIELDS.items() for member in members}
_MEMBERS = {field: frozenset(members) for field, members in FIELDS.items()}
