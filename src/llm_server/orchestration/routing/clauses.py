"""Find the steps that a request asks for: the verbs that begin its clauses, in their order."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

# A clause that begins with one of these verbs is a step. The groups are the specialities that a plan would need.
STEP_VERBS: dict[str, str] = {
    "build": """
        build implement develop code program refactor integrate migrate setup configure install automate
    """,
    "test": "test verify validate review audit check benchmark",
    "document": "document",
    "deploy": "deploy release publish launch ship host",
    "design": "design architect prototype sketch",
    "research": """
        research investigate compare analyze analyse evaluate survey find search identify examine gather
        collect
    """,
    "write": """
        write draft compose summarize summarise rewrite paraphrase translate edit proofread email send share
        post
    """,
    "money": "pay invest order purchase sell book reserve rent apply subscribe transfer",
    "media": """
        generate transcribe classify detect segment convert transform extract enhance record combine
        synchronize synthesize narrate download upload label crop add remove filter colorize retrieve
        animate overlay
    """,
    "errand": """
        schedule arrange organize organise attend remind deliver call borrow register enroll enrol play
        watch listen clean print consult adjust obtain answer make create plan present measure visualize
        perform suggest explain determine expand improve split monitor notify report save store submit reply
        budget estimate outline prepare recommend set get provide tell take have drive change
    """,
}


# The beginnings of words that name work; word endings are ignored. Each line is one kind of work and counts once:
# "identify the objects, please detect and label them" names one kind.
_KINDS_OF_WORK = """
    detect identif recogni classif label segment locat find search retriev extract look analy examin determin measur \
        estimat know understand
    answer ask question reply respon
    summar shorten condens
    translat
    transcri
    descri caption explain
    generat creat produc build writ draft compos design
    convert conversion transform turn chang edit modif add remov replac adjust
    enhanc improv clean denois
    speak speech spoken read narrat synthesi voice
    compar similar
    paraphras rewrit rephras reword simplif expand
    combin merg synchroni overlay mix
    animat video
    send shar post publish notif deliver
    book reserv
    order buy purchas rent
    pay transfer
    watch play listen
    attend join
    apply applic regist enrol subscri
    schedul arrang organi plan
    invest sell
    consult visit see
    test verif validat
    deploy releas launch ship
    review audit check proofread
    implement develop code coding program
    fix debug repair
    download upload save store
    teach learn study
    remind
"""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SEQUENCE = _words("""
    then next finally lastly afterwards afterward subsequently thereafter danach anschließend schließlich
    ensuite puis luego después after once additionally also meanwhile
""")
CONNECTORS = SEQUENCE | _words("and or & to und et y first firstly second secondly third please but i'll you")
# After these words, "to" begins a step ("I want you to write"); after other words it names a purpose.
WANTING = _words("want need like love wish help is have you me us task goal required trying going asked and")
FILLERS = _words("please also just now kindly me can could would will you we i i'd i'm need want like us let's")

ITEM = re.compile(r"^[ \t]*(?:\d{1,2}[.)]|[-*•])\s+(?=\w)", re.MULTILINE)
_LETTERS = re.compile(r"[^\W\d_]+")
_TOKEN = re.compile(r"\.?[^\W_](?:[\w'+#-]+|\.(?=\w))*|[,;:.!?\n]")


def tokens(text: str) -> list[str]:
    """Split a text into punctuation and words in lower case; names such as c++ and node.js stay whole."""
    return _TOKEN.findall(text.lower())


def kinds_of_work(text: str) -> int:
    """Count the kinds of work that a text in lower case names."""
    kinds = {_kind_of_work(word) for word in set(_LETTERS.findall(text)) if word[:_SHORTEST] in _SHORT_BEGINNINGS}
    return len(kinds - {None})


@lru_cache(maxsize=4096)
def _kind_of_work(word: str) -> int | None:
    """Return the number of the kind of work that a word names; the longest known beginning decides. None if unknown."""
    for size in _SIZES:
        if word[:size] in _KIND_OF:
            longest_ending = 7 if size > 4 else 3
            return _KIND_OF[word[:size]] if len(word) - size <= longest_ending else None
    return None


def orders(text: str) -> str:
    """Return the first line of a text and those later lines that begin with a step's verb; list marks are ignored."""
    first, *others = text.strip().split("\n")
    return "\n".join([first, *(line for line in others if _begins_with_verb(line))])


def _begins_with_verb(line: str) -> bool:
    words = tokens(ITEM.sub("", line))
    return bool(words) and words[0] in GROUP_OF


def steps(words: list[str]) -> Iterator[str]:
    """Yield the verbs that begin a clause of a request; `words` are its tokens."""
    opening, before = True, ""
    for word in words:
        if opening and word in GROUP_OF:
            yield word
            opening = False
        elif word == "to":
            opening = before in WANTING
        elif word in CONNECTORS or word in ",;:.!?\n":
            opening = True
        elif word not in FILLERS:
            opening = False
        before = word


GROUP_OF = {verb: group for group, verbs in STEP_VERBS.items() for verb in verbs.split()}
_KIND_OF = {start: n for n, line in enumerate(_KINDS_OF_WORK.strip().splitlines()) for start in line.split()}
_SIZES = sorted({len(start) for start in _KIND_OF}, reverse=True)
_SHORTEST = min(_SIZES)
_SHORT_BEGINNINGS = {start[:_SHORTEST] for start in _KIND_OF}
