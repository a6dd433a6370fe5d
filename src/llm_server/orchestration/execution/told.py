"""What an engine is told: the role's system prompt with the caller's instructions, and the messages of a call."""

from __future__ import annotations

from llm_server.orchestration.domain.conversation import History
from llm_server.orchestration.domain.engines import chat
from llm_server.orchestration.domain.engines.message import Message, user
from llm_server.orchestration.domain.snapshot import Request


def system(prompt: str, instructions: str) -> str:
    """Return a role's system prompt, followed by the instructions of the caller."""
    return f"{prompt.rstrip()}\n\n{instructions}" if instructions else prompt


def messages(request: Request, history: History | None, prompt: str, *, is_answer: bool) -> tuple[Message, ...]:
    """Return the messages of a call: the earlier turns, and the prompt. A call without a history knows no turns.

    The call for the answer gets all that the caller sent. The prompts of other calls quote that of the caller, so they
    get its images; messages of the caller before it are told as earlier turns are.
    """
    sent, turns = request.messages, history.messages if history else ()
    if is_answer:
        return chat.paired((*turns, *(sent or user(prompt))))
    before = chat.before_prompt(sent) if history else ()
    last = Message(role="user", text=prompt, images=chat.images_of_prompt(sent))
    return (*chat.paired((*turns, *before)), last)
