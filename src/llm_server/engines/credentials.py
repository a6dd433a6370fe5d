"""Look up engines' API keys by reference, once per process: `env:NAME`, `ssm:NAME` or `secretsmanager:NAME`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from llm_server.orchestration.domain.engines.catalog import EngineSpec
from llm_server.orchestration.domain.errors import EngineUnavailable

_REMOTE = ("ssm:", "secretsmanager:")


def aws_client(service: str) -> Any:
    """Make a boto3 client with short time-outs, because a task waits for it."""
    import boto3  # imported here, because most processes never need it
    from botocore.config import Config

    retries: Any = {"total_max_attempts": 2}
    config = Config(connect_timeout=3, read_timeout=5, retries=retries)
    return boto3.session.Session().client(service, config=config)  # type: ignore[call-overload]  # the stubs know services by literal name only


class Credentials:
    """Resolves references to keys; thread-safe. `client` makes an AWS client from the name of a service."""

    def __init__(self, environ: Mapping[str, str], *, client: Callable[[str], Any] = aws_client) -> None:
        self._environ = environ
        self._client = client
        self._lock = threading.Lock()
        self._known: dict[str, str] = {}

    def is_present(self, reference: str) -> bool:
        """Return whether a variable is set, or a remote secret is named. This makes no network call."""
        kind, _, name = reference.partition(":")
        return bool(self._environ.get(name, "").strip()) if kind == "env" else bool(name)

    def resolve(self, reference: str) -> str:
        """Return the key that a reference names. If its value is a reference to a remote key, resolve that as well.

        Raises:
            EngineUnavailable: the key is not set, cannot be fetched, or has characters that are not allowed. The next
                call looks it up again.
        """
        with self._lock:
            if reference not in self._known:
                value = self._fetched(reference)
                self._known[reference] = self._fetched(value) if value.startswith(_REMOTE) else value
            return self._known[reference]

    def _fetched(self, reference: str) -> str:
        kind, _, name = reference.partition(":")
        value = self._environ.get(name, "") if kind == "env" else self._remote(kind, name, reference)
        value = value.strip()
        if not value:
            raise EngineUnavailable(f"The key {reference} is not set.", kind="credentials")
        if not (value.isascii() and value.isprintable()):
            raise EngineUnavailable(
                f"The key {reference} contains characters that are not printable ASCII.", kind="credentials"
            )
        return value

    def _remote(self, kind: str, name: str, reference: str) -> str:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            if kind == "ssm":
                answer = self._client("ssm").get_parameter(Name=name, WithDecryption=True)
                return str(answer["Parameter"]["Value"])
            return str(self._client("secretsmanager").get_secret_value(SecretId=name).get("SecretString", ""))
        except (BotoCoreError, ClientError) as error:
            raise EngineUnavailable(f"The key {reference} cannot be fetched.", kind="credentials") from error


def has_credentials(credentials: Credentials, spec: EngineSpec) -> bool:
    """Return whether an engine's key is set.

    True if no key is configured, as for local servers and for engines that use AWS credentials.
    """
    return spec.api_key is None or credentials.is_present(spec.api_key)
