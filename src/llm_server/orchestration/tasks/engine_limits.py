"""Check which engines a task may call: the engine it names, and the sources that it and the keys of its callers allow.

A caller is refused at once if no configured engine is left.
"""

from __future__ import annotations

from msgspec.structs import replace

from llm_server.orchestration.dispatch.fleet import Fleet
from llm_server.orchestration.domain.api_key import Payer
from llm_server.orchestration.domain.engines.allowed import AllowedEngines, common, either
from llm_server.orchestration.domain.errors import InvalidInput, StateConflict, UnknownName
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.tasks.new_task import NewTask


def limited(new: NewTask, payer: Payer | None, fleet: Fleet) -> NewTask:
    """Return a new task, limited to the sources that its own list and the payer's key both allow.

    Raises:
        InvalidInput: no configured engine is left, or the named engine is unknown, cannot be used now, or has a source
            that is not allowed.
    """
    own, of_key = new.limits.sources, payer.limits.sources if payer else None
    sources = common(own, of_key)
    if own and of_key and not sources:
        message = f"The list limits.sources has {either(own)}, and the key allows only {either(of_key)}."
        raise InvalidInput("sources", message, within="limits", code="sources_not_usable")
    if new.engine is not None:
        _check_engine(new.engine, fleet)
    if why := fleet.none_configured(AllowedEngines(engine=new.engine, sources=sources)):
        if new.engine is not None:
            raise InvalidInput("engine", why, code="engine_not_usable")
        raise InvalidInput("sources", why, within="limits", code="sources_not_usable")
    return replace(new, limits=replace(new.limits, sources=sources))


def check_key(snapshot: Snapshot, payer: Payer | None, fleet: Fleet) -> None:
    """Check that an engine is left for an accepted task if the sources of this key limit it, too.

    Raises:
        StateConflict: no configured engine is left.
    """
    allowed = snapshot.allowed_engines.within(payer.limits.sources if payer else None)
    if allowed.sources is not None and (why := fleet.none_configured(allowed)):
        raise StateConflict(why, code="sources_conflict")


def _check_engine(name: str, fleet: Fleet) -> None:
    """Refuse an engine that cannot be used now, because a task that names it would only wait for it."""
    engines = fleet.specs()
    if name not in engines:
        raise UnknownName("engine", name, engines)
    if why := fleet.obstacle(engines[name]):
        message = f"Engine {name} {why}; choose another or leave the field out."
        raise InvalidInput("engine", message, code="engine_not_usable")
