"""The settings, and the only place that reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llm_server.orchestration.errors import ConfigurationError

VARIABLES = (
    "LLM_SERVER_TABLE",
    "LLM_SERVER_QUEUE_URL",
    "LLM_SERVER_DB",
    "LLM_SERVER_CONFIG",
    "LLM_SERVER_WORKERS",
    "LLM_SERVER_LEASE_S",
    "LLM_SERVER_SWEEP_S",
    "LLM_SERVER_MAX_ATTEMPTS",
    "LLM_SERVER_PROMPT_MAX_CHARS",
    "LLM_SERVER_LOG_LEVEL",
)
EMBEDDED_ONLY = frozenset({"LLM_SERVER_DB", "LLM_SERVER_WORKERS"})
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the environment says; an empty variable counts as not set.

    `lease_s`: how long a worker owns a task it has claimed. `sweep_s`: the age at which an open task is due for the
    sweep. `max_attempts`: claims of a task without progress before it is Failed. `environ` is where `env:` references to
    secrets are looked up.
    """

    table: str | None = None
    queue_url: str | None = None
    db: Path = Path(".llm-server/tasks.db")
    config: Path | None = None
    workers: int = 8
    lease_s: int = 210
    sweep_s: int = 120
    max_attempts: int = 8
    prompt_max_chars: int = 200_000
    log_level: str = "INFO"
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def on_aws(self) -> bool:
        return self.table is not None

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the environment.

        Raises:
            ConfigurationError: a variable is unknown or its value is not allowed; the sentence names both.
        """
        default = cls()
        given = {name: value for name, value in environ.items() if name.startswith("LLM_SERVER_") and value}
        table, queue_url = given.get("LLM_SERVER_TABLE"), given.get("LLM_SERVER_QUEUE_URL")
        if (table is None) != (queue_url is None):
            missing = "LLM_SERVER_QUEUE_URL" if table else "LLM_SERVER_TABLE"
            raise ConfigurationError(f"{missing} is not set: set both the table and the queue (AWS), or neither (embedded).")
        if queue_url and not queue_url.startswith(("http://", "https://")):
            raise ConfigurationError("LLM_SERVER_QUEUE_URL must be the https:// address of an SQS queue.")
        level = given.get("LLM_SERVER_LOG_LEVEL", default.log_level).upper()
        if level not in LOG_LEVELS:
            raise ConfigurationError(f"LLM_SERVER_LOG_LEVEL is {level!r}; allowed are {', '.join(LOG_LEVELS)}.")
        config = Path(given["LLM_SERVER_CONFIG"]) if "LLM_SERVER_CONFIG" in given else None
        if config is not None and not config.is_file():
            raise ConfigurationError(f"LLM_SERVER_CONFIG names {str(config)!r}, which is no file; allowed is a TOML file.")
        return cls(
            table=table,
            queue_url=queue_url,
            db=Path(given["LLM_SERVER_DB"]) if "LLM_SERVER_DB" in given else default.db,
            config=config,
            workers=_whole(given, "LLM_SERVER_WORKERS", default.workers, 1, 256),
            lease_s=_whole(given, "LLM_SERVER_LEASE_S", default.lease_s, 5, 43_200),
            sweep_s=_whole(given, "LLM_SERVER_SWEEP_S", default.sweep_s, 1, 3_600),
            max_attempts=_whole(given, "LLM_SERVER_MAX_ATTEMPTS", default.max_attempts, 1, 100),
            prompt_max_chars=_whole(given, "LLM_SERVER_PROMPT_MAX_CHARS", default.prompt_max_chars, 1, 1_000_000),
            log_level=level,
            environ=dict(environ),
        )


def _whole(given: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = given.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise ConfigurationError(f"{name} is {text!r}; allowed is a whole number from {least} to {most}.")
    return int(text)
