"""The settings. This is the only module that reads the environment."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llm_server.orchestration.dispatch.window import Window
from llm_server.orchestration.domain.errors import ConfigurationError

PREFIX = "LLM_SERVER_"
VARIABLES = (
    "LLM_SERVER_TABLE",
    "LLM_SERVER_QUEUE_URL",
    "LLM_SERVER_DB",
    "LLM_SERVER_CONFIG",
    "LLM_SERVER_MODEL",
    "LLM_SERVER_REQUIRE_ENGINE",
    "LLM_SERVER_WORKERS",
    "LLM_SERVER_CORS_ORIGINS",
    "LLM_SERVER_LEASE_S",
    "LLM_SERVER_SWEEP_S",
    "LLM_SERVER_MAX_ATTEMPTS",
    "LLM_SERVER_KEEP_DAYS",
    "LLM_SERVER_PROMPT_MAX_CHARS",
    "LLM_SERVER_REMOTE_IMAGES",
    "LLM_SERVER_LOG_LEVEL",
)
EMBEDDED_ONLY = frozenset({"LLM_SERVER_DB", "LLM_SERVER_MODEL", "LLM_SERVER_WORKERS", "LLM_SERVER_CORS_ORIGINS"})
CLIENT_ONLY = frozenset({"LLM_SERVER_URL", "LLM_SERVER_API_KEY"})
TABLE = re.compile(r"[A-Za-z0-9_.:/-]{3,}")
ORIGIN = re.compile(r"https?://(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?|\*")
QUEUE_URL = re.compile(r"https?://[^/\s]+/\S+")
MAX_WORKERS = 1024
NO_MODEL = "none"
"""The value of LLM_SERVER_MODEL that keeps every model out of the process, the demonstration model too."""

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of the server, from environment variables; an empty variable counts as not set.

    `model`: a GGUF file, or a model of the catalogue, that answers if no engine is configured or found; `none` keeps
    the demonstration model from answering. `require_engine`: whether the server refuses to start without an engine of
    its own; a demonstration does not count. `workers`: how many tasks are carried out at a time; if None, this follows
    from the engines. `cors_origins`: the origins whose pages may call the server; `*` stands for all.
    `lease_s`: how long a worker owns a task it has claimed. `sweep_s`: how old the last message of an open task is when
    the sweep sends another one. `max_attempts`: claims without progress after which a task fails. `keep_days`: how long
    a final task is kept; 0 means for ever. `remote_images`: whether callers may give an image by its URL. `environ`:
    the environment in which `env:` references are looked up.
    """

    table: str | None = None
    queue_url: str | None = None
    db: Path = Path(".llm-server/tasks.db")
    config: Path | None = None
    model: str | None = None
    require_engine: bool = False
    workers: int | None = None
    cors_origins: tuple[str, ...] = ()
    lease_s: int = 210
    sweep_s: int = 120
    max_attempts: int = 8
    keep_days: int = 30
    prompt_max_chars: int = 200_000
    remote_images: bool = False
    log_level: str = "INFO"
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def on_aws(self) -> bool:
        """Whether tasks are stored in DynamoDB."""
        return self.table is not None

    @property
    def window(self) -> Window:
        """The longest time that an engine call can have. On AWS a parameter of the deployment sets the lease."""
        if self.on_aws:
            return Window(lease_s=self.lease_s, longer="deploy with a larger WorkerWindow")
        return Window(lease_s=self.lease_s)

    @property
    def models_dir(self) -> Path:
        """The folder of pulled models, in the user's cache (XDG Base Directory; on macOS ~/Library/Caches)."""
        cache = Path(self.environ.get("XDG_CACHE_HOME", ""))
        if not cache.is_absolute():
            cache = Path(os.path.expanduser("~/Library/Caches" if sys.platform == "darwin" else "~/.cache"))
        return cache / "llm-server" / "models"

    @property
    def keep_ms(self) -> int | None:
        """How long a final task is kept, in milliseconds; None means for ever."""
        return None if self.keep_days == 0 else self.keep_days * 24 * 3600 * 1000

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ, *, table_alone: bool = False) -> Settings:
        """Read the settings from the environment. With `table_alone`, LLM_SERVER_QUEUE_URL may be missing.

        Raises:
            ConfigurationError: a variable is unknown or its value is not allowed; the message names the variable, its
                value and the allowed values.
        """
        default = cls()
        variables = _variables(environ, table_alone=table_alone)
        return cls(
            table=_matching(variables, "LLM_SERVER_TABLE", TABLE, "the name or ARN of a DynamoDB table"),
            queue_url=_matching(variables, "LLM_SERVER_QUEUE_URL", QUEUE_URL, "the https:// address of an SQS queue"),
            db=_database(variables, default.db),
            config=_file(variables, "LLM_SERVER_CONFIG"),
            model=variables.get("LLM_SERVER_MODEL"),
            require_engine=_switch(variables, "LLM_SERVER_REQUIRE_ENGINE"),
            workers=_integer(variables, "LLM_SERVER_WORKERS", 0, 1, MAX_WORKERS) or default.workers,
            cors_origins=_origins(variables),
            lease_s=_integer(variables, "LLM_SERVER_LEASE_S", default.lease_s, 5, 43_200),
            sweep_s=_integer(variables, "LLM_SERVER_SWEEP_S", default.sweep_s, 1, 3_600),
            max_attempts=_integer(variables, "LLM_SERVER_MAX_ATTEMPTS", default.max_attempts, 1, 100),
            keep_days=_integer(variables, "LLM_SERVER_KEEP_DAYS", default.keep_days, 0, 3_650),
            prompt_max_chars=_integer(variables, "LLM_SERVER_PROMPT_MAX_CHARS", default.prompt_max_chars, 1, 1_000_000),
            remote_images=_switch(variables, "LLM_SERVER_REMOTE_IMAGES"),
            log_level=_log_level(variables, default.log_level),
            environ=dict(environ),
        )


