"""Read from a request which form its answer must have: JSON, yes or no, a number of words, and others.

The request must ask for the form in plain words. A form that is only spoken of does not count: in a long quotation,
and in a request for a quiz, a survey, a prompt or a program that asks for the form itself.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

MAX_QUOTED_CHARS = 12
"""A longer quotation is material. A shorter one may name the answer to give, as in: answer with "yes" or "no"."""
MAX_EXACT_WORDS = 20
"""An exact number of words above this is not checked: no engine keeps it reliably, strong ones included."""
MAX_AT_MOST_WORDS = 200

Unit = Literal["items", "words", "lines"]


class Demand(NamedTuple):
    """A form that the answer must have: the name of a form, or a number of items, words or lines.

    With `at_most`, fewer are allowed.
    """

    form: str
    unit: Unit | None = None
    number: int = 0
    at_most: bool = False


_START = r"(?:^|[.!?:;\n。！？：]\s*|\b(?:please|only|just|bitte|nur)\s+)"
_ANSWER = (
    r"(?:respond|reply|answer|format (?:your|the) (?:answer|response|output|result)|antworten?|antwortet|"
    r"r[ée]pond(?:s|ez)|responded?a?|contest[ae]n?|ответь(?:те)?|отвечай(?:те)?)\b"
)
_RETURN = r"(?:return|output|gib|liefere|renvo(?:ie|yez)|retournez?|devuelv[ae]|dame|верни(?:те)?|выведи(?:те)?)\b"
_BETWEEN = r"[^.!?\n]{0,40}?"
_ASKS_CODE = (
    r"\b(?:(?:function|method|class|classe|script|program|snippet|module|library|librarie|package|app|application|endpoint|"
    r"route|handler|query|querie|regex|regexe|expression|parser|algorithm|macro|formula|lambda|hook|component|command|bot|"
    r"server|service|website|test|tester|checker|validator|converter|calculator)s?|code|api|cli|implement\w*|refactor\w*|"
    r"debug\w*|python|sql|flask|django|fastapi|java\w*|typescript|node|react|rust|golang|kotlin|swift|ruby|php|perl|bash|"
    r"shell|powershell|excel|html|css|def|funktion|skript|programm|fonction|función|programa|функци\w+|программ\w+)\b"
    r"|\bc(?:\+\+|#)|関数|プログラム|函数|程序"
)
_ASKS_QUESTIONS = (
    r"\b(?:write|create|design|make|draft|compose|generate|prepare|build|give me|erstell\w*|schreib\w*|entwirf|"
    r"écri\w+|crée[rz]?|rédige\w*|escrib\w+|crea|diseña|напиши\w*|создай\w*|составь\w*)\b[^.!?\n]{0,60}?"
    r"\b(?:quiz\w*|survey|questionnaire|poll|exam|worksheet|prompt|instructions?|form|word problem|umfrage|fragebogen|"
    r"sondage|encuesta|cuestionario|опрос\w*|тест\w*|викторин\w*|промпт\w*)s?\b"
    r"|(?:クイズ|アンケート|プロンプト)[^。\n]{0,20}(?:作|書)|(?:写|设计|制作|创建)[^。\n]{0,20}(?:测验|问卷|调查|提示词)"
)
"""Matches requests for a text that asks its own readers for an answer."""
_QUOTED = r"\"([^\"\n]*)\"|“([^”\n]*)”|„([^“”\n]*)[“”]|«([^»\n]*)»|「([^」\n]*)」"

_FORMS = (
    (
        "JSON",
        r"(?:\b(?:as|in|with|only|valid|a|using|mit|als|nur|en|au format|con|formato|только|в)\s+(?:\w+\s+){0,2}"
        r"|(?<=return )|(?<=output ))JSON\b",
        r"JSON(?:形式)?(?:だけ)?(?:で|として)[^。\n]{0,10}(?:答え|返し|出力|回答)|(?:以|用|输出|返回|回答)[^。\n]{0,6}JSON",
    ),
    (
        "yes or no",
        r"\b(?:yes or no|yes/no|true or false|ja oder nein|wahr oder falsch|oui ou non|vrai ou faux|s[ií] o no|"
        r"verdadero o falso|да или нет)\b",
        r"はい\W{0,3}(?:か|または)\W{0,3}いいえ\W{0,3}(?:だけ|のみ)?で[^。\n]{0,4}(?:答え|回答)"
        r"|回答\W{0,3}是\W{0,3}(?:或|还是)\W{0,3}(?:否|不是)",
    ),
    (
        "a number",
        r"\b(?:only|just) (?:with )?(?:the |a |one )?(?:single |final )?(?:number|integer|digit)\b"
        r"|\bwith (?:the|a|one) (?:single )?(?:number|integer|digit) (?:only|alone)\b"
        r"|\bnur (?:mit )?(?:der|die|einer|eine) (?:zahl|ziffer)\b"
        r"|\b(?:uniquement|seulement) (?:par |avec )?(?:le|un) nombre\b"
        r"|\b(?:solo|sólo|únicamente) (?:con )?(?:el|un) número\b|\bтолько (?:числом|число|цифрой)\b",
        r"数字(?:だけ|のみ)で|只(?:回答|给出|输出|写)(?:一个)?数字",
    ),
    (
        "a letter",
        r"\b(?:only |just )?(?:with )?(?:only |just )?(?:the|a|one) (?:single )?letter\b"
        r"|\bnur (?:mit )?(?:dem|den|einem) buchstaben\b|\b(?:par|avec) la lettre\b|\bcon la letra\b|\bтолько буквой\b",
        r"(?:記号|文字)だけで答え|只回答字母",
    ),
    (
        "one word",
        r"\b(?:in|with|using) (?:only |just |exactly )?(?:one|a single) word\b"
        r"|\b(?:in|mit) (?:nur )?einem (?:einzigen )?wort\b"
        r"|\ben un (?:seul )?mot\b|\b(?:en|con) una (?:sola )?palabra\b|\bодним словом\b",
        r"一語で答え|用一个词回答",
    ),
    (
        "capital letters",
        r"\b(?:in (?:all )?(?:capital letters|capitals|caps|upper ?case)|in großbuchstaben|en may[úu]sculas|"
        r"en majuscules|заглавными буквами)\b",
        r"(?!)",
    ),
)
"""The name of each form, how a demand for it goes on in languages with spaces, and the whole demand in the others."""
_ALONE = (
    ("a number", r"(?:just|only) the (?:number|figure)\b\W*(?:please)?\W*(?:$|\n)"),
    (
        "one word",
        r"(?:in (?:one|a single) word|en una (?:sola )?palabra|en un seul mot|in einem wort|одним словом)\s*[,:]",
    ),
    (
        "capital letters",
        r"(?:write|print|schreibe?n?)\b[^.!?\n]{0,40}"
        r"\b(?:only in capital letters|in capital letters only|nur in großbuchstaben)\b",
    ),
    (
        "no commas",
        r"(?:do not|don['’]t|never) use (?:any )?commas\b|use no commas\b|(?:benutze|verwende) keine kommas\b",
    ),
)
"""Demands that need no word such as `answer`, because they are sentences of their own."""
_NUMBERS = {
    name: number
    for number, names in enumerate(
        (
            "one|eins|ein|une|un|uno|una|один",
            "two|zwei|deux|dos|два|две",
            "three|drei|trois|tres|три",
            "four|vier|quatre|cuatro|четыре",
            "five|fünf|cinq|cinco|пять",
            "six|sechs|seis|шесть",
            "seven|sieben|sept|siete|семь",
            "eight|acht|huit|ocho|восемь",
            "nine|neun|neuf|nueve|девять",
            "ten|zehn|dix|diez|десять",
        ),
        1,
    )
    for name in names.split("|")
}
_NUMBER = rf"(\d{{1,3}}|{'|'.join(_NUMBERS)})"
_EXACTLY = r"\b(?:exactly|genau|exactement|exactamente|ровно) "
_UP_TO = r"\b(?:at most|no more than|not more than|a maximum of|maximal|höchstens|au plus|como máximo|не более) "
_LIST_ITEMS = (
    r"(?:\w+ ){0,2}?(?:bullet points?|bullets|list items|numbered items|stichpunkte|viñetas|"
    r"(?:points|puntos)\b[^.!?\n]{0,40}\b(?:puces|viñetas|lista|liste)"
    r"|[^.!?\n]{0,40}\bas a (?:numbered |bulleted )?list)\b"
)
_COUNTS: tuple[tuple[Unit, bool, str], ...] = (
    ("items", False, rf"{_EXACTLY}{_NUMBER} {_LIST_ITEMS}"),
    ("words", False, rf"{_EXACTLY}{_NUMBER} (?:words|wörter|wörtern|mots|palabras|слов|слова)\b"),
    ("lines", False, rf"{_EXACTLY}{_NUMBER} (?:lines|zeilen|lignes|líneas|строк|строки)\b"),
    ("words", True, rf"{_UP_TO}{_NUMBER} (?:words|wörter|wörtern|mots|palabras|слов)\b"),
)


def demands(request: str, *, has_code: bool) -> list[Demand]:
    """Return the forms that a request asks for. `has_code`: the answer has a code block."""
    request = "\n".join(" ".join(line.split()) for line in request.splitlines() if line.strip())
    request = re.sub(_QUOTED, _unquoted, request)
    if re.search(_ASKS_QUESTIONS, request, re.IGNORECASE):
        return []
    asks_code = re.search(_ASKS_CODE, request, re.IGNORECASE) is not None
    found = list(_counts(request)) if not asks_code else list(_counts(request, only="items"))
    if asks_code and has_code:  # the form may be meant for the output of the program
        return found
    names = [*_asked(request, asks_code)]
    return [*(Demand(name) for name in dict.fromkeys(names)), *found]


def _unquoted(quotation: re.Match[str]) -> str:
    """Return a short quotation without its marks, and nothing in place of a long one."""
    text = next(group for group in quotation.groups() if group is not None)
    return text if len(text) <= MAX_QUOTED_CHARS else " "


def _asked(request: str, asks_code: bool) -> list[str]:
    """Return the names of the forms that a request demands; if it is about code, `return` may describe the code."""
    begin = rf"{_START}{_ANSWER if asks_code else f'(?:{_ANSWER}|{_RETURN})'}{_BETWEEN}"
    begins = re.search(begin, request, re.IGNORECASE)  # each demand begins so, and most requests have none
    found = [
        name
        for name, form, whole in _FORMS
        if (begins and re.search(rf"{begin}(?:{form})", request, re.IGNORECASE))
        or re.search(whole, request, re.IGNORECASE)
    ]
    if not asks_code:
        found += [name for name, form in _ALONE if re.search(rf"{_START}(?:{form})", request, re.IGNORECASE)]
    return found


def _counts(request: str, only: Unit | None = None) -> list[Demand]:
    """Return the demands for a number of items, words or lines."""
    found = []
    for unit, at_most, pattern in _COUNTS:
        asked = re.search(pattern, request, re.IGNORECASE) if only in (None, unit) else None
        if asked is None:
            continue
        number = int(asked[1]) if asked[1].isdigit() else _NUMBERS[asked[1].lower()]
        limit = MAX_AT_MOST_WORDS if at_most else MAX_EXACT_WORDS
        if 0 < number <= (limit if unit == "words" else 99):
            found.append(Demand(f"{'at most' if at_most else 'exactly'} {number} {unit}", unit, number, at_most))
    return found
