"""Which steps a request asks for: the verbs at which its clauses begin, in the order they stand."""

from __future__ import annotations

import re
from collections.abc import Iterator

# A clause that begins with one of these is a step of work; the groups are the specialities a plan would need.
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


# How words of work begin, whatever their ending; a line is one kind of work, however often and in how many words
# it is named: "identify the objects, please detect and label them" is one.
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
# After these a "to" begins what the caller wants done; after other words it only says what for.
WANTING = _words("want need like love wish help is have you me us task goal required trying going asked and")
FILLERS = _words("please also just now kindly me can could would will you we i i'd i'm need want like us let's")

ITEM = re.compile(r"^[ \t]*(?:\d{1,2}[.)]|[-*•])\s+(?=\w)", re.MULTILINE)
_LETTERS = re.compile(r"[^\W\d_]+")
_TOKEN = re.compile(r"\.?[^\W_](?:[\w'+#-]|\.(?=\w))*|[,;:.!?\n]")


def tokens(text: str) -> list[str]:
    """Words in lower case, as programmers write them too (c++, node.js), and punctuation."""
    return _TOKEN.findall(text.lower())


def kinds_of_work(text: str) -> int:
    """How many kinds of work the words of a text in lower case name."""
    found = set()
    for word in _LETTERS.findall(text):
        size = next((size for size in _SIZES if word[:size] in _KIND_OF), 0)
        if size and len(word) - size <= (7 if size > 4 else 3):
            found.add(_KIND_OF[word[:size]])
    return len(found)


def orders(text: str) -> str:
    """The first line, and the lines after it that begin with a verb of work, bullets aside."""
    lines = text.strip().split("\n")
    return "\n".join(lines[:1] + [line for line in lines[1:] if set(tokens(ITEM.sub("", line))[:1]) & GROUP_OF.keys()])


def steps(words: list[str]) -> Iterator[str]:
    """The verbs at which a clause of the request begins."""
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
