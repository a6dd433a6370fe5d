"""The token a caller sends as its API key: how it is written and read, and how its secret is checked."""

from __future__ import annotations

import hmac
import re
from hashlib import sha256

from llm_server.orchestration.domain.api_key import Key

_PREFIX = "llms"
_ID = re.compile(r"[0-9a-f]{12}")
_TOKEN = re.compile(rf"{_PREFIX}_([0-9a-f]{{12}})_([0-9a-f]{{64}})")


def is_key_id(text: str) -> bool:
    """Whether a key can have this id at all; strangers ask for any."""
    return _ID.fullmatch(text) is not None


def format_token(key_id: str, secret: str) -> str:
    """The one text that is the key: `llms_<id>_<secret>`, both in hex."""
    return f"{_PREFIX}_{key_id}_{secret}"


def parse_token(token: str) -> tuple[str, str] | None:
    """The id and the secret of a token; None when it cannot be one of ours."""
    found = _TOKEN.fullmatch(token)
    return (found[1], found[2]) if found else None


def digest_of(secret: str) -> str:
    """SHA-256 as hex; a secret of 256 random bits needs neither salt nor a slow hash."""
    return sha256(secret.encode()).hexdigest()


def is_secret_of(key: Key, secret: str) -> bool:
    """Whether a secret is the key's, in a time that does not tell how much of it was right."""
    return hmac.compare_digest(key.digest, digest_of(secret))
