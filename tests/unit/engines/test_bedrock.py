"""What is particular to Converse: the failures boto3 reports, and the client it needs."""

import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import boto3
import pytest
from botocore import exceptions as aws
from botocore.config import Config
from botocore.stub import Stubber

from llm_server.engines.bedrock import BedrockEngine, bedrock_client
from llm_server.orchestration import plan
from llm_server.orchestration.catalog import EngineSpec
from llm_server.orchestration.errors import EngineUnavailable, PromptRefused
from llm_server.orchestration.ports import AnswerSchema, EngineCall

SPEC = EngineSpec(kind="bedrock", source="api", model="global.anthropic.claude-haiku-5-5", region="eu-west-1")
CALL = EngineCall(system="Be brief.", prompt="Hello?", max_output_tokens=50, temperature=1.4)
ANSWER = {
    "output": {"message": {"role": "assistant", "content": [{"text": "Hi"}]}},
    "stopReason": "end_turn",
    "usage": {"inputTokens": 4, "outputTokens": 2, "totalTokens": 6},
    "metrics": {"latencyMs": 1},
}


class FakeClient:
    """A Converse client that does what a test says."""

    def __init__(self, converse: Callable[..., Any]) -> None:
        self.converse = converse


def raising(error: Exception) -> BedrockEngine:
    def converse(**_: Any) -> Any:
        raise error

    return BedrockEngine(SPEC, lambda: FakeClient(converse))


@pytest.fixture
def stubbed() -> tuple[BedrockEngine, Stubber]:
    config = Config(retries={"total_max_attempts": 1})
    session = boto3.session.Session("AKIAEXAMPLE", "x", region_name="eu-west-1")
    client = session.client("bedrock-runtime", config=config)
    stubber = Stubber(client)
    stubber.activate()
    return BedrockEngine(SPEC, lambda: client), stubber


def test_a_prompt_is_sent_as_converse_wants_it(stubbed: tuple[BedrockEngine, Stubber]) -> None:
    engine, stubber = stubbed
    wanted = {
        "modelId": SPEC.model,
        "messages": [{"role": "user", "content": [{"text": "Hello?"}]}],
        "system": [{"text": "Be brief."}],
        "inferenceConfig": {"maxTokens": 50, "temperature": 1.0},
    }
    stubber.add_response("converse", ANSWER, wanted)

    completion = engine.complete(CALL, timeout_s=5)

    assert (completion.text, completion.tokens_in, completion.tokens_out) == ("Hi", 4, 2)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("ThrottlingException", "busy"),
        ("ServiceQuotaExceededException", "busy"),
        ("ServiceUnavailableException", "busy"),
        ("ModelTimeoutException", "busy"),
        ("ModelErrorException", "busy"),
        ("ModelNotReadyException", "busy"),
        ("InternalServerException", "busy"),
        ("AccessDeniedException", "credentials"),
        ("UnrecognizedClientException", "credentials"),
        ("ExpiredTokenException", "credentials"),
        ("ResourceNotFoundException", "garbage"),
    ],
)
def test_a_service_error_leaves_the_prompt_to_another_engine(
    stubbed: tuple[BedrockEngine, Stubber], code: str, kind: str
) -> None:
    engine, stubber = stubbed
    stubber.add_client_error("converse", code, "Hello? is not for us")
    with pytest.raises(EngineUnavailable) as caught:
        engine.complete(CALL, timeout_s=5)

    assert caught.value.kind == kind
    assert "Hello?" not in str(caught.value)


def test_a_prompt_that_is_not_valid_is_refused(stubbed: tuple[BedrockEngine, Stubber]) -> None:
    engine, stubber = stubbed
    stubber.add_client_error("converse", "ValidationException", "Input is too long.")

    with pytest.raises(PromptRefused, match=r"Input is too long\."):
        engine.complete(CALL, timeout_s=5)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (aws.NoCredentialsError(), "credentials"),
        (aws.PartialCredentialsError(provider="p", cred_var="v"), "credentials"),
        (aws.TokenRetrievalError(provider="p", error_msg="e"), "credentials"),
        (aws.NoRegionError(), "unreachable"),
        (aws.EndpointConnectionError(endpoint_url="u"), "unreachable"),
        (aws.ConnectTimeoutError(endpoint_url="u"), "unreachable"),
        (aws.SSLError(endpoint_url="u", error=ssl.SSLError()), "unreachable"),
        (aws.ReadTimeoutError(endpoint_url="u"), "busy"),
        (aws.ConnectionClosedError(endpoint_url="u"), "busy"),
    ],
)
def test_a_call_that_never_arrived_leaves_the_prompt_to_another_engine(error: Exception, kind: str) -> None:
    with pytest.raises(EngineUnavailable) as caught:
        raising(error).complete(CALL, timeout_s=5)

    assert caught.value.kind == kind


def test_a_client_that_cannot_be_made_is_a_failure_of_this_engine_only() -> None:
    def no_region() -> Any:
        raise aws.NoRegionError

    with pytest.raises(EngineUnavailable):
        BedrockEngine(SPEC, no_region).complete(CALL, timeout_s=5)


def test_an_older_boto3_without_the_schema_field_still_plans() -> None:
    seen: list[dict[str, Any]] = []

    def converse(**arguments: Any) -> Any:
        seen.append(arguments)
        if "outputConfig" in arguments:
            raise aws.ParamValidationError(report="Unknown parameter outputConfig")
        return ANSWER

    call = replace(CALL, answer_schema=AnswerSchema(name="plan", schema=plan.schema(["QA-Agent"])))
    BedrockEngine(SPEC, lambda: FakeClient(converse)).complete(call, timeout_s=5)

    assert "depends_on" in seen[1]["system"][0]["text"]


def test_a_call_that_is_late_is_left_alone() -> None:
    free = threading.Event()
    engine = BedrockEngine(SPEC, lambda: FakeClient(lambda **_: free.wait(5)))
    started_s = time.monotonic()
    with pytest.raises(EngineUnavailable) as caught:
        engine.complete(CALL, timeout_s=0.1)
    took_s = time.monotonic() - started_s
    free.set()

    assert caught.value.kind == "busy"
    assert took_s < 1.0


def test_the_client_is_made_once_and_only_when_needed() -> None:
    made: list[int] = []

    def client() -> Any:
        made.append(1)
        time.sleep(0.02)
        return FakeClient(lambda **_: ANSWER)

    engine = BedrockEngine(SPEC, client)
    assert not made
    threads = [threading.Thread(target=engine.complete, args=(CALL,), kwargs={"timeout_s": 5}) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert made == [1]


def test_the_client_tries_once_and_does_not_wait_for_ever() -> None:
    """Retries of the SDK would multiply ours."""
    config = bedrock_client(SPEC, 42).meta.config

    assert config.retries["total_max_attempts"] == 1
    assert (config.read_timeout, config.region_name) == (42, "eu-west-1")
