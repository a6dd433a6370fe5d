"""Split an answer into prose and code blocks, and check that Python and JSON blocks parse."""

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
"""How many characters of code are parsed at most in all blocks together. A million characters take 2 s."""
_NOT_A_PROGRAM = (
    r"^[ \t]*(?:>>>|%|!|\$ |In \[)|^[ \t]*\.\.\.[ \t]*$|<[a-z_ ]+>|…|SyntaxError"
    r"|^[ \t]*(?:pip3?|python3?|conda|uv|poetry|npm|brew|sudo|apt|apt-get|git|cd) +[-\w.]"
)
_NOT_PLAIN_JSON = r"//|/\*|\.\.\.|^[ \t]*#"
_SOURCE = "an_engines_answer"


class Block(NamedTuple):
    """A fenced code block; `language` is the word after the opening fence in lower case, "" without one."""

    language: str
    code: str


def split_blocks(text: str) -> tuple[str, list[Block]]:
    """Split a text into its prose and its first 20 closed code blocks (CommonMark 0.31, 4.5, fences of backticks)."""
    prose, blocks, code = list[str](), list[Block](), list[str]()
    language: str | None = None
    for line in text.splitlines(keepends=True):
        mark = line.strip()
        if language is None and mark.startswith("```"):
            words = mark.strip("`").split()
            language, code = words[0].lower() if words else "", []
        elif language is not None and mark == "```":
            blocks.append(Block(language, "".join(code)))
            language = None
        else:
            lines = prose if language is None else code
            lines.append(line)
    return "".join(prose), blocks[:MAX_BLOCKS]


def broken_code(prompt: str, text: str) -> str | None:
    """Return the language of the first block of Python 3 or JSON that does not parse; None if all parse.

    Excerpts, shell and interpreter sessions, and code that the answer quotes from the `prompt` are not checked.
    """
    left_chars = MAX_CODE_CHARS
    _, blocks = split_blocks(text)
    for language, code in blocks:
        if len(code) > min(MAX_BLOCK_CHARS, left_chars) or re.search(_NOT_A_PROGRAM, code, re.MULTILINE):
            continue
        left_chars -= len(code)
        name = _broken(language, code)
        if name and _condensed(code) not in _condensed(prompt) and not (name == "Python" and _asks_python_2(prompt)):
            return name
    return None


def is_json(text: str) -> bool:
    """Return whether a text is a JSON document; also True if it is nested too deeply for Python's parser."""
    try:
        json.loads(text)
    except RecursionError:
        return True
    except ValueError:
        return False
    return True


def _broken(language: str, code: str) -> str | None:
    """Return the name of a block's language if the block does not parse, else None."""
    if language in ("py", "python", "python3") and not _is_python(code):
        return "Python"
    if language == "json" and not re.search(_NOT_PLAIN_JSON, code, re.MULTILINE) and not _is_any_json(code):
        return "JSON"
    return None


def _is_any_json(code: str) -> bool:
    """Return whether a block is a JSON document, has one on each line, or is an object without its braces."""
    return (
        is_json(code)
        or all(is_json(line) for line in code.splitlines() if line.strip())
        or is_json("{" + code.strip().rstrip(",") + "}")
    )


def _condensed(code: str) -> str:
    """Return code without white space and comments, because an answer may add a comment to the code it quotes."""
    return "".join(re.sub(r"#.*", "", code).split())


def _asks_python_2(prompt: str) -> bool:
    return bool(re.search(r"\bpython ?2", prompt, re.IGNORECASE))


def _is_python(code: str) -> bool:
    # Python would print a warning for an invalid escape such as "\d" in the engine's code. The filter applies
    # to this file name only. It is set each time, because `warnings.catch_warnings` elsewhere may have removed it.
    warnings.filterwarnings("ignore", module=_SOURCE)
    try:
        ast.parse(textwrap.dedent(code), filename=_SOURCE)
    except SyntaxError:
        return False
    except (ValueError, RecursionError, MemoryError):  # a NUL, or nesting that is too deep for the parser
        return True
    return True
