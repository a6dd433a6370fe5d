"""How a task is done, and by whom: rules over words and structure, and tables trained on examples.

Pure and fast. The caller's own word wins; nothing inside the prompt can set role, mode, engine or limits.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from llm_server.orchestration.domain.status import Mode
from llm_server.orchestration.routing import lexicon
from llm_server.orchestration.routing.evidence import Evidence, effort, gather, totals
from llm_server.orchestration.routing.features import form
from llm_server.orchestration.routing.signals import Signals, read
from llm_server.orchestration.routing.weights import Weights, shipped

# Roles of one field of work; the first is the one to take when only the field is clear.
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
# A specialist within a field needs evidence of this weight, else the field's first role does the work.
SPECIALIST_FROM = 2.0
# From this complexity on a strong coder is worth its price.
DEEP_FROM = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """How a task is to be done, and why; all figures are 0..1.

    `confidence` is the likelihood that role and mode suit, 1.0 where the caller chose them; `complexity` how
    much a strong engine would add; `multi_step` the likelihood that there are several steps; `alternatives`
    the next best roles with their likelihood, best first.
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
) -> Analysis:
    """Decide how a task is done and who does it; never raises, whatever the text.

    `roles` are those the rules may choose among, the preferred ones first; None is every role known here.
    What the caller names in `role` and `mode` is taken as it is. Of a long prompt 1,500 characters are read.
    """
    signals = read(prompt)
    weights = shipped()
    offered = _ordered(roles)
    if role is not None:
        follows = Mode.CHAT if role == lexicon.CHAT else Mode.AGENT
        return _chosen(signals, weights, mode or follows, role, "role and mode" if mode else "role")
    if mode is Mode.PLAN:
        return _chosen(signals, weights, mode, lexicon.PLANNER, "mode")
    if mode is Mode.CHAT:
        return _chosen(signals, weights, mode, lexicon.CHAT if lexicon.CHAT in offered else offered[0], "mode")
    return _weighed(signals, weights, profile, mode, offered)


def field_totals(by_role: Mapping[str, float]) -> dict[str, float]:
    """What the rules say for each field: its strongest member, and half of what speaks for the others."""
    totals_of = {}
    for field, members in FIELDS.items():
        known = [by_role.get(member, 0.0) for member in members]
        totals_of[field] = max(known) + 0.5 * (sum(known) - max(known))
    return totals_of


def complexity(signals: Signals, weights: Weights) -> float:
    """How much a strong engine would add, 0..1: by its table for a kind of question that has one, else by rule."""
    trained = weights.expert(signals.text)
    return round(logistic(effort(signals) if trained is None else trained), 4)


def logistic(z: float) -> float:
    """The probability of a logit, of any size."""
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
    learned = weights.learned(signals)
    formal = weights.formal(field_totals(by_role) | form(signals, steps))
    scores = {field: formal[field] + learned[field] for field in FIELDS}
    fields = _ranked(scores, offered, alone=mode is Mode.AGENT)
    best, *others = fields
    strain = complexity(signals, weights)
    role = _member(best, by_role, strain, offered)
    confidence = _confidence(list(fields.values()), weights)
    rest = {_member(field, by_role, strain, offered): fields[field] for field in others[:3]}
    return Analysis(
        mode=mode or MODES.get(best, Mode.AGENT),
        role=role,
        complexity=strain,
        multi_step=round(logistic(steps), 4),
        confidence=confidence,
        reasons=(*_reasons(found, best, role, strain), *_trained_reason(learned, list(fields))),
        alternatives=_shares(rest, of=1 - confidence, without=role),
    )


def _ranked(scores: Mapping[str, float], offered: list[str], *, alone: bool) -> dict[str, float]:
    """The fields to choose among, best first.

    Talking needs no role of its own, so it is always possible, unless one speciality is to work `alone`.
    """
    barred = MODES if alone else ()
    possible = {
        field: score
        for field, score in scores.items()
        if field not in barred and (field == "talk" or not _OFFERABLE[field].isdisjoint(offered))
    }
    return dict(sorted(possible.items(), key=lambda item: -item[1])) or {"talk": 0.0}


def _member(field: str, by_role: Mapping[str, float], strain: float, offered: list[str]) -> str:
    """The role of a field that does the work; where none is offered, the offered role with most evidence."""
    members = [member for member in FIELDS[field] if member in offered]
    if not members:
        talkers = [role for role in offered if role != lexicon.PLANNER] or offered
        return max(talkers, key=lambda role: by_role.get(role, 0.0))
    specialists = [m for m in members[1:] if by_role.get(m, 0.0) >= SPECIALIST_FROM]
    if specialists:
        return max(specialists, key=lambda m: by_role[m])
    if lexicon.DEEP in members and strain >= DEEP_FROM:
        return lexicon.DEEP
    return members[0]


def _confidence(ranked: list[float], weights: Weights) -> float:
    """The likelihood that role and mode suit: Platt's logistic function of the margin between the two best."""
    margin = ranked[0] - ranked[1] if len(ranked) > 1 else ranked[0]
    slope, bias = weights.confidence
    return round(logistic(slope * margin + bias), 3)


def _reasons(found: list[Evidence], field: str, role: str, strain: float) -> tuple[str, ...]:
    """The evidence that decided, strongest first, and what chose between the coders."""
    spoke = [e for e in found if e.role in FIELDS[field]][:4]
    reasons = [f"{e.what} (+{e.weight:.1f} {e.role.removesuffix('-Agent')})" for e in spoke]
    if role in (lexicon.FAST, lexicon.DEEP):
        reasons.append(f"complexity {strain:.2f} (Deep-Coder from {DEEP_FROM:.2f})")
    if role not in FIELDS[field]:
        reasons.append(f"no role for {field} is offered")
    return tuple(reasons)


def _trained_reason(learned: Mapping[str, float], fields: list[str]) -> tuple[str, ...]:
    """What the wording, by the examples trained on, adds for the best field over the second."""
    if len(fields) < 2:
        return ()
    best, second = fields[:2]
    advantage = round(learned[best] - learned[second], 1) + 0.0  # adding 0.0 turns -0.0 into 0.0
    return (f"wording as in the training examples ({advantage:+.1f} {best} over {second})",)


def _shares(scores: Mapping[str, float], *, of: float, without: str) -> tuple[tuple[str, float], ...]:
    """Divide a likelihood among the roles that were not chosen, by the logistic weight of each."""
    best = max(scores.values(), default=0.0)
    odds = {role: math.exp(score - best) for role, score in scores.items() if role != without}
    total = sum(odds.values())
    return tuple((role, round(of * odd / total, 3)) for role, odd in odds.items())


_OFFERABLE = {field: frozenset(members) for field, members in FIELDS.items()}
