"""What a caller asks for, and the checks that it has to pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256

import msgspec

from llm_server.orchestration.domain.catalog import Catalog
from llm_server.orchestration.domain.errors import InvalidInput
from llm_server.orchestration.domain.snapshot import Limits
from llm_server.orchestration.domain.status import Mode, known_spelling


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """What a caller asks for. The analysis chooses each of profile, role, mode and engine that is None."""

    prompt: str
    profile: str | None = None
    role: str | None = None
    mode: Mode | None = None
    engine: str | None = None
    limits: Limits = field(default_factory=Limits)
    metadata: Mapping[str, str] = field(default_factory=dict)
    plan_approval: bool = False

    def digest(self) -> str:
        """Return a hash of the fields. A field that was left out and one at its default give the same hash."""
        given = {name: value for name, value in asdict(self).items() if value != _DEFAULTS[name]}
        return sha256(msgspec.json.encode(given, order="sorted")).hexdigest()


_DEFAULTS = asdict(NewTask(prompt=""))


def normalised(new: NewTask, catalog: Catalog) -> NewTask:
    """Trim the prompt, and spell profile and role as they are configured.

    Bodies that differ only in this are the same body to an Idempotency-Key. Unknown names stay as they are.
    """
    return replace(
        new,
        prompt=new.prompt.strip(),
        profile=None if new.profile is None else known_spelling(new.profile, catalog.profiles),
        role=None if new.role is None else known_spelling(new.role, catalog.roles),
    )


def checked(new: NewTask, catalog: Catalog, *, prompt_max_chars: int) -> NewTask:
    """Return a new task, normalised.

    Raises:
        InvalidInput: the prompt is blank or too long, or the profile or role is unknown.
    """
    new = normalised(new, catalog)
    length = len(new.prompt)
    if not length:
        raise InvalidInput("prompt", "The prompt is blank; it needs at least one character that is not white space.")
    if length > prompt_max_chars:
        message = f"The prompt has {length} characters; at most {prompt_max_chars} are accepted."
        raise InvalidInput("prompt", message)
    if new.profile is not None:
        catalog.profile(new.profile)
    if new.role is not None:
        catalog.role(new.role)
    return new
