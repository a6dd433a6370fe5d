"""Check that an engine is left that takes what a task needs: images, function tools."""

from __future__ import annotations

from llm_server.orchestration.dispatch.fleet import Fleet
from llm_server.orchestration.domain.engines import chat
from llm_server.orchestration.domain.engines.allowed import AllowedEngines, in_words
from llm_server.orchestration.domain.engines.chat import Need
from llm_server.orchestration.domain.errors import InvalidInput
from llm_server.orchestration.tasks.new_task import NewTask

_FIELDS: dict[Need, str] = {"vision": "attachments", "tools": "tools"}


def check(new: NewTask, before: tuple[Need, ...], fleet: Fleet) -> tuple[Need, ...]:
    """Return what the engines of a checked task must take; `before` is what the turns before it need.

    Raises:
        InvalidInput: no configured engine that the task may call takes it.
    """
    needs = chat.both(new.needs, before)
    if not needs:
        return ()
    anywhere = AllowedEngines(sources=new.limits.sources, needs=needs)
    able = list(fleet.admitted(anywhere))
    if new.engine is not None and not fleet.admitted(AllowedEngines(engine=new.engine, needs=needs)):
        others = f"engines that do: {', '.join(able)}" if able else "no other configured engine does"
        message = f"Engine {new.engine} does not take the {in_words(needs)} of the task; {others}."
        raise InvalidInput("engine", message, code="engine_not_usable")
    if new.engine is None and not able:
        field = _FIELDS[needs[-1]] if needs[-1] in new.needs else "previous_task_id"
        told = "" if new.needs else " They belong to the earlier turns."
        message = f"The task has {in_words(needs)}, and no configured {anywhere.kind} is left.{told}"
        raise InvalidInput(field, message, code="content_not_usable")
    return needs
