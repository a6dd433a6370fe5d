"""What a caller asks for, and whether it may be asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256

import msgspec

from llm_server.orchestration.domain.catalog import Catalog
from llm_server.orchestration.domain.errors import InvalidInput
from llm_server.orchestration.domain.snapshot import Limits
from llm_server.orchestration.domain.status import Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """What a caller asks for; None leaves the choice to the analysis."""

    prompt: str
    profile: str | None = None
    role: str | None = None
    mode: Mode | None = None
    engine: str | None = None
    limits: Limits = field(default_factory=Limits)
    metadata: Mapping[str, str] = field(default_factory=dict)
    plan_approval: bool = False

    def digest(self) -> str:
        """A hash of what is asked, however it was written; a field that was left out is one at its default."""
        plain = {name: value for name, value in asdict(self).items() if value != _NOTHING[name]}
        return sha256(msgspec.json.encode(plain, order="sorted")).hexdigest()


_NOTHING = asdict(NewTask(prompt=""))


def trimmed(new: NewTask) -> NewTask:
    """The white space round a prompt is no part of it."""
    return replace(new, prompt=new.prompt.strip())


def checked(new: NewTask, catalog: Catalog, *, prompt_max_chars: int) -> NewTask:
    """Trim the prompt of a new task.

    Raises:
        InvalidInput: it is blank or too long, or profile or role are unknown.
    """
    new = trimmed(new)
    prompt = new.prompt
    if not prompt:
        raise InvalidInput("prompt", "The prompt is blank; it needs at least one character that is not white space.")
    if len(prompt) > prompt_max_chars:
        raise InvalidInput("prompt", f"The prompt has {len(prompt)} characters; at most {prompt_max_chars} are taken.")
    if new.profile is not None:
        catalog.profile(new.profile)
    if new.role is not None:
        catalog.role(new.role)
    return new
