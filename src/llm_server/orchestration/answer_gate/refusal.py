"""Recognise answers that decline to answer, in English, German, French, Spanish, Russian, Japanese and Chinese."""

from __future__ import annotations

import re

MAX_READ_CHARS = 600
"""A longer text is not taken for a refusal: it may begin like one, but then it answers."""

_AI = r"as an? (?:ai|artificial intelligence|(?:large )?language model)"
_AI_ELSEWHERE = (
    r"als (?:ki|künstliche intelligenz|(?:ki-)?sprachmodell|ki-\w+)[^.,]{0,30}\b(?:kann|darf|habe|bin|verfüge) ich\b",
    r"en tant qu(?:e |['’])(?:une? )?(?:ia|intelligence artificielle|modèle de langage|assistant)[^.]{0,40}"
    r"\bje ne (?:peux|suis|dispose)",
    r"como (?:una? )?(?:ia|inteligencia artificial|modelo de lenguaje|asistente)[^.]{0,40}\bno (?:puedo|tengo)",
    r"(?:как|будучи) (?:ии|искусственный интеллект|языков\w+ модел\w+)[^.]{0,40}\bя не (?:могу|имею)",
    r"作为(?:一个|一名)?(?:ai|人工智能|语言模型)[^。]{0,30}(?:无法|不能|没有)",
    r"(?:私は)?(?:ai|人工知能|言語モデル)(?:として|なので|ですので)[^。]{0,40}(?:できません|できかねます|持っていません)",
)
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
    rf"write {_A_TEXT}|(?:write|create|discuss|answer) (?:this|that)\b)"
)
# Phrases of models that decline to answer. The verbs differ from those of, say, a letter that declines an invitation.
_REFUSALS = (
    rf"{_SORRY}{_SORRY}(?:{_AI}[^,.]{{0,40}}, )?{_CANNOT}(?:really |directly |currently )?{_DO}",
    rf"{_SORRY}i (?:must|have to|need to|will have to) (?:respectfully |politely )?(?:decline|refuse) "
    rf"(?:to {_DO}|(?:this|that|your|the) (?:request|prompt|question|task)\b)",
    rf"{_AI}[^.]{{0,60}}\bi (?:do not|cannot|(?:don|can)['’]t)",
    rf"{_SORRY}i (?:do not|don['’]t) have the (?:ability|capability|permission) to {_DO}",
    rf"{_SORRY}i(?: am|['’]m) not comfortable (?:writing|with|answering|providing|discussing|creating) (?:that|this)\b",
    r"(?:(?:es )?tut mir (?:sehr |wirklich )?leid|entschuldigung|leider)?[\s,.!:;-]*(?:aber |doch )?"
    r"(?:(?:dabei|damit|hierbei|das) )?(?:ich kann|kann ich)(?: (?:dabei|damit|hierbei|hier|dir|ihnen|leider|auch|das"
    r"|diese[rnms]? [\w-]+|(?:bei|auf) (?:diese|deine|ihre)[rm]? [\w-]+)){0,5} nicht (?:weiter ?)?"
    r"(?:helfen|behilflich|unterstützen|(?:be)?antworten|erfüllen|nachkommen|entsprechen|bereitstellen|erstellen)",
    r"(?:(?:je suis )?désolée?|malheureusement)?[\s,.!:;-]*(?:mais )?je ne (?:peux|suis) pas "
    r"(?:(?:en mesure|capable) (?:de |d['’]))?(?:vous |t['’]|te |y )?"
    r"(?:aider|assister|répondre|fournir|satisfaire|traiter|accéder|générer|créer)",
    r"lo siento[^.]{0,20}\bno puedo (?:ayudar|responder|cumplir|proporcionar|hacer)",
    r"(?:lamentablemente[\s,]*)?no puedo (?:ayudar(?:te|le|los)? (?:con|en)|cumplir|responder a)\b",
    r"(?:(?:извините|простите|прошу прощения|к сожалению)[\s,.!:;-]*(?:но )?)?"
    r"я не (?:могу|в состоянии|имею возможности) "
    r"(?:(?:вам|тебе) )?(?:помочь (?:(?:вам|тебе) )?(?:с |в )(?:эт|ваш|тво|так)|ответить на|выполнить (?:эт|ваш|так)|"
    r"предоставить (?:эт|так|вам|информац)|обсуждать (?:эт|так))",
    r"(?:大変)?(?:申し訳(?:ありません|ございません)が|すみませんが|恐れ入りますが|残念ながら)[、,\s]*[^。]{0,30}"
    r"(?:応え|答え|対応|手伝い|回答|提供|支援|協力)[^。]{0,12}(?:できません|できかねます|いたしかねます)",
    r"(?:很|非常|十分)?(?:抱歉|对不起|遗憾|不好意思)[，,。\s]*(?:但是?)?我(?:无法|不能|没办法|不便)(?:为您|为你|帮您|帮你)?"
    r"(?:协助|提供|回答|完成|满足|帮助|处理|生成|继续|讨论|执行)",
    *_AI_ELSEWHERE,
)
_SORRY_WORDS = (
    r"(?:\b(?:sorry|can['’]?t|can ?not|unable|leid|nicht|désolée?|ne peux|lo siento|no puedo|извин\w*|не могу)\b"
    r"|申し訳|できません|抱歉|对不起|无法)"
)
_WORDS_ASKED_FOR = (
    r"\b(?:declin|refus|reject|apolog|regret|excus|sorry for|turn(?:ing)? (?:\w+ ){0,3}down|say(?:s|ing)? no\b|"
    r"quotation|absag|ablehn|entschuldig|rechaz|disc[uú]lp|отказ|извин|fallback|chat ?bot|auto-?reply|out of office|"
    r"error message)"
    r"|お?詫び|断[りるっ]|謝|辞退|婉拒|拒绝|道歉|致歉"
    r"|\bdo you (?:feel|dream|have (?:\w+ )?(?:feelings|emotions|opinions|consciousness|preferences|a \w+))\b"
    r"|\bare you (?:an?|alive|conscious|sentient|human|real)\b"
    rf"|[\"“„«「][^\"“”„«»「」\n]{{0,80}}{_SORRY_WORDS}"
    rf"|(?:(?<!\w)['‘]|\b(?:repeat|say|write|type|print|output|reply|respond|answer)\b[^.:\n]{{0,30}}:)[^\n]{{0,80}}{_SORRY_WORDS}"
)
_RETOLD = r"\b(?:translat|paraphras|rephras|reword|rewrit|proofread|übersetz|umformulier|tradu|перевед)|翻訳|翻译"
"""A request to say a given text in other words. The text may be a refusal if it has words of one."""
_SPOKEN = (
    r"[,.!?][\"”»“]\s*[a-zа-яß-ÿ]|[\"”»“],?\s*[—–]\s*[a-zа-яß-ÿ]|」と|"
    r"[\"”“»],?\s+(?:sagte|antwortete|erwiderte|dit|répondit|dijo|respondió|contestó)\b"
)
"""Quoted speech in a sentence that goes on behind it, mostly with its speaker. An engine that declines has none."""
_SPEECH = (
    r"\b(?:scenes?|dialog(?:ue)?s?|stor(?:y|ies)|conversation|skit|screenplay|role-?play|(?:a|the|short) play|comic|"
    r"fairy ?tale|szene|geschichte|gespräch|märchen|scène|histoire|conte|escena|diálogo|cuento|сцен\w*|диалог\w*|"
    r"рассказ\w*|сказк\w*)\b|対話|会話|物語|对话|故事|场景"
)
"""A request for a text in which characters speak."""
_BY_ASSISTANT = (
    r"\b(?:requests?|prompt|content|topic|story|stories|scenes?|dialog(?:ue)?|writ(?:e|ing)|instead|feel free|"
    r"let me know|would you like|happy to|guidelines|language model|anfrage|inhalte?|stattdessen|gerne?|demande|"
    r"contenu|plutôt|solicitud|contenido|запрос\w*|контент\w*)\b|代わりに|内容|请求|改为"
)
"""Words about the request, or of an offer. A character does not say them, an engine that declines does."""
_NEXT_LINE = r"\n\s*\S"
_GOES_ON = r"[^.!?。]{0,80}(?:, | )(?:but|however),? (?!(?:i|if|you|we|please|let|feel|perhaps|maybe)\b)[^.!?\n]{25}"
"""Matches behind a refusal that goes on with an answer: "I can't access your files, but sorting the lines is easy"."""


