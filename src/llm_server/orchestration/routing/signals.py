"""Read the signals of a prompt: its words, its structure, its steps."""

from __future__ import annotations

import re

from msgspec import Struct

from llm_server.orchestration.routing import clauses, lexicon, tokens

HEAD_CHARS = 1_000
TAIL_CHARS = 500
# Steps are looked for in the beginning of a prompt only; later text is mostly material.
STEPS_CHARS = 700
_MAX_SENTENCE = 40
_MIN_BEFORE_ABOUT = 2

_ROLE_NAME = r"\b\w{1,30}(?:-\w{1,30}){0,2}-agent\b"
_SETTING = r"\b(?:role|mode|profile|engine|tier|confidence|complexity|deadline_s|max_\w{1,30})"
# Text that tries to set the server's own parameters (role, mode, limits) is removed before the prompt is read.
_DIRECTIVE = (
    r"(?i)(?:(?:use|set|switch(?:\sto)?|select|choose|force|take)\s+)?(?:the\s+)?"
    rf"(?:[\"']?{_SETTING}[\"']?\s*[:=]\s*[\"']?[\w.-]+|{_SETTING}\s+(?:to|is)\s+(?:chat|agent|plan)\b"
    rf"|{_SETTING}\s+{_ROLE_NAME}|{_ROLE_NAME}|\b(?:chat|agent|plan)[ -]mode\b)"
    r"[\"']?(?:\s+(?:role|profile|mode)\b)?\s*[.,;!]?"
)
# Each directive has one of these words. Looking for them first takes a hundredth of the time.
_DIRECTIVE_WORDS = (
    "role", "mode", "profile", "engine", "tier", "confidence", "complexity", "deadline_s", "max_", "-agent",
)  # fmt: skip
_SENTENCE_END = re.compile(r"(?<=[.!?。？！])\s+|\n+")
_FENCE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_QUOTED = re.compile(r"(?<!\w)'[^'\n]{0,300}'(?!\w)|\"[^\"\n]{0,300}\"|“[^”\n]{0,300}”")
_CODE_LINE = re.compile(
    r"^[ \t]*(?:def \w|class \w+[:({]|import \w+$|from \w+ import|#include|public \w|private \w"
    r"|function \w*\(|const \w|let \w+ =|var \w+ =|if ?\(|for ?\(|for \w+ in |while ?\(|return "
    r"|select .+ from |</?\w+[ >]|@\w+|\$ \w|printf)|[;{]\s*$",
    re.IGNORECASE | re.MULTILINE,
)
_CODE_NAME = re.compile(
    r"\b\w+\.(?:py|js|ts|java|cpp|cs|rs|go|html|css|ipynb|sql|sh|toml|ya?ml)\b"
    r"|\b\w+\(\w*\)|\b[a-z]+[A-Z]\w+\(|\b[A-Z]\w{1,40}(?:Error|Exception)\b"
)
_MATHS = re.compile(r"\$[^$\n]{1,200}\$|\\(?:frac|sqrt|ket|sum|int|begin|angle)\b|\d\s*[=^]\s*\d|\bx\^\d")
_MATHS_SIGNS = "$\\=^"
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_NUMBERED = re.compile(r"^[ \t]*\d{1,2}[.)]\s+(?=\w)", re.MULTILINE)
_PERSONA = re.compile(
    r"\b(?:act (?:as|like)|you are (?=an? |the |chief )|assume the role of|imagine you are"
    r"|pretend (?:yourself )?to be|take (?:on )?the role of|your role is"
    r"|as an? (?=[\w ]{3,40}(?:er|or|ist|ant|expert),))"
    r"\s*(?:an? |the )?([^.,;:\n]{2,60})",
    re.IGNORECASE,
)
_POLITE = re.compile(r"(?:can|could|would|will) (?:you|u)\b")


class Signals(Struct, frozen=True, kw_only=True):
    """The signals of a prompt.

    `text` is the part that was read, `prose` the same without code. `words` are those of the text, `first` and `last`
    those of the first and last sentence of the prose without quotations, `head` those of the request up to the word
    "about", `title` the persona that the engine is asked to take. `length` counts the words of the whole prompt,
    `characters` its characters. `steps` are the verbs that begin a clause, `groups` the specialities that these steps
    need. `sequence` is the number of words of order, such as "then".
    """

    text: str
    prose: str
    words: list[str]
    first: list[str]
    last: list[str]
    head: tuple[str, ...]
    title: tuple[str, ...]
    length: int
    characters: int
    question: bool
    question_mark: bool
    fence: bool
    code_lines: int
    code_names: int
    maths: bool
    numbers: int
    items: int
    numbered: int
    steps: tuple[str, ...]
    groups: frozenset[str]
    sequence: int


