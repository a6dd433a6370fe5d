"""What the words of a text say about its sums: signs with another meaning, wrong sums on purpose, clocks, estimates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

NEAR_CHARS = 80
"""How many characters on each side of an equation are searched for a word that says it is wrong on purpose."""

# Words that show that signs or numbers have another meaning in a text, such as binary numbers or joined strings.
_OTHER_ARITHMETIC = (
    r"\b(?:mod(?:ulo|ulus|ular)?|binary|octal|hex(?:adecimal)?|binär\w*|binaire|binario|boolean|boolesch\w*|"
    r"concatenat\w*|two['’]s complement|zweierkomplement|complément à deux|complemento a dos|overflow\w*|überlauf\w*|"
    r"wrap(?:s|ped|ping)?[ -]?a?round|xor|gf ?\(\d+\)|\d{1,3}[- ]?bits?|u?int(?:8|16|32|64)|(?:un)?signed|byte|"
    r"semantic version\w*|semver|(?:next|minor|major|patch) version|"
    r"base[ -]?(?:\d+|two|three|four|five|six|seven|eight|nine|twelve|sixteen))\b|\b0[xb]|двоичн|二进制|[2二]進数"
    r"|[\"'“]\d{1,15}[\"'”] ?\+|\+ ?[\"'“]\d{1,15}[\"'”]"
)
_ON_PURPOSE = (
    r"\b(?:false|wrong(?:ly)?|incorrect\w*|untrue|(?:not|isn['’]t) (?:true|right|correct|equal)|mistak\w+|errors?|myth|"
    r"claim(?:s|ed)?|fallac\w+|contradict\w+|impossible|nonsense|absurd|believ\w+|pretend\w*|insist\w*|inclusive\w*|"
    r"including|both ends|falsch\w*|fehler\w*|einschließlich|faux|fausse|fals[oa]|неверн\w*|ошибк\w*)\b"
    r"|[❌✗✘≠误誤错]|間違"
)
_ASKS_FOR_WRONG = r"\b(?:false|wrong|incorrect) (?:\w+ )?(?:equations?|sums?|calculations?)\b|間違い探し"
_CLOCK = r"\b(?:clocks?|o['’]clock|uhr|horloge|reloj)\b|час(?:ы|ов)\b|時計|钟"
_COMPASS = r"\b(?:bearings?|compass|azimuth|kompass\w*|boussole|brújula)\b|компас|方位|罗盘|指南针"
_CYCLES: Mapping[int, str] = {12: _CLOCK, 24: _CLOCK, 360: _COMPASS}
"""Where counting starts again, and the words that say so."""
_DISCOUNT = (
    r"\b(?:off|half price|discount\w*|sale|reduc\w+|rebate|\w*rabatt\w*|reduzier\w*|nachlass|ermäßig\w*|remise|soldes?|"
    r"rabais|descuento\w*|rebaja\w*|скидк\w*)\b|割引|値引|折扣|打折|优惠"
)
_ESTIMATE = (
    r"\b(?:estimat\w+|roughly|approximat\w+|ballpark|or so|nearest (?:ten|hundred|thousand|million|10+)|"
    r"(?:ab|über)?schätz\w*|überschl[aä]g\w*|ungefähr|environ|à peu près|estim\w+|aproximad\w+|примерно|"
    r"приблизительно)\b|およそ|約|大约|大概|估[算计]"
)


class Meaning(NamedTuple):
    """What the words of a text, and of the prompt that it answers, say about its sums.

    With `is_other`, the sums cannot be checked. `cycles` are the numbers at which counting starts again: 12 on a clock.
    """

    is_other: bool
    has_discounts: bool
    has_estimates: bool
    cycles: tuple[int, ...]


def meaning(prompt: str, text: str) -> Meaning:
    """Read what the words of a prompt and of its answer say about the sums."""
    both = f"{prompt}\n{text}"
    return Meaning(
        is_other=_has(_OTHER_ARITHMETIC, both) or _has(_ASKS_FOR_WRONG, prompt),
        has_discounts=_has(_DISCOUNT, both),
        has_estimates=_has(_ESTIMATE, both),
        cycles=tuple(length for length, words in _CYCLES.items() if _has(words, both)),
    )


def is_wrong_on_purpose(text: str, begin: int, end: int) -> bool:
    """Return whether a word near the part of a text from `begin` to `end` says that the part is wrong."""
    before, after = text[max(0, begin - NEAR_CHARS) : begin], text[end : end + NEAR_CHARS]
    return _has(_ON_PURPOSE, before) or _has(_ON_PURPOSE, after)


def _has(words: str, text: str) -> bool:
    return re.search(words, text, re.IGNORECASE) is not None
