"""Compute the features of a prompt for the trained tables: word classes, hashed runs of words, and figures of its form.

The training tool and the server call the same functions, so both compute the same features.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from zlib import crc32

from llm_server.orchestration.routing.clauses import kinds_of_work
from llm_server.orchestration.routing.signals import Signals
from llm_server.orchestration.routing.tokens import pieces


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that connect the parts of a request. All other words are counted by class only.
_FUNCTION_WORDS = _words("""
    i'd i'll i'm i we you me my our it its it's them they this that these those the a an is are be was will
    would could can should like want need help please to for of in on at with from by about into and or then
    also after before once when next finally lastly first second third additionally afterwards while so both
    each all which who what how where if but not have has had do does make get using use based as well same
    result results generated given provided along let's us his her their he she output text image audio video
    file
""")
_QUOTED = re.compile(
    r"(?<!\w)'(?:[^'\n]|'(?=\w))*(?:'|$)|\"[^\"\n]*(?:\"|$)|\S{1,80}\.(?:jpg|png|wav|mp3|mp4|txt)\S*", re.MULTILINE
)
_MAY_BE_QUOTED = ("'", '"', ".jpg", ".png", ".wav", ".mp", ".txt")
_CLASSED = re.compile(r"[^\W_]+(?:'[a-z]+)?|[,.;:?!\n]")
_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_OPTION = re.compile(r"^\(?[A-E][.)] ", re.MULTILINE)
_ASKED_AMOUNT = re.compile(
    r"\bhow (?:many|much|long|far|old|tall|fast)\b|\bwhat (?:is|was|will be) the\b", re.IGNORECASE
)
_NEGATION = re.compile(r"\b(?:not|NOT|except|EXCEPT|least)\b")
_CONDITION = re.compile(r"\bif\b", re.IGNORECASE)
_SHARE = re.compile(r"percent|%|half|twice|third|times", re.IGNORECASE)
_SENTENCE = re.compile(r"[.!?]\s")
WORDS_SCALE = 3.0
"""The words of a prompt together count as much as nine features of equal size, however many they are."""
_CLASS_OF = {"0quoted": "Q"} | {word: word for word in (*_FUNCTION_WORDS, *",.;:?!\n")}
_MAX_FIRST, _MAX_LAST, _MAX_SENTENCE = 150, 70, 60
_SHORT_ORDER = 80


def word_classes(prose: str) -> Counter[str]:
    """Count function words, punctuation, numbers (`N`), quotations (`Q`) and runs of other words (`x`).

    The caller has replaced each quotation by the word "0quoted". The one-letter names are keys of the data file.
    """
    counts: Counter[str] = Counter()
    before = ""
    for word in _CLASSED.findall(prose):
        kind = _CLASS_OF.get(word) or ("N" if word[0].isdigit() else "x")
        if kind != "x" or before != "x":
            counts[kind] += 1
        before = kind
    return counts


def step_figures(s: Signals) -> dict[str, float]:
    """Return the features that distinguish a task of several steps from a task of one step."""
    prose = s.prose.lower()
    if any(part in prose for part in _MAY_BE_QUOTED):
        prose = _QUOTED.sub(" 0quoted ", prose)
    figures = {kind: math.log1p(n) for kind, n in word_classes(prose).items()}
    return figures | {
        "kinds of work": 2 * math.log1p(kinds_of_work(prose)),
        "order": min(s.sequence, 3),
        "numbered": min(s.numbered, 5) / 2,
    }


def bucket(gram: str, bits: int) -> int:
    """Return the row of a run of words in a hashed table of 2**bits rows; lone surrogates are allowed."""
    return crc32(gram.encode("utf-8", "surrogatepass")) & ((1 << bits) - 1)


def buckets(grams: Iterable[str], bits: int) -> list[int]:
    """Return the rows of several runs, in an order that does not depend on Python's hash seed."""
    mask = (1 << bits) - 1
    return [crc32(gram.encode("utf-8", "surrogatepass")) & mask for gram in sorted(grams)]


