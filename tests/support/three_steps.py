"""A plan of three parallel steps, as a fake engine answers it: each text names its step."""

from __future__ import annotations

import json
from typing import Any

STEPS = ("alpha", "beta", "gamma")
PROMPT = "Write of alpha, beta and gamma."


def text_about(name: str) -> str:
    """Return the text of a step, or of `everything`."""
    return f"The text about {name}, in a few words."


def answer(asked: Any) -> str:
    """Answer a request for a plan with three steps, and any other one with a text that names its step."""
    schema = asked.get("response_format", {}).get("json_schema", {}).get("schema")
    if schema is None:
        named = [step for step in STEPS if f"Write of {step}." in json.dumps(asked)]
        return text_about(named[0] if len(named) == 1 else "everything")
    if "steps" not in schema["properties"]:
        return json.dumps({"verdict": "pass", "findings": []})
    role = schema["properties"]["steps"]["items"]["properties"]["role"]["enum"][0]
    steps = [{"id": s, "role": role, "instruction": f"Write of {s}.", "depends_on": []} for s in STEPS]
    return json.dumps({"goal": "Write of all.", "steps": steps})