def is_refusal(request: str, text: str) -> bool:
    """Return whether a text declines to answer.

    Returns False if the request asks for a text with such words, for example for a letter or a translation, if a
    character of a scene says them, and if the sentence goes on with an answer.
    """
    if len(text) > MAX_READ_CHARS or _is_speech(request, text):
        return False
    plain = " ".join(re.sub(r"[*_\"“”„«»>「」]", "", text).split())
    found = next(filter(None, (re.match(refusal, plain, re.IGNORECASE) for refusal in _REFUSALS)), None)
    if found is None or re.match(_GOES_ON, plain[found.end() :], re.IGNORECASE):
        return False
    if re.search(_WORDS_ASKED_FOR, request, re.IGNORECASE):
        return False
    return not (re.search(_RETOLD, request, re.IGNORECASE) and re.search(_SORRY_WORDS, request, re.IGNORECASE))


def _is_speech(request: str, text: str) -> bool:
    """Return whether a text quotes speech, or is the lines of characters that the request asks for."""
    if re.search(_SPOKEN, text):
        return True
    asks_for_speech = re.search(_SPEECH, request, re.IGNORECASE) and re.search(_NEXT_LINE, text)
    return bool(asks_for_speech and not re.search(_BY_ASSISTANT, text, re.IGNORECASE))
