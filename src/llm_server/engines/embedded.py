"""The embedded engine. If no LLM is configured, it answers with the prompt's analysis and how to configure an LLM."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Protocol

import msgspec

from llm_server.engines.parts import EngineParts
from llm_server.engines.usage import ReportedUsage
from llm_server.engines.wire import completion, json_object
from llm_server.orchestration.domain.engines.call import AnswerSchema, Completion, Engine, EngineCall
from llm_server.orchestration.domain.engines.usage import CHARACTERS_PER_TOKEN
from llm_server.orchestration.domain.plan import MAX_STEPS, Plan, Step

HOW_TO_CONFIGURE = """\
To get real answers, do one of these and start the server again:
- set OPENAI_API_KEY or ANTHROPIC_API_KEY;
- start an LLM server on this machine, such as Ollama: it is found on its default port;
- use a small model in this process: `make run MODEL=qwen2.5-1.5b` downloads 1.1 GB and starts the server with it;
- describe an engine in a TOML file and name that file in LLM_SERVER_CONFIG."""
HOW_TO_CONFIGURE_ON_AWS = """\
To get real answers, store an engine's API key as an SSM SecureString and deploy with its name as the parameter \
OpenAIKeyName or AnthropicKeyName, or deploy with a ConfigFile that describes your engines. docs/aws.md shows how."""

WORDS_A_PIECE = 3
_MAX_INSTRUCTION_CHARS = 400
_WORD = re.compile(r"\S+\s*|\s+")
_FENCED = re.compile(r"<(task|result_of_[\w-]+|last_plan)>\n(.*?)\n</\1>", re.DOTALL)
_BULLET = re.compile(r"\s*[-*•]\s+(.+)")
_NUMBER = re.compile(r"\s*\d{1,2}[.)]\s+(.+)")
_SENTENCE = re.compile(r"(?<=[.!?;])\s+|(?<=[。！？])|\n+|,?\s+(?:and\s+)?then\s+", re.IGNORECASE)
_AND = re.compile(r",?\s+and\s+(?=\S+\s+\S)", re.IGNORECASE)


