"""What the `model` of a request chooses: nothing (`auto`), a mode, a role or an engine."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from llm_server.api.openai.errors import ModelNotFound
from llm_server.orchestration.domain.engines.catalog import Catalog
from llm_server.orchestration.domain.status import Mode, known_spelling

AUTO = "auto"
"""The model of a task whose mode, role and engine the server chooses."""


class Target(Struct, frozen=True, kw_only=True):
    """What a model chooses; None where the server chooses."""

    mode: Mode | None = None
    role: str | None = None
    engine: str | None = None


def models(catalog: Catalog) -> Mapping[str, Target]:
    """Return every model that a request may name.

    An engine can also be named by its own model, such as `gpt-5.5`. A name of several kinds is that of the mode, else
    of the role, else of the engine; a model of several engines is that of the first one.
    """
    of_modes = {mode.value.lower(): Target(mode=mode) for mode in Mode}
    of_roles = {name: Target(role=name) for name in catalog.roles}
    of_engines = {name: Target(engine=name) for name in catalog.engines}
    of_models = {spec.model: Target(engine=name) for name, spec in reversed(catalog.engines.items()) if spec.model}
    auto = {AUTO: Target()}
    return auto | of_models | auto | of_engines | of_roles | of_modes


def target(model: str, catalog: Catalog) -> Target:
    """Return what a model chooses, in any mix of upper and lower case. Raises ModelNotFound."""
    known = models(catalog)
    found = known.get(known_spelling(model, known))
    if found is None:
        raise ModelNotFound(model, known)
    return found
