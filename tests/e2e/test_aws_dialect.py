"""The OpenAI dialect through the Lambda functions, on an emulated table and queue."""

from __future__ import annotations

from typing import Any

from support import dialect
from support.deployment import Deployment, an_event

BODY = {"model": "auto", "input": "Say hello."}


def created(deployment: Deployment, **more: Any) -> dict[str, Any]:
    answer = deployment.ask("POST", "/v1/responses", BODY | {"background": True, **more})
    assert answer["statusCode"] == 200, answer
    return dialect.checked(answer["json"])


def test_a_response_in_the_background(deployment: Deployment) -> None:
    """It costs one read more than the native call: of what the answer repeats of the request."""
    deployment.submit("Say hello.")
    native = len(deployment.calls("ApiFunction", "dynamodb"))
    response = created(deployment)
    calls = len(deployment.calls("ApiFunction", "dynamodb")) - native
    deployment.deliver_all()
    done = dialect.checked(deployment.ask("GET", f"/v1/responses/{response['id']}")["json"])

    assert (response["status"], done["status"]) == ("queued", "completed")
    assert calls - native <= 1
    assert done["output"][0]["content"][0]["text"].startswith("No LLM is configured.")


def test_a_stream_is_one_body(deployment: Deployment) -> None:
    response = created(deployment, stream=False)
    deployment.deliver_all()
    answer = deployment.ask("GET", f"/v1/responses/{response['id']}?stream=true&starting_after=1")
    events = dialect.events(answer["body"].encode())

    assert (answer["isBase64Encoded"], answer["headers"]["content-type"][:17]) == (False, "text/event-stream")
    assert (events[0]["sequence_number"], events[-1]["type"]) == (2, "response.completed")


def test_with_a_jwt_authorizer_the_key_is_in_x_api_key(deployment: Deployment) -> None:
    """OpenAI's clients send the identity provider's token as their API key, and ours by `default_headers`."""
    key = an_event("api-v2-post-task")["headers"]["authorization"].removeprefix("Bearer ")
    answer = deployment.ask("GET", "/v1/models", authorization="Bearer identity", x_api_key=key)
    refused = deployment.ask("GET", "/v1/models", authorization="Bearer identity")

    assert (answer["statusCode"], answer["json"]["data"][0]["id"]) == (200, "auto")
    assert (refused["statusCode"], refused["json"]["error"]["type"]) == (401, "authentication_error")
