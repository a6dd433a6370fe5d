"""Decides how a task is done: mode, role, profile, the engine that is asked first, and what a triage would cost."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from llm_server.orchestration.conversations import follow_up
from llm_server.orchestration.conversations.follow_up import NO_TURNS, FollowStore, FollowUp
from llm_server.orchestration.dispatch.balancer import Balancer
from llm_server.orchestration.domain.engines.allowed import AllowedEngines
from llm_server.orchestration.domain.engines.catalog import Catalog, Sources
from llm_server.orchestration.domain.engines.chat import both
from llm_server.orchestration.domain.engines.message import user
from llm_server.orchestration.domain.ports.clock import Clock
from llm_server.orchestration.domain.status import Mode
from llm_server.orchestration.domain.triage import TriageQuote, Undecided, undecided
from llm_server.orchestration.routing import lexicon, tiers
from llm_server.orchestration.routing.analysis import Analysis, analyse, own_roles
from llm_server.orchestration.routing.own_roles import OwnRoles
from llm_server.orchestration.tasks.messages import needs, tools
from llm_server.orchestration.tasks.new_task import NewTask

if TYPE_CHECKING:
    from llm_server.orchestration.execution.triage import Triages


class Analysed(Struct, frozen=True, kw_only=True):
    """The analysis of a new task, and its profile. `undecided` is what an engine may decide in a triage.

    `turns` are those before the task. If they decide role and mode, nothing is undecided.
    """

    analysis: Analysis
    profile: str
    undecided: tuple[Undecided, ...]
    turns: FollowUp = NO_TURNS


class Decision(Struct, frozen=True, kw_only=True):
    """How a task would be done: the analysis, and the engine that would be asked first (None if none can be asked).

    Only engines with one of the `sources` would be asked (None: any). If `triage` is not None, an engine would be asked
    for mode, role and complexity before that.
    """

    analysis: Analysis
    profile: str
    engine: str | None
    sources: Sources | None = None
    triage: TriageQuote | None = None


class Decisions:
    """Decides how new tasks are done. Nothing is stored or spent."""

    def __init__(self, *, catalog: Catalog, store: FollowStore, balancer: Balancer, clock: Clock) -> None:
        self._catalog = catalog
        self._own_roles = own_roles(catalog)
        self._store = store
        self._balancer = balancer
        self._clock = clock

    def analyse(self, tenant: str, new: NewTask) -> Analysed:
        """Analyse a checked task. The tasks before it are tasks of its tenant.

        If the prompt alone says too little, the role and the mode of the turn before hold. If the confidence is below
        the configured threshold, the profile's default role answers in Chat mode. A mode or role that the caller chose
        is kept. A task with function tools is not triaged.

        Raises:
            InvalidInput, StateConflict: as `follow_up.find`, `tools.check_calls` and `needs.check`.
        """
        turns = follow_up.find(
            self._store, tenant, previous_task_id=new.previous_task_id, conversation_id=new.conversation_id
        )
        tools.check_calls(turns.open_calls, new.messages or user(new.prompt))
        needed = needs.check(new, turns.needs, self._balancer.fleet)
        analysis, profile = analyse_task(new, self._catalog, self._own_roles, sees="vision" in needed)
        if turns.parent is not None and new.role is None and new.mode is None:
            kept = follow_up.kept(analysis, turns.parent, new.prompt, self._catalog, profile=new.profile)
            if kept is not None:
                profile = new.profile or turns.parent.task.profile
                return Analysed(analysis=kept, profile=profile, undecided=(), turns=turns)
        open_ = (
            ()
            if not new.may_be_planned
            else undecided(
                self._catalog, confidence=analysis.confidence, role=new.role, mode=new.mode, profile=new.profile
            )
        )
        return Analysed(analysis=analysis, profile=profile, undecided=open_, turns=turns)

    def decide(self, new: NewTask, analysed: Analysed) -> Decision:
        """Decide how a task with this analysis would be done now."""
        analysis, open_, sources = analysed.analysis, analysed.undecided, new.limits.sources
        role, wanted = self._catalog.role(analysis.role), tiers.preferred_tier(analysis.complexity)
        tier = tiers.tier_of(role, analysis.complexity, self._catalog.defaults, preferred=wanted)
        needed = both(new.needs, analysed.turns.needs)
        allowed = AllowedEngines(engine=new.engine, sources=sources, needs=needed)
        engines = self._balancer.candidates(tier, allowed)
        return Decision(
            analysis=analysis,
            profile=analysed.profile,
            engine=engines[0] if engines else None,
            sources=sources,
            triage=self._triages.quote(allowed, new.limits, new.prompt, analysed.profile, open_) if open_ else None,
        )

    def typical_triage(self) -> tuple[TriageQuote | None, float]:
        """Return what the triage of a typical prompt would cost, and the share of prompts that is triaged.

        The quote is None if no task can be triaged now.
        """
        return self._triages.typical(), self._triages.share

    @cached_property
    def _triages(self) -> Triages:
        """Imported here, because the API function needs it only for a dry run."""
        from llm_server.orchestration.execution.triage import Triages

        return Triages(catalog=self._catalog, balancer=self._balancer, clock=self._clock)


def analyse_task(new: NewTask, catalog: Catalog, own: OwnRoles, *, sees: bool = False) -> tuple[Analysis, str]:
    """Analyse a prompt. Returns the analysis and the profile of the task.

    If the confidence is below the configured threshold, the profile's default role answers in Chat mode. The role that
    reads pictures can be chosen only if an engine `sees` one. A task that cannot be planned is answered in Agent mode.
    """
    analysis, profile = _analyse_task(new, catalog, own, sees=sees)
    if analysis.mode is not Mode.PLAN or new.may_be_planned:
        return analysis, profile
    role = catalog.profile(profile).default_role
    reason = f"a task with function tools is not planned: {role} answers in Agent mode"
    return replace(analysis, mode=Mode.AGENT, role=role, reasons=(*analysis.reasons, reason)), profile


def _analyse_task(new: NewTask, catalog: Catalog, own: OwnRoles, *, sees: bool) -> tuple[Analysis, str]:
    offered = catalog.roles_of(new.profile) if new.profile else list(catalog.roles)
    allowed = offered if sees else [role for role in offered if role != lexicon.VISION] or offered
    analysis = analyse(new.prompt, role=new.role, profile=new.profile, mode=new.mode, roles=allowed, own=own)
    of_tier = tiers.reasons(analysis.complexity, catalog.defaults)
    analysis = replace(analysis, reasons=(*analysis.reasons, *of_tier))
    threshold = catalog.defaults.confidence_threshold
    if analysis.confidence >= threshold or new.role:
        return analysis, new.profile or catalog.profile_of(analysis.role)
    profile = new.profile or catalog.defaults.profile
    fallback = catalog.profile(profile).default_role
    mode = new.mode or Mode.CHAT
    reason = f"confidence {analysis.confidence:.2f} is below {threshold:g}: {fallback} answers in {mode} mode"
    return replace(analysis, mode=mode, role=fallback, reasons=(*analysis.reasons, reason)), profile