class AnalysisView(Protocol):
    """The fields of a prompt's analysis that the embedded engine shows."""

    @property
    def mode(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def complexity(self) -> float: ...
    @property
    def confidence(self) -> float: ...
    @property
    def reasons(self) -> tuple[str, ...]: ...


class Analyse(Protocol):
    """Analyses a prompt; `roles` are the roles to choose from, or None for all roles."""

    def __call__(self, prompt: str, *, roles: Collection[str] | None = None) -> AnalysisView: ...


def build(name: str, parts: EngineParts) -> Engine:  # noqa: ARG001 - all adapters have this parameter
    """Build the embedded engine."""
    return EmbeddedEngine(parts.analyse, advice=HOW_TO_CONFIGURE_ON_AWS if parts.on_aws else HOW_TO_CONFIGURE)


class EmbeddedEngine:
    """Answers at once and free of charge; the same prompt gets the same answer. Four characters count as one token.

    `advice` says how to configure an LLM; it ends each answer in prose.
    """

    def __init__(self, analyse: Analyse, *, advice: str = HOW_TO_CONFIGURE) -> None:
        self._analyse = analyse
        self._advice = advice

    def complete(self, call: EngineCall, *, timeout_s: float) -> Completion:  # noqa: ARG002 - part of the port
        answer = _answer(call, self._analyse, self._advice)
        limit = call.max_output_tokens * CHARACTERS_PER_TOKEN
        text = answer[:limit]
        if call.on_text is not None:
            for piece in pieces(text):
                call.cancellation.check()
                call.on_text(piece)
        return completion(call, text, ReportedUsage(), truncated=len(answer) > limit)


def pieces(text: str) -> list[str]:
    """Return a text in pieces of a few words, as an LLM would stream it."""
    words = _WORD.findall(text)
    return ["".join(words[at : at + WORDS_A_PIECE]) for at in range(0, len(words), WORDS_A_PIECE)]


def fenced_texts(prompt: str) -> list[tuple[str, str]]:
    """Return the texts that the orchestration put into a prompt, each with the name of its tags."""
    return [(match[1], match[2]) for match in _FENCED.finditer(prompt)]


def _answer(call: EngineCall, analyse: Analyse, advice: str) -> str:
    fenced = fenced_texts(call.prompt)
    tasks = [text for name, text in fenced if name == "task"]
    task = tasks[0] if tasks else call.prompt
    if call.answer_schema and call.answer_schema.name == "plan":
        return _plan(task, call.answer_schema, analyse).to_json()
    if call.answer_schema and call.answer_schema.is_callers:
        from llm_server.engines.local.instances import instance  # the validator takes long to import

        return msgspec.json.encode(instance(call.answer_schema.schema)).decode()
    if call.answer_schema:
        return msgspec.json.encode({"verdict": "pass", "findings": []}).decode()
    results = [name.removeprefix("result_of_") for name, _ in fenced if name.startswith("result_of_")]
    instruction = _FENCED.sub("", call.prompt).strip().rpartition("\n")[2] if fenced else ""
    return "\n\n".join((*_paragraphs(task, instruction, results, analyse(task)), advice))


def _paragraphs(task: str, instruction: str, results: list[str], analysis: AnalysisView) -> Iterator[str]:
    yield (
        "No LLM is configured. This answer comes from the server's embedded engine, which measures a prompt "
        "but does not understand it."
    )
    yield (
        f"The prompt has {_counted(len(task.split()), 'word')} and {_counted(len(task), 'character')}. It "
        f"reads like {analysis.mode} mode for {analysis.role} (complexity {analysis.complexity:.2f}, confidence "
        f"{analysis.confidence:.2f})."
    )
    if analysis.reasons:
        yield "Why: " + "; ".join(analysis.reasons[:4]) + "."
    if instruction:
        yield f"The instruction of this step: {instruction[:_MAX_INSTRUCTION_CHARS]}"
    if results:
        yield f"This step received the results of {_counted(len(results), 'step')}: {', '.join(results)}."


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _plan(task: str, schema: AnswerSchema, analyse: Analyse) -> Plan:
    """Make a step of each sentence or list item of a task; the steps of one group do not depend on one another."""
    roles = _allowed_roles(schema)
    steps: list[Step] = []
    before: tuple[str, ...] = ()
    for group in _groups_that_fit(task):
        ids = [f"s{len(steps) + n}" for n in range(1, len(group) + 1)]
        for step_id, text in zip(ids, group, strict=True):
            steps.append(Step(id=step_id, role=_role(text, task, roles, analyse), instruction=text, depends_on=before))
        before = tuple(ids)
    return Plan(goal=" ".join(task.split())[:_MAX_INSTRUCTION_CHARS], steps=tuple(steps))


def _allowed_roles(schema: AnswerSchema) -> list[str]:
    """Return the roles that the schema of a plan allows in a step."""
    node = schema.schema
    for name in ("properties", "steps", "items", "properties", "role"):
        node = json_object(node.get(name))
    return list(node.get("enum", ()))


def _role(text: str, task: str, roles: list[str], analyse: Analyse) -> str:
    """Return the role that the analysis finds for a step, else for the whole task, else the first allowed role."""
    for part in (text, task):
        role = analyse(part, roles=roles).role
        if role in roles:
            return role
    return roles[0] if roles else ""


def _groups_that_fit(task: str) -> list[list[str]]:
    """Return the groups of a task with at most 12 parts in all; parts beyond that are joined into the last one."""
    groups = [group for group in _groups(task) if group] or [["Do the task."]]
    parts = [part for group in groups for part in group]
    if len(parts) <= MAX_STEPS:
        return groups
    rest = "; ".join(parts[MAX_STEPS - 1 :])[:_MAX_INSTRUCTION_CHARS]
    return [[part] for part in (*parts[: MAX_STEPS - 1], rest)]


def _groups(task: str) -> Iterator[list[str]]:
    """Yield the parts of a task in groups that follow one another.

    Each item of a numbered list is a group. The items of another list are one group. Without a list, each sentence is
    a group of the parts that "and" joins in it.
    """
    lines = task.splitlines()
    numbered = [match[1] for line in lines if (match := _NUMBER.fullmatch(line))]
    bullets = [match[1] for line in lines if (match := _BULLET.fullmatch(line))]
    if len(numbered) > 1:
        yield from (_cleaned([item]) for item in numbered)
    elif len(bullets) > 1:
        yield _cleaned(bullets)
    else:
        yield from (_cleaned(_AND.split(sentence)) for sentence in _SENTENCE.split(task))


def _cleaned(parts: list[str]) -> list[str]:
    """Return the parts as instructions, without punctuation at their ends; drop parts without a letter or digit."""
    texts = (" ".join(part.split()).strip(" ,;:.")[:_MAX_INSTRUCTION_CHARS] for part in parts)
    return [text[:1].upper() + text[1:] for text in texts if any(c.isalnum() for c in text)]
