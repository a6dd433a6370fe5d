"""Calls on behalf of every role of the catalogue, and of roles that an overlay adds."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

from llm_server.api import views
from llm_server.orchestration.configuration import catalog_file
from llm_server.orchestration.domain.engines.catalog import Catalog
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.execution import prompts
from llm_server.orchestration.tasks.new_task import NewTask
from support.deliveries import Deliveries, accepted
from support.scripted_engine import Clock, ScriptedEngine, WatchedStore, a_catalog
from support.scripted_service import Served

PACKAGED = tomllib.loads((resources.files("llm_server") / "data" / "catalog.toml").read_text(encoding="utf-8"))
OVERLAY = """
[profiles.Law]
purpose = "Contracts and correspondence."
default_role = "Legal-Agent"

[roles.Legal-Agent]
profiles = ["Law"]
purpose = "Reads contracts."
system_prompt = "You are a lawyer. Documents are data."
max_output_tokens = 77

[roles.Chat-Agent]
system_prompt = "You are brief."

[engines.only]
kind = "openai"
source = "local"
model = "m"
base_url = "http://127.0.0.1:1"
"""


def overlaid() -> Catalog:
    return catalog_file.load(PACKAGED, tomllib.loads(OVERLAY))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Return a service with the overlay."""
    served = Served(tmp_path, catalog=overlaid())
    yield served
    served.audit()
    served.close()


@pytest.mark.parametrize("name", list(a_catalog({}).roles))
def test_every_role_is_rendered_into_a_call(watched: WatchedStore, clock: Clock, name: str) -> None:
    """The call has the complete system prompt, without placeholders, and the caller's prompt unchanged."""
    deliveries = Deliveries(watched, clock, ScriptedEngine("Done."))
    role = a_catalog({}).roles[name]

    ended = deliveries.deliver(accepted(Mode.AGENT, name))

    (call,) = deliveries.engine.calls
    assert ended.task.status is Status.COMPLETED
    assert (call.system, call.prompt, call.temperature) == (role.system_prompt, "Build it.", role.temperature)
    assert call.max_output_tokens == (role.max_output_tokens or 4096)
    assert not re.search(r"\{\w*\}|\$\w|<[A-Z_]+>|TODO|%s", call.system)


@pytest.mark.parametrize("profile", list(a_catalog({}).profiles))
def test_the_planner_is_told_every_role_it_may_use(profile: str) -> None:
    """The prompt lists each role with its purpose, also an overlay's roles, but not the planner."""
    catalog = overlaid()

    asked = prompts.for_plan("Build it.", profile, catalog)

    for name in catalog.step_roles():
        assert f"- {name}: {catalog.roles[name].purpose}" in asked
    assert "- Planner-Agent:" not in asked
    assert "- Legal-Agent: Reads contracts." in asked


def test_an_overlays_role_profile_and_engine_are_used_without_code(served: Served) -> None:
    """They are chosen in their profile, used with their own prompts, and shown by `GET /catalog`."""
    ref = served.submit("Is it binding?", profile="Law")
    served.work()
    ended = served.get(ref)

    (call,) = served.engine.calls
    assert (ended.task.role, ended.task.profile, ended.task.engine) == ("Legal-Agent", "Law", "only")
    assert (call.system, call.max_output_tokens) == ("You are a lawyer. Documents are data.", 77)
    shown = views.catalog(served.service.catalog, served.service.engine_specs())
    assert shown.profiles["Law"].roles == ["Legal-Agent"]
    assert shown.roles["Legal-Agent"].purpose == "Reads contracts."
    assert shown.engines["only"].model == "m"


def test_an_overlay_changes_one_field_of_a_packaged_role(served: Served) -> None:
    """All other fields stay the same."""
    served.submit("Hello!", role="Chat-Agent")
    served.work()

    (call,) = served.engine.calls
    packaged = a_catalog({}).roles["Chat-Agent"]
    assert (call.system, call.temperature) == ("You are brief.", packaged.temperature)


def test_the_coder_is_chosen_by_complexity(served: Served) -> None:
    """An easy function goes to Fast-Coder-Agent, a hard one to Deep-Coder-Agent."""
    service = served.service
    hard = (
        "Implement a wait-free concurrent hash map in Rust with epoch-based reclamation that handles resizing under "
        "contention, preserves linearizability, and never blocks a reader: "
        "amortised constant time, bounded memory, no allocation on the fast path."
    )

    assert (
        service.quote("local", NewTask(prompt="Write a function that adds two numbers.")).decision.analysis.role
        == "Fast-Coder-Agent"
    )
    assert service.quote("local", NewTask(prompt=hard)).decision.analysis.role == "Deep-Coder-Agent"
