"""Code blocks of an answer, and whether those that can be parsed here do."""

from __future__ import annotations

import ast
import json
import re
import textwrap
import warnings
from typing import NamedTuple

BLOCK_MOST_CHARS = 20_000
BLOCKS_MOST = 20
_NO_PROGRAM = r"^\s*(?:>>>|%|!|\$ |In \[)|^\s*\.\.\.\s*$|<[a-z_ ]+>|…"
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
    return "".join(prose), blocks[:BLOCKS_MOST]


def broken_code(asked: str, text: str) -> str | None:
    """The language of the first block that does not parse; Python 3 and JSON are judged, excerpts and sessions not."""
    python = ("py", "python", "python3") if not re.search(r"\bpython ?2", asked, re.IGNORECASE) else ()
    for language, code in parted(text)[1]:
        if len(code) > BLOCK_MOST_CHARS or re.search(_NO_PROGRAM, code, re.MULTILINE):
            continue
        if language in python and not _is_python(code):
            return "Python"
        if language == "json" and "//" not in code and "..." not in code and not is_json(code):
            return "JSON"
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
