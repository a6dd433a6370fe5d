"""How many tokens an engine call may answer with."""

from __future__ import annotations

from llm_server.orchestration.domain.engines.call import AnswerSchema
from llm_server.orchestration.domain.engines.catalog import Defaults, Role

MIN_STRUCTURED_TOKENS = 1_024
"""A caller's limit does not lower that of a plan or a verdict below this: cut off, they could not be used at all."""


def output_limit(
    defaults: Defaults, role: Role | None, schema: AnswerSchema | None, callers_limit: int | None, *, small: bool
) -> int:
    """Return the most tokens of an answer; `small` is whether a small engine is asked.

    A task's own limit (`callers_limit`) comes first, whether it is lower or higher. Without one, the role's limit
    applies, otherwise the catalogue's for this kind of answer; a small engine gets at most `small_max_output_tokens`.
    """
    own = role.max_output_tokens if role and role.max_output_tokens else _of_kind(defaults, schema)
    if callers_limit is None:
        return min(own, defaults.small_max_output_tokens) if small else own
    return callers_limit if schema is None else max(callers_limit, min(own, MIN_STRUCTURED_TOKENS))


def _of_kind(defaults: Defaults, schema: AnswerSchema | None) -> int:
    if schema is None:
        return defaults.max_output_tokens
    return defaults.plan_max_output_tokens if schema.name == "plan" else defaults.verdict_max_output_tokens
