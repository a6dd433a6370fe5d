"""The engine of the attack: it answers a hash of the prompt, so that another prompt's answer cannot pass for it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from hashlib import sha256

from msgspec.structs import replace

from llm_server.orchestration.domain.engines.call import Completion, EngineCall
from llm_server.orchestration.domain.engines.usage import Usage
from llm_server.orchestration.domain.errors import EngineUnavailable

STEPS = {"design": "", "build": "design", "try": "build", "describe": "build try"}
"""The steps of the plan that it proposes, with their dependencies; the coder's step is reviewed and repaired once."""
TOKENS_IN, TOKENS_OUT = 10, 20
CODER = "build"
PIECE_CHARS = 5
"""The length of a piece of a streamed answer."""


LONG = "Say much"
"""The answer to a prompt that begins so has 36 KB: more than fits into the free pages of a small database."""


def answer_to(system: str, prompt: str) -> str:
    answer = f"answer {sha256(f'{system}|{prompt}'.encode()).hexdigest()[:16]}"
    return " ".join([answer] * 1_500) if prompt.startswith(LONG) else answer


def result_to(system: str, prompt: str) -> str:
    """Return the answer that follows a caller's schema."""
    return json.dumps({"answer": answer_to(system, prompt)})


def the_plan(of_steps: Mapping[str, str] = STEPS) -> str:
    steps = [
        {
            "id": name,
            "role": "Fast-Coder-Agent" if name == CODER else "Architect-Agent",
            "instruction": f"Do {name}.",
            "depends_on": depends.split(),
        }
        for name, depends in of_steps.items()
    ]
    return json.dumps({"goal": "The goal.", "steps": steps})


class HashEngine:
    """The one engine of a world; it records its calls. `before` is called with each of them."""

    def __init__(self) -> None:
        self.is_costly = False
        """Whether its answers use the whole output limit."""
        self.steps: Mapping[str, str] = STEPS
        """The steps of its plans."""
        self.triage: dict[str, object] = {"mode": "Agent", "role": "Teacher-Agent", "complexity": 0.25}
        """Its answer to the question of a triage."""
        self.bad_plans = 0
        """How many of the next plans are not usable."""
        self.bad_results = 0
        """How many of the next results do not follow the caller's schema."""
        self.fails = 0
        """How many of the next calls fail."""
        self.seen = 0
        """The number of calls, failed ones too; `calls` are those that were answered."""
        self.calls: list[EngineCall] = []
        self.before: Callable[[EngineCall], object] = lambda call: None
        self._lock = threading.Lock()

    def complete(self, call: EngineCall, *, timeout_s: float) -> Completion:
        on_text, call = call.on_text, replace(call, on_text=None)
        self.before(call)
        with self._lock:
            self.seen += 1
            if self.fails:
                self.fails -= 1
                raise EngineUnavailable("The engine is busy.")
            self.calls.append(call)
        text = self._text(call)
        if on_text is not None:
            for start in range(0, len(text), PIECE_CHARS):
                on_text(text[start : start + PIECE_CHARS])
        return Completion(text=text, usage=self.usage(call))

    def usage(self, call: EngineCall) -> Usage:
        return Usage(input_tokens=TOKENS_IN, output_tokens=call.max_output_tokens if self.is_costly else TOKENS_OUT)

    def _text(self, call: EngineCall) -> str:
        if call.answer_schema is None:
            return answer_to(call.system, call.prompt)
        if call.answer_schema.name == "triage":
            return json.dumps(self.triage)
        if call.answer_schema.name == "answer":
            return self._result(call)
        if call.answer_schema.name == "plan":
            return the_plan(self._next_steps())
        repaired = any(answer_to(fix.system, fix.prompt) in call.prompt for fix in self._fixes())
        verdict = {"verdict": "pass", "findings": []} if repaired else {"verdict": "fail", "findings": ["Too short."]}
        return json.dumps(verdict)

    def _result(self, call: EngineCall) -> str:
        with self._lock:
            if not self.bad_results:
                return result_to(call.system, call.prompt)
            self.bad_results -= 1
            return answer_to(call.system, call.prompt)

    def _next_steps(self) -> Mapping[str, str]:
        """Return the steps of the next plan; without steps, it is not usable."""
        with self._lock:
            if not self.bad_plans:
                return self.steps
            self.bad_plans -= 1
            return {}

    def _fixes(self) -> list[EngineCall]:
        with self._lock:
            return [call for call in self.calls if "Repair every finding" in call.prompt]
