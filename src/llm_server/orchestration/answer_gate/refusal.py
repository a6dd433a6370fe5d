"""Recognise answers that decline to answer, in English, German, French and Spanish."""

from __future__ import annotations

import re

MAX_READ_CHARS = 600
"""A longer text is not taken for a refusal: it may begin like one, but then it answers."""

_AI = r"as an? (?:ai|artificial intelligence|(?:large )?language model)"
_SORRY = (
    r"(?:i(?: am|['’]?m)? (?:very |really |so )?(?:sorry|afraid(?: that)?)|i (?:deeply )?apologi[sz]e|sorry|no|"
    r"unfortunately|my apologies)?[\s,.!:;-]*(?:but )?"
)
_CANNOT = r"i(?: am|['’]m)? ?(?:can ?not|can['’]t|won['’]t|will not|unable to|(?:am )?not able to|not allowed to) "
_A_FILE = (
    r"(?:the |your |this |that |these |any |an? )?(?:[\w-]+ ){0,2}(?:files?|images?|pictures?|photos?|videos?|audio|"
    r"links?|urls?|(?:web ?)?sites?|(?:web ?)?pages?|documents?|attachments?|internet|web|content|screens?|data|"
    r"information)\b"
)
_A_TEXT = (
    r"(?:[\w'’,-]+ ){0,5}?(?:content|material|story|stories|fiction|scenes?|text|code|malware|essays?|articles?)\b"
)
_DO = (
    r"(?:help(?! but\b| it\b| \w+ing\b)|assist|answer|comply|fulfil|complete|provide|generate|create|produce|process|"
    rf"perform|solve|engage|discuss|continue (?:with )?th(?:is|at)|do th(?:is|at)|(?:access|see|view|open) {_A_FILE}|"
    rf"write {_A_TEXT})"
)
# Phrases of models that decline to answer. The verbs differ from those of, say, a letter that declines an invitation.
_REFUSALS = (
    rf"{_SORRY}{_SORRY}(?:{_AI}[^,.]{{0,40}}, )?{_CANNOT}(?:really |directly |currently )?{_DO}",
    rf"{_SORRY}i (?:must|have to|need to|will have to) (?:respectfully |politely )?(?:decline|refuse) "
    rf"(?:to {_DO}|(?:this|that|your|the) (?:request|prompt|question|task)\b)",
    rf"{_AI}[^.]{{0,60}}\bi (?:do not|cannot|(?:don|can)['’]t)",
    r"(?:(?:es )?tut mir (?:sehr |wirklich )?leid|entschuldigung|leider)?[\s,.!:;-]*(?:aber |doch )?"
    r"(?:(?:dabei|damit|hierbei|das) )?(?:ich kann|kann ich)(?: (?:dabei|damit|hierbei|hier|dir|ihnen|leider|auch|das"
    r"|diese[rnms]? [\w-]+|(?:bei|auf) (?:diese|deine|ihre)[rm]? [\w-]+)){0,5} nicht (?:weiter ?)?"
    r"(?:helfen|behilflich|unterstützen|(?:be)?antworten|erfüllen|nachkommen|entsprechen|bereitstellen|erstellen)",
    r"(?:(?:je suis )?désolée?|malheureusement)?[\s,.!:;-]*(?:mais )?je ne (?:peux|suis) pas "
    r"(?:(?:en mesure|capable) (?:de |d['’]))?(?:vous |t['’]|te |y )?"
    r"(?:aider|assister|répondre|fournir|satisfaire|traiter|accéder|générer|créer)",
    r"lo siento[^.]{0,20}\bno puedo (?:ayudar|responder|cumplir|proporcionar|hacer)",
    r"(?:lamentablemente[\s,]*)?no puedo (?:ayudar(?:te|le|los)? (?:con|en)|cumplir|responder a)\b",
)
_SORRY_WORDS = r"\b(?:sorry|can['’]?t|can ?not|unable|leid|nicht|désolée?|ne peux|lo siento|no puedo)\b"
_WORDS_ASKED_FOR = (
    r"\b(?:declin|refus|reject|apolog|regret|excus|sorry for|turn(?:ing)? (?:\w+ ){0,3}down|say(?:ing)? no\b|quotation|"
    r"translat|paraphras|rephras|reword|rewrit|proofread|absag|ablehn|entschuldig|übersetz|umformulier|tradu|rechaz|"
    r"disc[uú]lp)"
    rf"|[\"“„«][^\"“”„«»\n]{{0,80}}{_SORRY_WORDS}"
    rf"|(?:(?<!\w)['‘]|\b(?:repeat|say|write|type|print|output|reply|respond|answer)\b[^.:\n]{{0,30}}:)[^\n]{{0,80}}{_SORRY_WORDS}"
)


def is_refusal(request: str, text: str) -> bool:
    """Return whether a text declines to answer.

    Returns False if the request asks for a text with such words, for example for a letter or a translation.
    """
    if len(text) > MAX_READ_CHARS:
        return False
    plain = " ".join(re.sub(r"[*_\"“”„«»>]", "", text).split())
    if not any(re.match(refusal, plain, re.IGNORECASE) for refusal in _REFUSALS):
        return False
    return re.search(_WORDS_ASKED_FOR, request, re.IGNORECASE) is None
