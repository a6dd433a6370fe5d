"""The demonstration engine: a tiny model that answers while no real engine is configured or found.

The model cannot plan, judge or sum up, and loops under a long system prompt. So it is asked only for answers and for
steps of plans, with the one-line system prompt of its own chat template. Plans come from the analysis.
"""

from __future__ import annotations

from msgspec.structs import replace

from llm_server.engines.embedded import EmbeddedEngine, fenced_texts, pieces
from llm_server.engines.local import llamacpp
from llm_server.engines.parts import EngineParts
from llm_server.orchestration.domain.engines.call import Completion, Engine, EngineCall
from llm_server.orchestration.domain.engines.message import user
from llm_server.orchestration.domain.engines.usage import Usage
from llm_server.orchestration.domain.errors import PromptRefused
from llm_server.orchestration.domain.plan import STEP_DEMAND, SYNTHESIS_DEMAND

MAX_OUTPUT_TOKENS = 256
MAX_RESULTS_CHARS = 4_000
"""How much of the results of earlier steps a step is shown, so that its prompt fits into the model's context."""

MAX_PLAN_TOKENS = 4_096
"""Enough for the longest plan of the analysis. The task's limit does not apply, because no tokens are used."""

JUDGES_NOTHING = "A demonstration model is too small to judge a draft."


def build(name: str, parts: EngineParts) -> Engine:
    """Build the engine with this name. Raises ConfigurationError as `llamacpp.build`."""
    return DemonstrationEngine(llamacpp.build(name, parts), EmbeddedEngine(parts.analyse))


class DemonstrationEngine:
    """Asks the model for answers and steps; takes plans from the analysis, and joins the results of the steps.

    To a caller's schema it answers with an example that follows the schema.
    """

    def __init__(self, model: Engine, analysis: Engine) -> None:
        self._model = model
        self._analysis = analysis

    def complete(self, call: EngineCall, *, timeout_s: float) -> Completion:
        """Answer one prompt. A plan, a synthesis and an example cost no tokens.

        Raises PromptRefused for a verdict, and for a schema that no example was found for.
        """
        if call.answer_schema and call.answer_schema.name == "verdict":
            raise PromptRefused(JUDGES_NOTHING)
        if call.answer_schema:
            limit = call.max_output_tokens if call.answer_schema.is_callers else MAX_PLAN_TOKENS
            planned = self._analysis.complete(replace(call, max_output_tokens=limit), timeout_s=timeout_s)
            return replace(planned, usage=Usage())
        results = [text for name, text in fenced_texts(call.prompt) if name.startswith("result_of_")]
        if results and call.prompt.endswith(f"\n\n{SYNTHESIS_DEMAND}"):
            joined = "\n\n".join(results)
            if call.on_text is not None:
                for piece in pieces(joined):
                    call.on_text(piece)
            return Completion(text=joined, usage=Usage())
        return self._model.complete(_for_model(call, results), timeout_s=timeout_s)


def _for_model(call: EngineCall, results: list[str]) -> EngineCall:
    """Return the call as the model is asked; of a step, only its instruction and the results that it depends on."""
    _, is_step, instruction = call.prompt.rpartition(f"\n\n{STEP_DEMAND}\n")
    seen = [text[: MAX_RESULTS_CHARS // len(results)] for text in results]
    return replace(
        call,
        system="",  # the chat template of the model then has a line of its own
        messages=(*call.messages[:-1], *user("\n\n".join([*seen, instruction]))) if is_step else call.messages,
        max_output_tokens=min(call.max_output_tokens, MAX_OUTPUT_TOKENS),
        temperature=0.0,
    )
