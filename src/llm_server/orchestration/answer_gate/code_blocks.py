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
MAX_LEAD_CHARS = 200
"""How many characters before a code block are searched for a word that says that the code is wrong on purpose."""
MAX_CODE_CHARS = 60_000
"""How many characters of code are parsed at most in all blocks together. A million characters take 2 s."""
_NOT_A_PROGRAM = (
    r"^[ \t]*(?:>>>|%|!|\$ |In \[|[├└│])|^[ \t]*\.\.\.[ \t]*$|<[A-Za-z_ -]+>|…|SyntaxError|\{%|_{3,}"
    r"|^[ \t]*(?:pip3?|python3?|conda|uv|poetry|npm|brew|sudo|apt|apt-get|git|cd) +[-\w.]"
)
_NEWER_PYTHON = (
    r"^[ \t]*type +\w+|^[ \t]*(?:async +)?(?:def|class) +\w+ *\[|(?<![\w'’])t[\"']|"
    r"\bf\"[^\"\n]{0,200}\{[^{}\"\n]{0,200}\"[^\n]{0,200}\}|\bf'[^'\n]{0,200}\{[^{}'\n]{0,200}'[^\n]{0,200}\}"
)
"""Syntax of Python 3.12 to 3.14, which the parser of an older Python refuses."""
_NOT_PLAIN_JSON = r"//|/\*|\.\.\.|^[ \t]*#|\{\{|\{%|<[A-Za-z_ -]+>"
_LEFT_OPEN = r"\.\.\.|\{\{|\{%|<[A-Za-z_ -]+>"
"""What is left out of JSON in an excerpt or a template, apart from comments."""
_BROKEN_ON_PURPOSE = (
    r"syntax ?error|\b(?:invalid|incorrect|wrong|broken|illegal|(?:not|n['’]t) (?:work|parse|compile|run|valid)|"
    r"fails|you wrote|python ?2|old(?:er)? (?:\w+ )?(?:versions?|way|syntax|style)|"
    r"ungültig|falsch|invalide|inválido)\b|\b(?:before|vorher|avant|antes) ?:"
)
_ASKS_OTHER_PYTHON = (
    r"\b(?:python ?2|old python|before python ?3|jython|iron ?python|cython|"
    r"(?:between|across|over)(?: \w+){0,2} (?:python versions|versions of python))\b"
)
"""A request for Python 2 or a language like Python, or a question about what changed in Python."""
_ASKS_NO_PROGRAM = r"\bpseudo-?[ck]ode|псевдокод|疑似コード|伪代码"
_HEADS = {
    "except": "try:\n pass\n",
    "finally": "try:\n pass\n",
    "else": "if x:\n pass\n",
    "elif": "if x:\n pass\n",
    "case": "match x:\n",
}
"""What must stand before a clause that an excerpt begins with."""
_SOURCE = "an_engines_answer"


class Block(NamedTuple):
    """A fenced code block.

    `language` is the word after the opening fence in lower case, "" without one. `lead` is the last line of prose
    before the block, "" without one.
    """

    language: str
    code: str
    lead: str


def split_blocks(text: str) -> tuple[str, list[Block]]:
    """Split a text into its prose and its first 20 closed code blocks (CommonMark 0.31, 4.5, fences of backticks)."""
    prose, blocks, code = list[str](), list[Block](), list[str]()
    language: str | None = None
    lead = ""
    for line in text.splitlines(keepends=True):
        mark = line.strip()
        if language is None and mark.startswith("```"):
            words = mark.strip("`").split()
            language, code = words[0].lower() if words else "", []
        elif language is not None and mark == "```":
            blocks.append(Block(language, "".join(code), lead))
            language, lead = None, ""
        elif language is not None:
            code.append(line)
        else:
            prose.append(line)
            lead = mark or lead
    return "".join(prose), blocks[:MAX_BLOCKS]


def broken_code(prompt: str, text: str) -> str | None:
    """Return the language of the first block of Python 3 or JSON that does not parse; None if all parse.

    Excerpts, shell and interpreter sessions, code that the answer shows as wrong, and code that it quotes from the
    `prompt` are not checked.
    """
    left_chars = MAX_CODE_CHARS
    _, blocks = split_blocks(text)
    for block in blocks:
        if len(block.code) > min(MAX_BLOCK_CHARS, left_chars):
            continue
        left_chars -= len(block.code)
        name = _broken(block, prompt)
        if name and _condensed(block.code) not in _condensed(prompt):
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


def _broken(block: Block, prompt: str) -> str | None:
    """Return the name of a block's language if the block does not parse and seems to be meant to parse, else None."""
    name = None
    if block.language in ("py", "python", "python3") and not _is_excerpt(block.code):
        asks_other = re.search(rf"{_ASKS_OTHER_PYTHON}|{_ASKS_NO_PROGRAM}", prompt, re.IGNORECASE)
        name = None if asks_other or _is_python(block.code) else "Python"
    elif block.language == "json":
        may_have_comments = not re.search(r"\b(?:valid|strict) JSON\b", prompt, re.IGNORECASE)
        left_open = re.search(_NOT_PLAIN_JSON if may_have_comments else _LEFT_OPEN, block.code, re.MULTILINE)
        name = None if left_open or _is_any_json(block.code) else "JSON"
    if name and re.search(_BROKEN_ON_PURPOSE, block.lead[-MAX_LEAD_CHARS:], re.IGNORECASE):
        return None
    return name


def _is_excerpt(code: str) -> bool:
    """Return whether Python code is a session, a template or a diff, or uses syntax that our Python may not know."""
    if re.search(_NOT_A_PROGRAM, code, re.MULTILINE) or re.search(_NEWER_PYTHON, code, re.MULTILINE):
        return True
    lines = [line for line in code.splitlines() if line.strip()]
    return all(line[0] in " +-@" for line in lines) and any(line[0] in "+-" for line in lines)


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


def _is_python(code: str) -> bool:
    """Return whether Python parses the code as it stands, after the head of its first clause, or as a signature."""
    code = textwrap.dedent(code).strip("\n")
    if _parses(code):
        return True
    first_word = re.match(r"[a-z]*", code)
    head = _HEADS.get(first_word[0] if first_word else "")
    if head is not None:
        return _parses(head + (textwrap.indent(code, " ") if head.startswith("match") else code))
    return "\n" not in code and (_parses(f"{code}: pass") or _parses(f"def {code}: pass"))


def _parses(code: str) -> bool:
    # Python would print a warning for an invalid escape such as "\d" in the engine's code. The filter applies
    # to this file name only. It is set each time, because `warnings.catch_warnings` elsewhere may have removed it.
    warnings.filterwarnings("ignore", module=_SOURCE)
    try:
        ast.parse(code, filename=_SOURCE)
    except SyntaxError:
        return False
    except (ValueError, RecursionError, MemoryError):  # a NUL, or nesting that is too deep for the parser
        return True
    return True