def _variables(environ: Mapping[str, str], *, table_alone: bool) -> dict[str, str]:
    """Return the variables of LLM-Server that are set.

    Raises ConfigurationError if a name is unknown, or if only one of the two settings for AWS is set.
    """
    variables = {name: value for name, value in environ.items() if name.startswith(PREFIX) and value}
    unknown = sorted(variables.keys() - {*VARIABLES, *CLIENT_ONLY})
    if unknown:
        raise ConfigurationError(f"{unknown[0]} is not a setting; the settings are {', '.join(VARIABLES)}.")
    pair = ("LLM_SERVER_TABLE", "LLM_SERVER_QUEUE_URL")
    missing = [name for name in pair if name not in variables]
    if len(missing) == 1 and not (table_alone and missing == ["LLM_SERVER_QUEUE_URL"]):
        advice = "set both the table and the queue (AWS), or neither (embedded)"
        raise ConfigurationError(f"{missing[0]} is not set: {advice}.")
    return variables


def _matching(variables: Mapping[str, str], name: str, pattern: re.Pattern[str], allowed: str) -> str | None:
    text = variables.get(name)
    if text is not None and not pattern.fullmatch(text):
        raise _wrong(name, text, allowed)
    return text


def _integer(variables: Mapping[str, str], name: str, default: int, minimum: int, maximum: int) -> int:
    text = variables.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and minimum <= int(text) <= maximum):
        raise _wrong(name, text, f"a whole number from {minimum} to {maximum}")
    return int(text)


def _switch(variables: Mapping[str, str], name: str) -> bool:
    text = variables.get(name, "false").lower()
    if text not in ("true", "false"):
        raise _wrong(name, text, "true or false")
    return text == "true"


def _origins(variables: Mapping[str, str]) -> tuple[str, ...]:
    text = variables.get("LLM_SERVER_CORS_ORIGINS", "")
    origins = tuple(origin.strip() for origin in text.split(",") if origin.strip())
    for origin in origins:
        if not ORIGIN.fullmatch(origin):
            raise _wrong("LLM_SERVER_CORS_ORIGINS", origin, "* or origins such as https://app.example.com, with commas")
    return origins


def _log_level(variables: Mapping[str, str], default: str) -> str:
    text = variables.get("LLM_SERVER_LOG_LEVEL", default)
    if text.upper() not in LOG_LEVELS:
        raise _wrong("LLM_SERVER_LOG_LEVEL", text, f"one of {', '.join(LOG_LEVELS)}")
    return text.upper()


def _file(variables: Mapping[str, str], name: str) -> Path | None:
    text = variables.get(name)
    if text is None:
        return None
    if not Path(text).is_file():
        raise _wrong(name, text, "a TOML file that exists")
    return Path(text)


def _database(variables: Mapping[str, str], default: Path) -> Path:
    text = variables.get("LLM_SERVER_DB")
    if text is None:
        return default
    if Path(text).is_dir() or text.endswith(("/", os.sep)):
        raise _wrong("LLM_SERVER_DB", text, "a file, which is created if it does not exist")
    return Path(text)


def _wrong(name: str, text: str, allowed: str) -> ConfigurationError:
    return ConfigurationError(f"{name} is {text[:200]!r}; allowed is {allowed}.")
