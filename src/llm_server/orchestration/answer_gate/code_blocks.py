"""Code blocks of an answer, and whether those that can be parsed here do."""

from __future__ import annotations

import ast
import json
import re
import textwrap
import warnings
from typing import NamedTuple

MAX_BLOCK_CHARS = 20_000
MAX_BLOCKS = 20
MAX_CODE_CHARS = 60_000
"""In all blocks: to parse them takes 2 s for each million characters."""
_NO_PROGRAM = (
    r"^[ \t]*(?:>>>|%|!|\$ |In \[)|^[ \t]*\.\.\.[ \t]*$|<[a-z_ ]+>|…|SyntaxError"
    r"|^[ \t]*(?:pip3?|python3?|conda|uv|poetry|npm|brew|sudo|apt|apt-get|git|cd) +[-\w.]"
)
_NO_PLAIN_JSON = r"//|/\*|\.\.\.|^[ \t]*#"
_SOURCE = "an_engines_answer"


class Block(NamedTuple):
    """A fenced block: the language its opening names, "" without one, and its lines."""

    language: str
    code: str


def parted(text: str) -> tuple[str, list[Block]]:
    """The prose of a text and its first twenty closed code blocks (CommonMark 0.31, 4.5, fences of backticks)."""
    prose, blocks, code = list[str](), list[Block](), list[str]()
    language: str | None = None
    for line in text.splitlines(keepends=True):
        mark = line.strip()
        if language is None and mark.startswith("```"):
            language, code = (mark.strip("`").split() or [""])[0].lower(), []
        elif language is not None and mark == "```":
            blocks.append(Block(language, "".join(code)))
            language = None
        else:
            (prose if language is None else code).append(line)
    return "".join(prose), blocks[:MAX_BLOCKS]


def broken_code(given: str, text: str) -> str | None:
    """The language of the first block that does not parse; Python 3 and JSON are judged.

    Not judged: excerpts, sessions, and what a block only quotes from what was `given`.
    """
    left_chars = MAX_CODE_CHARS
    for language, code in parted(text)[1]:
        if len(code) > min(MAX_BLOCK_CHARS, left_chars) or re.search(_NO_PROGRAM, code, re.MULTILINE):
            continue
        left_chars -= len(code)
        name = _broken(language, code)
        if name and _bare(code) not in _bare(given) and not (name == "Python" and _is_of_python_2(given)):
            return name
    return None


def is_json(text: str) -> bool:
    """Whether a text is a JSON document, or so deeply nested that nobody knows."""
    try:
        json.loads(text)
    except RecursionError:
        return True
    except ValueError:
        return False
    return True


def _broken(language: str, code: str) -> str | None:
    """The name of the language whose grammar a block breaks."""
    if language in ("py", "python", "python3") and not _is_python(code):
        return "Python"
    if language == "json" and not re.search(_NO_PLAIN_JSON, code, re.MULTILINE) and not _is_any_json(code):
        return "JSON"
    return None


def _is_any_json(code: str) -> bool:
    """Whether it is a document, one on each line, or the inside of an object."""
    return (
        is_json(code)
        or all(is_json(line) for line in code.splitlines() if line.strip())
        or is_json("{" + code.strip().rstrip(",") + "}")
    )


def _bare(code: str) -> str:
    """Code without white space and comments: an answer that quotes some may point at the place."""
    return "".join(re.sub(r"#.*", "", code).split())


def _is_of_python_2(given: str) -> bool:
    return bool(re.search(r"\bpython ?2", given, re.IGNORECASE))


def _is_python(code: str) -> bool:
    # An engine's `"\d"` is its own affair: no line on stderr. The filter is for this source alone, and set each time
    # because callers of `warnings.catch_warnings` may have taken it away.
    warnings.filterwarnings("ignore", module=_SOURCE)
    try:
        ast.parse(textwrap.dedent(code), filename=_SOURCE)
    except SyntaxError:
        return False
    except (ValueError, RecursionError, MemoryError):  # a NUL, or nesting no parser takes
        return True
    return True