def field_grams(s: Signals) -> set[str]:
    """Return the features for the field of work.

    They are the words, the pairs of neighbouring words and the beginnings of long words of the whole text, the words of
    the first sentence, and the first one, two and three words. Of a long text, the first 150 and the last 70 words are
    used.
    """
    whole, first = pieces(s.words), pieces(s.first)[:_MAX_SENTENCE]
    if len(whole) > _MAX_FIRST + _MAX_LAST:
        whole = whole[:_MAX_FIRST] + whole[-_MAX_LAST:]
    grams = {f"w {word}" for word in whole}
    grams.update([f"b {a} {b}" for a, b in pairwise(whole)])
    grams.update([f"f {word}" for word in first])
    grams.update([f"s {' '.join(first[:size])}" for size in (1, 2, 3)])
    for word in whole:
        if len(word) > 4:
            grams.add(f"p {word[:4]}")
            if len(word) > 6:
                grams.add(f"q {word[:6]}")
    return grams


def word_grams(text: str) -> set[str]:
    """Return the words of a text and its pairs of neighbouring words."""
    words = _WORD.findall(text.lower())
    return {*words, *map(" ".join, pairwise(words))}


def form(s: Signals, steps_logit: float) -> dict[str, float]:
    """Return the figures of a prompt's form by name, scaled to similar sizes."""
    return {
        "question": float(s.question),
        "question mark": float(s.question_mark),
        "code fence": float(s.fence),
        "lines of code": float(s.code_lines > 1),
        "names as in code": float(s.code_names > 0),
        "mathematical notation": float(s.maths),
        "numbers": min(s.numbers, 4) / 4,
        "length": math.log1p(s.length) / 4,
        "number of characters": math.log1p(s.characters) / 4,
        "many characters": max(math.log1p(s.characters) - 5, 0.0) / 2,
        "lines": math.log1p(s.text.count("\n")) / 2,
        "short prompt": float(s.length <= 12),
        "number of steps": min(len(s.steps), 5) / 3,
        "order words": float(min(s.sequence, 3)),
        "persona": float(bool(s.title)),
        "list items": min(s.items, 6) / 4,
        "numbered items": min(s.numbered, 5) / 3,
        "steps in order": _steps_in_order(s),
        "three specialities": float(_specialities(s) >= 3 and s.length <= _SHORT_ORDER and not s.title),
        "specialities": len(s.groups) / 3,
        "several steps": max(-4.0, min(4.0, steps_logit)) / 2,
    }


def _steps_in_order(s: Signals) -> float:
    """Return 0 for fewer than two steps, and more for more steps, words of order and specialities.

    A persona's list may name its duties, so it counts less.
    """
    steps, groups = len(s.steps), min(_specialities(s), 4)
    if steps < 2:
        return 0.0
    weight = min(1.2 * steps - 1.4, 4.5) + min(0.6 * s.sequence, 1.2) + 1.2 * max(groups - 1, 0)
    return weight * (0.2 if s.title else 0.5)


def _specialities(s: Signals) -> int:
    return len(s.groups - {"errand"})


def kind_of_question(text: str) -> str | None:
    """Return "exam" for a question with lettered answers, "sum" for a word problem with numbers, else None."""
    if len(_OPTION.findall(text)) >= 2:
        return "exam"
    if "?" in text and "```" not in text and (len(_NUMBER.findall(text)) >= 2 or _ASKED_AMOUNT.search(text)):
        return "sum"
    return None


def spread(text: str) -> tuple[float, float, float]:
    """Return the logarithms of word count, comma count and words per distinct word. All three grow with difficulty."""
    words = _WORD.findall(text.lower())
    return math.log1p(len(words)), math.log1p(text.count(",")), math.log(max(len(words), 1) / max(len(set(words)), 1))


def question_form(text: str) -> tuple[float, ...]:
    """Return the features of an exam question or a word problem, in the order of their weights in the data file."""
    body, _, answers = text.partition("\nA. ")
    words, numbers = text.split(), _NUMBER.findall(body)
    sentences = max(len(_SENTENCE.split(body)), 1)
    return (
        *spread(text),
        math.log1p(len(body.split())),
        math.log1p(len(answers)),
        math.log1p(len(numbers)),
        min(len(set(numbers)), 10) / 4,
        math.log1p(sentences),
        len(words) / sentences / 20,
        sum(map(len, words)) / max(len(words), 1) / 5,
        float(bool(_NEGATION.search(body))),
        float("|" in body),
        float("_" in body),
        float(body.rstrip().endswith("?")),
        min(sum(map(text.count, "=+-*/^\\$")), 20) / 5,
        sum(map(str.isupper, text)) / max(len(text), 1) * 10,
        min(body.count(","), 20) / 5,
        float(bool(_CONDITION.search(body))),
        float(bool(_SHARE.search(body))),
    )
