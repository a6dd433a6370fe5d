"""The base of every model of the contract: no field is unknown, no type is guessed."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Faults do not repeat the input: it may be a prompt."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


def whole(value: object) -> object:
    """JSON has one kind of number: 7.0 is the integer 7 (JSON Schema 2020-12, 4.2.3)."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
