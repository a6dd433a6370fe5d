"""The texts of the project are plain English: words and forms that readers stumble over do not come back."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECKED = (
    "*.md",
    "*.toml",
    "*.yaml",
    "Makefile",
    "benchmarks",
    "docs",
    "examples",
    "src",
    "tests",
    "tools",
)
"""Files, folders and glob patterns, such as `src`, `docs` and `*.md`."""
ALLOWED = frozenset(
    {"cannot check is no finding", "A contract draft is no legal advice", "An answer nobody took up"},
)
"""Parts of sentences that may keep one of the words: two of prompts, one of a golden record. Neither may change."""

_SUFFIXES = frozenset({".md", ".py", ".toml", ".yaml"})
_PRONOUN = r"(?i:\b(?:any|no|some)body\b|\bwhoever\b)"
_IS_NO = r"(?i:(?<!\bthere )\bis\s+no\s+(?!longer\b))"
_IS_NONE = r"\b(?:is|are)\s+none\b"
_OFFENCE = re.compile(f"{_PRONOUN}|{_IS_NO}|{_IS_NONE}")
_LIMIT = re.compile(r"_?(?:(?:[A-Z0-9_]+_)?(?:MOST|LEAST)|(?:LONGEST|SHORTEST)_[A-Z0-9_]+)")
_TEXT_TOKENS = frozenset({tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)})


def _files(checked: tuple[str, ...]) -> Iterator[Path]:
    """Yield the text files of some roots, without the ADRs (never edited) and this file (it quotes the words)."""
    for pattern in checked:
        for path in sorted(ROOT.glob(pattern)):
            found = sorted(path.rglob("*")) if path.is_dir() else [path]
            yield from (
                file
                for file in found
                if file.is_file()
                and (file.suffix in _SUFFIXES or file == path)
                and "docs/adr" not in file.parent.as_posix()
                and file != Path(__file__)
            )


def _texts(file: Path) -> Iterator[tuple[int, str]]:
    """Yield each text for readers with its first line: comments and strings of Python code, else the whole file."""
    if file.suffix != ".py":
        yield 1, file.read_text(encoding="utf-8")
        return
    with file.open("rb") as code:
        for token in tokenize.tokenize(code.readline):
            if token.type in _TEXT_TOKENS:
                yield token.start[0], token.string


def _offences(first_line: int, text: str, allowed: frozenset[str]) -> Iterator[str]:
    """Yield the line number and the line of each offence in a text."""
    for sentence in allowed:
        text = text.replace(sentence, " " * len(sentence))
    lines = text.split("\n")
    for found in _OFFENCE.finditer(text):
        number = text.count("\n", 0, found.start())
        yield f"{first_line + number}: {lines[number].strip()}"


def test_texts_avoid_the_words_that_readers_stumble_over() -> None:
    """STYLE: "is not valid base64" instead of "is no base64", "no caller" instead of "nobody"."""
    files = list(_files(CHECKED))
    found = [
        f"{file.relative_to(ROOT)}:{offence}"
        for file in files
        for line, text in _texts(file)
        for offence in _offences(line, text, ALLOWED)
    ]

    assert found == [], "\n".join(found)
    assert len(files) > len(CHECKED)


@pytest.mark.parametrize("pattern", CHECKED)
def test_each_checked_path_exists(pattern: str) -> None:
    assert list(_files((pattern,)))


def test_limits_are_named_max_and_min() -> None:
    """Not `PROMPT_MOST` or `LONGEST_PROMPT`, but `MAX_PROMPT_CHARS`."""
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}: {node.id}"
        for file in _files(("src", "tools", "benchmarks", "tests"))
        if file.suffix == ".py"
        for statement in ast.parse(file.read_bytes()).body
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and _LIMIT.fullmatch(node.id)
    ]

    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "It is no base64.",
        "This is no\nengine.",
        "Nobody knows the price.",
        "A call of somebody else.",
        "Ask anybody.",
        "Whoever waits is not claimed.",
        "One where there is none.",
        "Names that are none.",
    ],
)
def test_an_offence_is_found(text: str) -> None:
    assert list(_offences(7, f"First line.\n{text}", frozenset())) == [f"8: {text.partition(chr(10))[0]}"]


@pytest.mark.parametrize(
    "text",
    ["It is None.", "There is no backup.", "The engine is no longer configured.", "It is not known.", "A body."],
)
def test_plain_sentences_pass(text: str) -> None:
    assert list(_offences(1, text, frozenset())) == []


def test_an_allowed_sentence_does_not_excuse_its_neighbour() -> None:
    text = "It is no charge.\nIt is no call."

    assert list(_offences(1, text, frozenset({"It is no charge"}))) == ["2: It is no call."]


@pytest.mark.parametrize("sentence", sorted(ALLOWED))
def test_each_allowed_sentence_is_still_in_a_text(sentence: str) -> None:
    assert any(sentence in text for file in _files(CHECKED) for _, text in _texts(file))
