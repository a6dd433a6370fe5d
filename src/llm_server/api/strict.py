"""The base of every model of the contract: no field is unknown, no type is guessed."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Faults do not repeat the input: it may be a prompt."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)
