"""The settings, and the only place that reads the environment."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llm_server.orchestration.domain.errors import ConfigurationError

PREFIX = "LLM_SERVER_"
VARIABLES = (
    "LLM_SERVER_TABLE",
    "LLM_SERVER_QUEUE_URL",
    "LLM_SERVER_DB",
    "LLM_SERVER_CONFIG",
    "LLM_SERVER_MODEL",
    "LLM_SERVER_WORKERS",
    "LLM_SERVER_LEASE_S",
    "LLM_SERVER_SWEEP_S",
    "LLM_SERVER_MAX_ATTEMPTS",
    "LLM_SERVER_KEEP_DAYS",
    "LLM_SERVER_PROMPT_MAX_CHARS",
    "LLM_SERVER_LOG_LEVEL",
)
EMBEDDED_ONLY = frozenset({"LLM_SERVER_DB", "LLM_SERVER_MODEL", "LLM_SERVER_WORKERS"})
OF_THE_CLIENT = frozenset({"LLM_SERVER_URL", "LLM_SERVER_API_KEY"})
TABLE = re.compile(r"[A-Za-z0-9_.:/-]{3,}")
QUEUE_URL = re.compile(r"https?://[^/\s]+/\S+")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the environment says; an empty variable counts as not set.

    `model`: a GGUF file, or a model of the catalogue, that answers where no engine is configured or found.
    `lease_s`: how long a worker owns a task it has claimed. `sweep_s`: the age at which an open task is due for the
    sweep. `max_attempts`: claims of a task without progress before it is Failed. `keep_days`: how long a final task is
    kept; 0 is for ever. `environ` is where `env:` references
    to secrets are looked up.
    """

    table: str | None = None
    queue_url: str | None = None
    db: Path = Path(".llm-server/tasks.db")
    config: Path | None = None
    model: str | None = None
    workers: int = 8
    lease_s: int = 210
    sweep_s: int = 120
    max_attempts: int = 8
    keep_days: int = 30
    prompt_max_chars: int = 200_000
    log_level: str = "INFO"
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def on_aws(self) -> bool:
        return self.table is not None

    @property
    def models_dir(self) -> Path:
        """Where pulled models are kept: the user's cache (XDG Base Directory; on macOS ~/Library/Caches)."""
        cache = Path(self.environ.get("XDG_CACHE_HOME", ""))
        if not cache.is_absolute():
            cache = Path(os.path.expanduser("~/Library/Caches" if sys.platform == "darwin" else "~/.cache"))
        return cache / "llm-server" / "models"

    @property
    def keep_ms(self) -> int | None:
        return self.keep_days * 24 * 3600 * 1000 or None

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ, *, table_alone: bool = False) -> Settings:
        """Read the environment. `table_alone`: the queue need not be named, for it is not used.

        Raises:
            ConfigurationError: a variable is unknown or its value is not allowed; the sentence names both.
        """
        default = cls()
        given = _given(environ, table_alone=table_alone)
        return cls(
            table=_matching(given, "LLM_SERVER_TABLE", TABLE, "the name or ARN of a DynamoDB table"),
            queue_url=_matching(given, "LLM_SERVER_QUEUE_URL", QUEUE_URL, "the https:// address of an SQS queue"),
            db=_database(given) or default.db,
            config=_file(given, "LLM_SERVER_CONFIG"),
            model=given.get("LLM_SERVER_MODEL"),
            workers=_whole(given, "LLM_SERVER_WORKERS", default.workers, 1, 256),
            lease_s=_whole(given, "LLM_SERVER_LEASE_S", default.lease_s, 5, 43_200),
            sweep_s=_whole(given, "LLM_SERVER_SWEEP_S", default.sweep_s, 1, 3_600),
            max_attempts=_whole(given, "LLM_SERVER_MAX_ATTEMPTS", default.max_attempts, 1, 100),
            keep_days=_whole(given, "LLM_SERVER_KEEP_DAYS", default.keep_days, 0, 3_650),
            prompt_max_chars=_whole(given, "LLM_SERVER_PROMPT_MAX_CHARS", default.prompt_max_chars, 1, 1_000_000),
            log_level=_log_level(given, default.log_level),
            environ=dict(environ),
        )


def _given(environ: Mapping[str, str], *, table_alone: bool) -> dict[str, str]:
    """Our variables that are set: all of them known, and the two of AWS both or neither."""
    given = {name: value for name, value in environ.items() if name.startswith(PREFIX) and value}
    for name in sorted(given.keys() - {*VARIABLES, *OF_THE_CLIENT}):
        raise ConfigurationError(f"{name} is no setting; known are {', '.join(VARIABLES)}.")
    pair = ("LLM_SERVER_TABLE", "LLM_SERVER_QUEUE_URL")
    missing = [name for name in pair if name not in given]
    if len(missing) == 1 and not (table_alone and missing == ["LLM_SERVER_QUEUE_URL"]):
        advice = "set both the table and the queue (AWS), or neither (embedded)"
        raise ConfigurationError(f"{missing[0]} is not set: {advice}.")
    return given


def _matching(given: Mapping[str, str], name: str, pattern: re.Pattern[str], allowed: str) -> str | None:
    text = given.get(name)
    if text is not None and not pattern.fullmatch(text):
        raise _wrong(name, text, allowed)
    return text


def _whole(given: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = given.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
        raise _wrong(name, text, f"a whole number from {least} to {most}")
    return int(text)


def _log_level(given: Mapping[str, str], default: str) -> str:
    text = given.get("LLM_SERVER_LOG_LEVEL", default)
    if text.upper() not in LOG_LEVELS:
        raise _wrong("LLM_SERVER_LOG_LEVEL", text, f"one of {', '.join(LOG_LEVELS)}")
    return text.upper()


def _file(given: Mapping[str, str], name: str) -> Path | None:
    text = given.get(name)
    if text is not None and not Path(text).is_file():
        raise _wrong(name, text, "a TOML file that exists")
    return None if text is None else Path(text)


def _database(given: Mapping[str, str]) -> Path | None:
    text = given.get("LLM_SERVER_DB")
    if text is not None and (Path(text).is_dir() or text.endswith(("/", os.sep))):
        raise _wrong("LLM_SERVER_DB", text, "a file, which is made when there is none")
    return None if text is None else Path(text)


def _wrong(name: str, text: str, allowed: str) -> ConfigurationError:
    return ConfigurationError(f"{name} is {text[:200]!r}; allowed is {allowed}.")
