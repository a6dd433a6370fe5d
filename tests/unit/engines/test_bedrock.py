"""The parts of Converse that differ from other APIs: the failures of boto3, and its client."""

import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

import boto3
import msgspec
import pytest
from botocore import exceptions as aws
from botocore.config import Config
from botocore.stub import ANY, Stubber
from msgspec.structs import replace

from llm_server.engines.bedrock import BedrockEngine, bedrock_client
from llm_server.orchestration.domain.engines.call import AnswerSchema, EngineCall
from llm_server.orchestration.domain.engines.catalog import EngineSpec
from llm_server.orchestration.domain.engines.message import user
from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused
from llm_server.orchestration.execution import plan_proposal
from support.fake_engine import Fault, fake_engine, reset, status

SPEC = EngineSpec(kind="bedrock", source="api", model="global.anthropic.claude-haiku-5-5", region="eu-west-1")
CALL = EngineCall(system="Be brief.", messages=user("Hello?"), max_output_tokens=50, temperature=1.4)
ANSWER = {
    "output": {"message": {"role": "assistant", "content": [{"text": "Hi"}]}},
    "stopReason": "end_turn",
    "usage": {"inputTokens": 4, "outputTokens": 2, "totalTokens": 6},
    "metrics": {"latencyMs": 1},
}
PLAN = '{"goal": "G", "steps": [{"id": "s1", "role": "QA-Agent", "instruction": "Do it.", "depends_on": []}]}'
PLAN_CALL = replace(CALL, answer_schema=AnswerSchema(name="plan", schema=plan_proposal.schema(["QA-Agent"])))


class FakeClient:
    """A Converse client that does what a test scripts."""

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
    stubber.add_response("converse", ANSWER, _asked(CALL))

    completion = engine.complete(CALL, timeout_s=5)

    assert (completion.text, completion.usage.tokens_in, completion.usage.output_tokens) == ("Hi", 4, 2)


@pytest.mark.parametrize(
    ("code", "status", "kind", "outage"),
    [
        ("ThrottlingException", 429, "busy", True),
        ("ServiceQuotaExceededException", 400, "busy", True),
        ("ServiceUnavailableException", 503, "busy", True),
        ("ModelTimeoutException", 408, "busy", False),
        ("ModelErrorException", 424, "busy", False),
        ("ModelNotReadyException", 429, "busy", True),
        ("InternalServerException", 500, "busy", False),
        ("AccessDeniedException", 403, "credentials", True),
        ("UnrecognizedClientException", 403, "credentials", True),
        ("ExpiredTokenException", 403, "credentials", True),
        ("ResourceNotFoundException", 404, "garbage", False),
    ],
)
def test_a_service_error_leaves_the_prompt_to_another_engine(
    stubbed: tuple[BedrockEngine, Stubber], code: str, status: int, kind: str, outage: bool
) -> None:
    """`outage`: the prompt did not cause the error. An error or a time-out of the model may be caused by it."""
    engine, stubber = stubbed
    stubber.add_client_error("converse", code, "Hello? is not for us", http_status_code=status)
    with pytest.raises(EngineUnavailable) as caught:
        engine.complete(CALL, timeout_s=5)

    assert (caught.value.kind, caught.value.outage, caught.value.retry_after_s) == (kind, outage, None)
    assert "Hello?" not in str(caught.value)


def test_throttling_may_say_when_to_come_back(stubbed: tuple[BedrockEngine, Stubber]) -> None:
    engine, stubber = stubbed
    meta = {"HTTPHeaders": {"retry-after": "7"}}
    stubber.add_client_error("converse", "ThrottlingException", "Slow down.", 429, response_meta=meta)
    with pytest.raises(EngineUnavailable) as caught:
        engine.complete(CALL, timeout_s=5)

    assert caught.value.retry_after_s == 7


def test_a_prompt_that_is_too_long_is_refused_and_asked_once(stubbed: tuple[BedrockEngine, Stubber]) -> None:
    """A second call would raise, because the Stubber has only one answer."""
    engine, stubber = stubbed
    stubber.add_client_error("converse", "ValidationException", "Input is too long for requested model.", 400)

    with pytest.raises(PromptRefused, match=r"Input is too long for requested model\."):
        engine.complete(CALL, timeout_s=5)
    stubber.assert_no_pending_responses()


@pytest.mark.parametrize("reason", ["guardrail_intervened", "content_filtered"])
def test_a_prompt_a_guardrail_stopped_is_refused(stubbed: tuple[BedrockEngine, Stubber], reason: str) -> None:
    """The guardrail's own text, which replaces the answer, is not returned as one."""
    engine, stubber = stubbed
    stubber.add_response("converse", ANSWER | {"stopReason": reason})

    with pytest.raises(PromptRefused, match="declined"):
        engine.complete(CALL, timeout_s=5)


