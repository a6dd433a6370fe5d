"""What goes out over HTTP when a call fails."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Fault(BaseModel):
    """One thing that is wrong with the input."""

    pointer: str = Field(description="A JSON pointer into the body, or a slash and a parameter's name.")
    detail: str


class Problem(BaseModel):
    """Any error (RFC 9457)."""

    detail: str = Field(description="What happened, in one sentence.")
    errors: list[Fault] = Field(default=[], description="Every fault, where the input has some.")
