"""Check the function tools of a new task, and that each open function call of the task before it gets a result."""

from __future__ import annotations

import re
from collections.abc import Sequence

from llm_server.orchestration.domain.engines import chat
from llm_server.orchestration.domain.engines.message import Message, Tool, ToolCall, ToolChoice
from llm_server.orchestration.domain.errors import InvalidInput

MAX_TOOLS = 128
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def check_tools(tools: Sequence[Tool], choice: ToolChoice | None) -> None:
    """Check the function tools of a task, and the choice among them.

    Raises:
        InvalidInput: there are too many, a name is not accepted or is used twice, or the choice names none of them.
    """
    if len(tools) > MAX_TOOLS:
        raise InvalidInput("tools", f"The task has {len(tools)} tools; at most {MAX_TOOLS} are accepted.")
    names = [tool.name for tool in tools]
    for name in names:
        if not NAME.fullmatch(name):
            allowed = "1 to 64 letters, digits, _ and -"
            raise InvalidInput("tools", f"The tool name {name[:70]!r} is not accepted; it has {allowed}.")
    if len(set(names)) < len(names):
        raise InvalidInput("tools", "Two tools have the same name.")
    if choice is None:
        return
    if not tools:
        raise InvalidInput("tool_choice", "tool_choice needs tools; send tools, too, or leave it out.")
    if choice.name and choice.name not in names:
        raise InvalidInput("tool_choice", f"tool_choice names no tool of the task; they are {', '.join(names)}.")


def check_calls(before: tuple[ToolCall, ...], messages: tuple[Message, ...]) -> None:
    """Check that the open calls of the answer before a task, and those among its messages, have one result each.

    Raises:
        InvalidInput: a call has no result or several, or a result belongs to no open call.
    """
    left, why = chat.open_calls(before, messages)
    if left:
        why = f"The function calls {', '.join(call.call_id for call in left)} have no result; send one for each."
    if why:
        raise InvalidInput("tool_results", why, code="tool_results_invalid")