@pytest.mark.parametrize("reason", ["malformed_model_output", "malformed_tool_use"])
def test_an_answer_bedrock_calls_malformed_is_left_to_another_engine(
    stubbed: tuple[BedrockEngine, Stubber], reason: str
) -> None:
    engine, stubber = stubbed
    stubber.add_response("converse", ANSWER | {"stopReason": reason})
    with pytest.raises(EngineUnavailable) as caught:
        engine.complete(CALL, timeout_s=5)

    assert caught.value.kind == "busy"


@pytest.mark.parametrize(
    ("reason", "cut"),
    [("max_tokens", True), ("model_context_window_exceeded", True), ("stop_sequence", False), ("end_turn", False)],
)
def test_an_answer_that_was_cut_is_marked(stubbed: tuple[BedrockEngine, Stubber], reason: str, cut: bool) -> None:
    engine, stubber = stubbed
    stubber.add_response("converse", ANSWER | {"stopReason": reason})

    assert engine.complete(CALL, timeout_s=5).truncated == cut


def test_a_plan_is_asked_for_as_converse_takes_it_and_read(stubbed: tuple[BedrockEngine, Stubber]) -> None:
    """The Stubber checks every field against boto3's model of the service."""
    engine, stubber = stubbed
    stubber.add_response("converse", _said(PLAN), _asked(PLAN_CALL) | {"outputConfig": ANY})

    completion = engine.complete(PLAN_CALL, timeout_s=5)

    assert [step.role for step in plan_proposal.parse(completion.text, ["QA-Agent"]).steps] == ["QA-Agent"]
    stubber.assert_no_pending_responses()


def test_a_model_without_structured_answers_is_asked_in_words(stubbed: tuple[BedrockEngine, Stubber]) -> None:
    """Bedrock refuses the field for such models; after the first refusal it is not sent again."""
    engine, stubber = stubbed
    in_words = _asked(PLAN_CALL) | {"system": ANY}
    stubber.add_client_error("converse", "ValidationException", "outputConfig is not supported by this model.", 400)
    stubber.add_response("converse", _said(f"Here it is:\n{PLAN}"), in_words)
    stubber.add_response("converse", _said(PLAN), in_words)

    for _ in range(2):
        assert plan_proposal.parse(engine.complete(PLAN_CALL, timeout_s=5).text, ["QA-Agent"]).steps
    stubber.assert_no_pending_responses()


def _asked(call: EngineCall) -> dict[str, Any]:
    return {
        "modelId": SPEC.model,
        "messages": [{"role": "user", "content": [{"text": call.prompt}]}],
        "system": [{"text": call.system}],
        "inferenceConfig": {"maxTokens": 50, "temperature": 1.0},
    }


def _said(text: str) -> dict[str, Any]:
    return ANSWER | {"output": {"message": {"role": "assistant", "content": [{"text": text}]}}}


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
        (aws.ReadTimeoutError(endpoint_url="u"), "timeout"),
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

    BedrockEngine(SPEC, lambda: FakeClient(converse)).complete(PLAN_CALL, timeout_s=5)

    assert "depends_on" in seen[1]["system"][0]["text"]


def test_a_call_that_is_late_is_left_alone() -> None:
    free = threading.Event()
    engine = BedrockEngine(SPEC, lambda: FakeClient(lambda **_: free.wait(5)))
    started_s = time.monotonic()
    with pytest.raises(EngineUnavailable) as caught:
        engine.complete(CALL, timeout_s=0.1)
    took_s = time.monotonic() - started_s
    free.set()

    assert (caught.value.kind, caught.value.may_be_billed) == ("timeout", True)
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


def test_the_client_waits_no_longer_for_a_byte_than_its_engine_may_take() -> None:
    config = bedrock_client(SPEC, 42).meta.config

    assert (config.read_timeout, config.region_name) == (42, "eu-west-1")


@pytest.mark.parametrize("fault", [status(429), status(500), status(503), reset], ids=["429", "500", "503", "reset"])
def test_the_sdk_does_not_retry(monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    """Its retries would multiply ours. Environment variables do not turn them on."""
    for name, value in {"ACCESS_KEY_ID": "AKIAEXAMPLE", "SECRET_ACCESS_KEY": "x", "MAX_ATTEMPTS": "5"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    with fake_engine() as server:
        spec = msgspec.structs.replace(SPEC, base_url=server.url)
        server.script(fault)
        with pytest.raises(EngineUnavailable):
            BedrockEngine(spec, lambda: bedrock_client(spec, 5)).complete(CALL, timeout_s=5)

    assert len(server.seen) == 1
