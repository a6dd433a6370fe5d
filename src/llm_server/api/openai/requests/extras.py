"""The fields that both APIs share: the limits, the metadata, and ours (`limits`, `profile`, `role`)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from msgspec.structs import replace
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from llm_server.api.fault_sentences import sentence
from llm_server.api.openai.requests.reading import Part
from llm_server.api.schemas.new_task import MAX_METADATA, NewLimits, NewTask
from llm_server.orchestration.domain.errors import InvalidInput
from llm_server.orchestration.domain.snapshot import Limits

MAX_OUTPUT_TOKENS = 1_000_000
_OF_A_TASK = SimpleNamespace(body_field=SimpleNamespace(field_info=FieldInfo(annotation=NewTask)))
"""What `sentence` reads of a route whose body is a task: `limits` is a field of that body."""


def limits(body: Part, *tokens: str) -> Limits:
    """Return the limits of a task: our `limits`, and those of OpenAI's fields `tokens`. The lowest one holds.

    Raises InvalidInput.
    """
    body.part("limits")
    try:
        ours = NewLimits.model_validate(body.value("limits") or {}).to_domain()
    except ValidationError as error:
        fault: Any = error.errors()[0]
        place = ("limits", *map(str, fault["loc"]))
        raise InvalidInput(".".join(place), sentence(fault | {"loc": ("body", *place)}, _OF_A_TASK)) from None
    asked = [ours.max_output_tokens, *(body.whole(name, least=1, most=MAX_OUTPUT_TOKENS) for name in tokens)]
    return replace(ours, max_output_tokens=min((number for number in asked if number is not None), default=None))


def metadata(body: Part) -> dict[str, str]:
    """Return up to 16 pairs of a key of 1 to 64 characters and a value of up to 512. Raises InvalidInput."""
    pairs = body.part("metadata")
    if pairs is None:
        return {}
    given: dict[str, Any] = body.value("metadata")
    if len(given) > MAX_METADATA:
        body.fail("metadata", f"must have at most {MAX_METADATA} entries")
    for key in given:
        if not 1 <= len(key) <= 64 or "\x00" in key:
            body.fail("metadata", "must have keys of 1 to 64 characters without NUL")
        if pairs.text(key, max_chars=512) is None:
            pairs.fail(key, "must be a string")
    return given
