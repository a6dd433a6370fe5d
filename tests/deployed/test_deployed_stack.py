"""`sam deploy` of template.yaml to an emulator's CloudFormation: the deployed functions answer, in every variant.

`make deploy-smoke` runs this. The functions run on this machine's Python; no Docker and no account is needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from aws_local import build, ministack
from support.deployed_stack import ACCOUNT, MAX_WAIT_S, SERVICES, DeployedStack, build_for_this_python, deploy, when

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(4 * MAX_WAIT_S)]

JWT = "AuthMode=JWT JwtIssuer=https://issuer.example JwtAudience=api"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build as `make build` does; return the built template."""
    return build_for_this_python(tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="module")
def cloud() -> Iterator[str]:
    """An emulator of all services that the template uses; the commands find its address in the environment."""
    with ministack.running(services=SERVICES) as endpoint, pytest.MonkeyPatch.context() as patch:
        for name, value in {**ACCOUNT, "AWS_ENDPOINT_URL": endpoint}.items():
            patch.setenv(name, value)
        yield endpoint


@pytest.fixture(scope="module")
def stack(template: Path, cloud: str) -> DeployedStack:
    """The stack of the environment `default`, with no parameter given."""
    deploy(template, "llm-server", cloud)
    return DeployedStack("llm-server", cloud)


def test_every_resource_of_the_template_is_made(stack: DeployedStack) -> None:
    assert stack.status == "CREATE_COMPLETE"
    assert len(stack.resources) == 32
    assert all(stack.resources.values())


def test_a_prompt_is_answered_through_both_deployed_functions(stack: DeployedStack) -> None:
    posted = stack.call("POST", "/tasks", {"prompt": "Write a haiku about queues."})
    assert posted.status == 202, posted.json

    def carried_on() -> Any:
        stack.deliver_all()
        stack.work({"sweep": True})  # as the schedule does; it wakes the task again if its message was lost
        return stack.call("GET", f"/tasks/{posted.json['task_id']}").json

    task = when(carried_on, lambda task: task["status"] not in ("Queued", "Processing"))

    assert task["status"] == "Completed", task
    assert "OpenAIKeyName" in task["result"]


def test_the_deployed_worker_sweeps(stack: DeployedStack) -> None:
    assert stack.work({"sweep": True}) == {"woken": 0}


def test_a_call_without_a_key_is_refused(stack: DeployedStack) -> None:
    assert stack.call("GET", "/metrics", authorization="").status == 401
    assert stack.call("GET", "/metrics").status == 200


def test_no_address_of_an_emulator_is_deployed(stack: DeployedStack) -> None:
    """An empty one hid the address that the emulator gives to its functions, and every call was answered 503."""
    assert "AWS_ENDPOINT_URL" not in stack.environment("ApiFunction")


def test_with_jwt_every_call_needs_a_token_of_the_issuer(template: Path, cloud: str) -> None:
    deploy(template, "jwt", cloud, parameters=JWT)
    stack = DeployedStack("jwt", cloud)
    gateway, api = stack.client("apigatewayv2"), stack.outputs["ApiId"]
    routes = gateway.get_routes(ApiId=api)["Items"]
    [authorizer] = gateway.get_authorizers(ApiId=api)["Items"]

    assert authorizer["JwtConfiguration"] == {"Audience": ["api"], "Issuer": "https://issuer.example"}
    assert {route["AuthorizationType"] for route in routes} == {"JWT"}
    assert {route["AuthorizerId"] for route in routes} == {authorizer["AuthorizerId"]}
    assert stack.call("GET", "/health").status == 401


def test_with_origins_the_stack_is_made(template: Path, cloud: str) -> None:
    deploy(template, "cors", cloud, parameters="CorsOrigins=https://a.example,https://b.example")
    stack = DeployedStack("cors", cloud)

    assert stack.status == "CREATE_COMPLETE"
    assert stack.call("GET", "/health").status == 200


def test_production_has_its_engine_and_only_the_worker_may_read_the_key(template: Path, cloud: str) -> None:
    """The parameters are those of samconfig.toml."""
    deploy(template, "llm-server-prod", cloud, environment="prod")
    stack = DeployedStack("llm-server-prod", cloud)
    iam = stack.client("iam")
    engines = stack.call("GET", "/engines").json["engines"]

    def policy(role: str, name: str) -> str:
        document = iam.get_role_policy(RoleName=stack.resources[role], PolicyName=name)["PolicyDocument"]
        return document if isinstance(document, str) else json.dumps(document)

    assert list(engines) == ["openai"]
    assert stack.environment("WorkerFunction")["OPENAI_API_KEY"] == "ssm:/llm-server-prod/openai"
    assert "parameter/llm-server-prod/openai" in unquote(policy("WorkerRole", "worker"))
    assert "parameter/llm-server-prod" not in unquote(policy("ApiRole", "api"))


def test_production_without_an_engine_is_refused_before_anything_changes(template: Path, cloud: str) -> None:
    with pytest.raises(RuntimeError, match="RequireEngine needs OpenAIKeyName, AnthropicKeyName or ConfigFile"):
        deploy(template, "no-engine", cloud, environment="prod", parameters="RequireEngine=true")


def test_functions_for_another_processor_than_that_of_their_layers_are_refused(template: Path, cloud: str) -> None:
    [other] = {"arm64", "x86_64"} - {build.host_architecture()}

    with pytest.raises(RuntimeError, match=r"Architecture.*AllowedValues"):
        deploy(template, "processor", cloud, parameters=f"Architecture={other}")