def read(prompt: str) -> Signals:
    """Read a prompt of any length; only its first 1,000 and its last 500 characters are used."""
    text = _neutral(excerpt(prompt))
    prose = _FENCE.sub("\n", text) if "```" in text else text
    sentences = _sentences(prose)
    unquoted = _without_quotations(prose)
    asked = sentences if unquoted == prose else _sentences(unquoted)
    first = tokens.words(asked[0]) if asked else []
    last = tokens.words(asked[-1]) if len(asked) > 1 else first
    request = _request(sentences)
    persona = _PERSONA.search(prose, 0, STEPS_CHARS)
    words = _words(request)
    about = words.index("about") if "about" in words else len(words)
    listed = clauses.orders(prose[:STEPS_CHARS])
    unquoted = _without_quotations(prose[:STEPS_CHARS])
    opened = clauses.tokens(listed if unquoted == prose[:STEPS_CHARS] else clauses.orders(unquoted))
    steps = tuple(dict.fromkeys(clauses.steps(opened)))
    return Signals(
        text=text,
        prose=prose,
        words=tokens.words(text),
        first=_before_about(first[:_MAX_SENTENCE]),
        last=last[-_MAX_SENTENCE:],
        head=words[:about],
        title=_words(persona.group(1)) if persona else (),
        characters=len(prompt),
        length=len(prompt) // 6 if len(prompt) > HEAD_CHARS + TAIL_CHARS else len(text.split()),
        question=_asks(request),
        question_mark=text.rstrip().endswith(("?", "？")),
        fence="```" in text,
        code_lines=len(_CODE_LINE.findall(text)),
        code_names=len(_CODE_NAME.findall(text)),
        maths=any(sign in text for sign in _MATHS_SIGNS) and bool(_MATHS.search(text)),
        numbers=len(_NUMBER.findall(request)),
        items=len(clauses.ITEM.findall(prose)),
        numbered=len(_NUMBERED.findall(listed)),
        steps=steps,
        groups=frozenset(clauses.GROUP_OF[verb] for verb in steps),
        sequence=len(clauses.SEQUENCE.intersection(opened)),
    )


def excerpt(prompt: str) -> str:
    """Return the first 1,000 and the last 500 characters of a prompt, or all of a shorter one."""
    if len(prompt) <= HEAD_CHARS + TAIL_CHARS:
        return prompt
    return prompt[:HEAD_CHARS] + "\n" + prompt[-TAIL_CHARS:]


def _neutral(text: str) -> str:
    lower = text.replace("İ", "i").replace("ı", "i").replace("ſ", "s").lower()  # as IGNORECASE takes these letters
    if any(word in lower for word in _DIRECTIVE_WORDS):
        text = tokens.compiled(_DIRECTIVE).sub(" ", text)
    return text.replace("\0", " ").replace("’", "'")


def _without_quotations(text: str) -> str:
    return _QUOTED.sub(" ", text) if "'" in text or '"' in text or "“" in text else text


def _sentences(text: str) -> list[str]:
    return [part for part in _SENTENCE_END.split(text) if part and part.strip()]


def _before_about(words: list[str]) -> list[str]:
    """Return the words before "about", if there are at least two: what follows is the topic, not what is asked for."""
    about = words.index("about") if "about" in words else 0
    return words[:about] if about >= _MIN_BEFORE_ABOUT else words


def _request(sentences: list[str]) -> str:
    """Return the first two sentences and a closing question; the others are mostly material."""
    closing = sentences[2:][-1:]
    return "\n".join(sentences[:2] + [part for part in closing if part.rstrip().endswith("?")])


def _words(text: str) -> tuple[str, ...]:
    return tuple(token.rstrip(".'-") for token in clauses.tokens(text) if token[-1].isalnum() or token[0].isalnum())


def _asks(request: str) -> bool:
    """Return whether a sentence of the request begins with a question word; "could you ..." does not count."""
    starts = (line.strip().lower() for line in _SENTENCE_END.split(request))
    return any(
        line.partition(" ")[0].rstrip(",?") in lexicon.QUESTIONS and not _POLITE.match(line) for line in starts if line
    )
