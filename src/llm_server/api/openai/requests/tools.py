"""The functions that a request offers, and the choice among them, in the forms of both APIs."""

from __future__ import annotations

from llm_server.api.openai.requests.reading import Part
from llm_server.orchestration.domain.engines.message import Tool, ToolChoice

_CHOICES = ("auto", "none", "required")
_FIELDS = ("name", "description", "parameters", "strict")


def of_chat(body: Part) -> tuple[Tool, ...]:
    """Read `tools` of Chat Completions: each has its function in an object of its own. Raises InvalidInput."""
    found = []
    for tool in body.parts("tools"):
        _check_type(tool)
        tool.only(("type", "function"))
        function = tool.needed_part("function")
        function.only(_FIELDS)
        found.append(_tool(function))
    return tuple(found)


def of_responses(body: Part) -> tuple[Tool, ...]:
    """Read `tools` of Responses. Raises InvalidInput."""
    found = []
    for tool in body.parts("tools"):
        _check_type(tool)
        tool.only(("type", *_FIELDS))
        found.append(_tool(tool))
    return tuple(found)


def choice(body: Part, *, within: str = "") -> ToolChoice | None:
    """Read `tool_choice`; `within` is the field that has the name of the function. Without tools there is no choice.

    Raises InvalidInput.
    """
    if isinstance(body.value("tool_choice"), str):
        mode = body.choice("tool_choice", _CHOICES)
        return ToolChoice(mode=mode) if body.value("tools") else None  # type: ignore[arg-type]  # one of the choices
    chosen = body.part("tool_choice")
    if chosen is None:
        return None
    if chosen.value("type") != "function":
        chosen.fail("type", "must be 'function'; other kinds of choices are not supported")
    function = chosen.needed_part(within) if within else chosen
    return ToolChoice(mode="required", name=function.needed_text("name"))


def _check_type(tool: Part) -> None:
    if tool.value("type") != "function":
        tool.fail("type", "must be 'function': this server calls no tools itself, so it has no built-in ones")


def _tool(function: Part) -> Tool:
    parameters = function.part("parameters")
    return Tool(
        name=function.needed_text("name"),
        description=function.text("description") or "",
        parameters=None if parameters is None else function.value("parameters"),
        strict=function.flag("strict") if function.has("strict") else None,
    )
