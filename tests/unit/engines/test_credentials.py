"""API keys by reference are found, fetched once, and never shown."""

import threading
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from llm_server.engines.credentials import Credentials, aws_client
from llm_server.orchestration.domain.errors import EngineUnavailable


class FakeAWS:
    """Stands in for SSM and Secrets Manager; counts the secrets that are fetched."""

    def __init__(self, secrets: dict[str, str]) -> None:
        self.secrets = secrets
        self.fetched: list[str] = []
        self.error: Exception | None = None

    def __call__(self, service: str) -> "FakeAWS":
        return self

    def get_parameter(self, *, Name: str, WithDecryption: bool) -> dict[str, Any]:
        assert WithDecryption
        return {"Parameter": {"Value": self._fetch("ssm:" + Name)}}

    def get_secret_value(self, *, SecretId: str) -> dict[str, Any]:
        return {"SecretString": self._fetch("secretsmanager:" + SecretId)}

    def _fetch(self, reference: str) -> str:
        self.fetched.append(reference)
        time.sleep(0.01)
        if self.error:
            raise self.error
        return self.secrets[reference]


def no_network(service: str) -> Any:
    raise AssertionError(f"{service} was asked")


@pytest.mark.parametrize(
    ("reference", "key"),
    [
        ("env:PLAIN", "k-1"),
        ("ssm:/llm/key", "k-2"),
        ("secretsmanager:llm/key", "k-3"),
        ("env:POINTER", "k-2"),
    ],
)
def test_a_key_is_found_where_its_reference_says(reference: str, key: str) -> None:
    """A variable may itself contain a reference to a remote secret, as the SAM template sets it."""
    aws = FakeAWS({"ssm:/llm/key": "k-2", "secretsmanager:llm/key": " k-3\n"})
    environ = {"PLAIN": "k-1\n", "POINTER": "ssm:/llm/key"}

    assert Credentials(environ, client=aws).resolve(reference) == key


def test_a_key_is_fetched_once_a_process_by_however_many_threads() -> None:
    aws = FakeAWS({"ssm:/k": "k-2"})
    credentials = Credentials({"POINTER": "ssm:/k"}, client=aws)
    threads = [threading.Thread(target=credentials.resolve, args=("env:POINTER",)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert aws.fetched == ["ssm:/k"]


@pytest.mark.parametrize(
    ("reference", "present"),
    [
        ("env:SET", True),
        ("env:BLANK", False),
        ("env:MISSING", False),
        ("env:POINTER", True),
        ("ssm:/k", True),
        ("secretsmanager:k", True),
        ("ssm:", False),
    ],
)
def test_whether_there_is_a_key_is_known_without_a_network(reference: str, present: bool) -> None:
    environ = {"SET": "k", "BLANK": " ", "POINTER": "ssm:/k"}

    assert Credentials(environ, client=no_network).is_present(reference) is present


@pytest.mark.parametrize(
    "error",
    [
        ClientError({"Error": {"Code": "ParameterNotFound", "Message": "canary"}}, "GetParameter"),
        EndpointConnectionError(endpoint_url="https://ssm.example"),
    ],
)
def test_a_key_that_cannot_be_fetched_is_tried_again_at_the_next_call(error: Exception) -> None:
    aws = FakeAWS({"ssm:/k": "k-2"})
    aws.error = error
    credentials = Credentials({}, client=aws)
    with pytest.raises(EngineUnavailable) as caught:
        credentials.resolve("ssm:/k")
    aws.error = None

    assert caught.value.kind == "credentials"
    assert "ssm:/k" in str(caught.value)
    assert "canary" not in str(caught.value)
    assert credentials.resolve("ssm:/k") == "k-2"


@pytest.mark.parametrize("value", ["", "  ", "canary\r\nx-evil: 1", "canarý", "canary\x00"])
def test_a_key_that_cannot_be_a_header_is_not_used_and_not_shown(value: str) -> None:
    with pytest.raises(EngineUnavailable, match="env:KEY") as caught:
        Credentials({"KEY": value}, client=no_network).resolve("env:KEY")

    assert caught.value.kind == "credentials"
    assert "canar" not in str(caught.value)


def test_the_aws_clients_give_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task waits while a key is fetched."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    config = aws_client("ssm").meta.config

    assert config.connect_timeout + config.read_timeout <= 10
    assert config.retries["total_max_attempts"] == 2
