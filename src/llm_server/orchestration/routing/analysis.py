"""Analyse a prompt: choose mode and role by tables trained on examples, from form, concepts and words.

The analysis uses no network and no store. A role or mode that the caller names is always used; text inside the prompt
cannot set the role, mode, engine or limits.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from llm_server.orchestration.domain.status import Mode
from llm_server.orchestration.routing import lexicon
from llm_server.orchestration.routing.own_roles import Description, OwnRoles, joined
from llm_server.orchestration.routing.reasons import field_reasons
from llm_server.orchestration.routing.signals import Signals, read
from llm_server.orchestration.routing.specialists import named_specialists
from llm_server.orchestration.routing.text_features import text_features
from llm_server.orchestration.routing.weights import Scores, Weights, load

if TYPE_CHECKING:
    from llm_server.orchestration.domain.engines.catalog import Catalog

# The roles of each field of work. The first one is used if the prompt names no specialist.
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
# A profile leans towards a field by so much.
PROFILE_LEAN = {"Developer": "code", "Productivity": "text", "General": "talk"}
LEAN = 0.3
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

    `roles` are the roles to choose from, preferred ones first; None or an empty list means all roles of `FIELDS`. Those
    of them that the package does not know can be chosen by the prompt if `own` has them. `role` and `mode` are the
    caller's choice and are used unchanged. Of a long prompt, the first 1,000 and the last 500 characters are read.
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


def complexity(signals: Signals, weights: Weights, scores: Scores) -> float:
    """Return how much better a strong engine would answer, 0..1."""
    return round(logistic(weights.complexity_logit(signals.text, scores)), 4)


def logistic(z: float) -> float:
    """Return the probability that belongs to a logit; logits beyond ±30 are cut to ±30."""
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, z))))


def _ordered(roles: Collection[str] | None) -> list[str]:
    if not roles:
        return [role for members in FIELDS.values() for role in members]
    return sorted(roles) if isinstance(roles, (set, frozenset)) else list(roles)


def _chosen(signals: Signals, weights: Weights, mode: Mode, role: str, what: str) -> Analysis:
    steps = weights.steps_logit(signals)
    return Analysis(
        mode=mode,
        role=role,
        complexity=complexity(signals, weights, weights.scores(signals, steps)),
        multi_step=round(logistic(steps), 4),
        confidence=1.0,
        reasons=(f"{what} chosen by the caller",),
    )


def _weighed(
    signals: Signals, weights: Weights, profile: str | None, mode: Mode | None, offered: list[str]
) -> Analysis:
    steps = weights.steps_logit(signals)
    scores = weights.scores(signals, steps)
    by_field = dict(zip(weights.fields, scores.totals, strict=False))
    leaning = PROFILE_LEAN.get(profile or "")
    if leaning is not None:
        by_field[leaning] += LEAN
    fields = _ranked(by_field, offered, alone=mode is Mode.AGENT)
    best, *others = fields
    difficulty = complexity(signals, weights, scores)
    named = named_specialists(signals)
    role = _member(best, named, difficulty, offered)
    confidence = confidence_of(list(fields.values()), weights)
    rest = {_member(field, named, difficulty, offered): fields[field] for field in others[:3]}
    lean = {leaning: LEAN} if leaning else {}
    reasons = field_reasons(weights, scores, list(fields), lean, one_step=steps < 0)
    return Analysis(
        mode=mode or MODES.get(best, Mode.AGENT),
        role=role,
        complexity=difficulty,
        multi_step=round(logistic(steps), 4),
        confidence=confidence,
        reasons=(*reasons, *_member_reason(best, role, named, difficulty)),
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


def _member(field: str, named: Mapping[str, str], difficulty: float, offered: list[str]) -> str:
    """Return the role that does the work of a field.

    If no role of the field is offered, return the first offered role that does not plan.
    """
    members = [member for member in FIELDS[field] if member in offered]
    if not members:
        return next((role for role in offered if role != lexicon.PLANNER), offered[0])
    specialist = next((role for role in named if role in members[1:]), None)
    if specialist is not None:
        return specialist
    if lexicon.DEEP in members and difficulty >= MIN_DEEP_COMPLEXITY:
        return lexicon.DEEP
    return members[0]


def confidence_of(ranked: Sequence[float], weights: Weights) -> float:
    """Return the likelihood that role and mode suit: a logistic regression on two figures of the fields' scores.

    They are the logit of the best field's share in a softmax, and its distance from the second field.
    """
    on_share, on_margin, bias = weights.confidence
    share, margin = share_and_margin(ranked)
    return round(logistic(on_share * share + on_margin * margin + bias), 3)


def share_and_margin(ranked: Sequence[float]) -> tuple[float, float]:
    """Return the logit of the first score's share in a softmax, and its distance from the second; at most 10 each."""
    others = math.fsum(math.exp(score - ranked[0]) for score in ranked[1:])
    margin = ranked[0] - ranked[1] if len(ranked) > 1 else 10.0
    return min(-math.log(max(others, 1e-5)), 10.0), min(margin, 10.0)


def _member_reason(field: str, role: str, named: Mapping[str, str], difficulty: float) -> tuple[str, ...]:
    """Say what chose the role within its field."""
    if role not in FIELDS[field]:
        return (f"no role for {field} is offered",)
    if role in named:
        return (f'"{named[role]}" names {role}',)
    if role in (lexicon.FAST, lexicon.DEEP):
        return (f"complexity {difficulty:.2f} (Deep-Coder from {MIN_DEEP_COMPLEXITY:.2f})",)
    return ()


def _shares(scores: Mapping[str, float], *, of: float, without: str) -> tuple[tuple[str, float], ...]:
    """Divide the likelihood `of` among the roles that were not chosen, in proportion to the exponentials of scores."""
    best = max(scores.values(), default=0.0)
    odds = {role: math.exp(score - best) for role, score in scores.items() if role != without}
    total = sum(odds.values())
    return tuple((role, round(of * odd / total, 3)) for role, odd in odds.items())


_FIELD_OF = {member: field for field, members in FIELDS.items() for member in members}
_MEMBERS = {field: frozenset(members) for field, members in FIELDS.items()}
