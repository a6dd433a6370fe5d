"""The response schema of errors."""

from __future__ import annotations

from pydantic import BaseModel, Field

from llm_server.api.error_codes import ERROR_CODES

_CODES = ", ".join(f"`{name}`" for name in ERROR_CODES)


class Fault(BaseModel):
    """One thing that is wrong with the input."""

    pointer: str = Field(
        description="A JSON pointer (RFC 6901) into the body, or a slash and the name of a parameter or header.",
        examples=["/limits/max_cost_usd"],
    )
    detail: str = Field(
        description="What is wrong at that place, in one sentence.", examples=["The field 'prompt' is missing."]
    )


class Problem(BaseModel):
    """An error of any kind, sent as `application/problem+json` (RFC 9457)."""

    detail: str = Field(description="What happened, in one sentence.", examples=["No task has this id."])
    type: str = Field(description="Always `about:blank`; `code` names the cause.", examples=["about:blank"])
    title: str = Field(description="The phrase of the HTTP status.", examples=["Not Found"])
    status: int = Field(description="The HTTP status.", examples=[404])
    code: str = Field(
        description=f"The cause, as a word that later versions keep: one of {_CODES}. Later versions may add codes.",
        examples=["task_not_found"],
    )
    retryable: bool = Field(description="Whether the same call may succeed later.", examples=[False])
    request_id: str = Field(
        description="The id of the request, as in the header X-Request-Id and in the server's log.",
        examples=["01a205c3-cd94-748c-a7f0-50965914d0b5"],
    )
    errors: list[Fault] = Field(
        default=[], description="The faults of the input, at most the first 20; absent for errors of another kind."
    )
