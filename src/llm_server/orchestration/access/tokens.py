"""Format and parse the token that a caller sends as its API key, and check its secret."""

from __future__ import annotations

import hmac
import re
from hashlib import sha256

from llm_server.orchestration.domain.api_key import Key

_PREFIX = "llms"
_ID = re.compile(r"[0-9a-f]{12}")
_TOKEN = re.compile(rf"{_PREFIX}_([0-9a-f]{{12}})_([0-9a-f]{{64}})")


def is_key_id(text: str) -> bool:
    """Return whether a text has the form of a key's id. Check ids from a URL path with this: they may be any text."""
    return _ID.fullmatch(text) is not None


def format_token(key_id: str, secret: str) -> str:
    """Return a key's token: `llms_<id>_<secret>`, both parts in hex."""
    return f"{_PREFIX}_{key_id}_{secret}"


def parse_token(token: str) -> tuple[str, str] | None:
    """Return the id and the secret in a token; None if it does not have the form of `format_token`."""
    found = _TOKEN.fullmatch(token)
    return (found[1], found[2]) if found else None


def digest_of(secret: str) -> str:
    """Return the SHA-256 of a secret as hex. A secret of 256 random bits needs no salt and no slow hash."""
    return sha256(secret.encode()).hexdigest()


def is_secret_of(key: Key, secret: str) -> bool:
    """Return whether a secret is the key's. The time taken does not depend on how many characters are right."""
    return hmac.compare_digest(key.digest, digest_of(secret))
