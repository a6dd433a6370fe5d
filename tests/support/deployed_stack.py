"""template.yaml deployed to an emulator's CloudFormation by `sam deploy`, with the functions that it runs."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import boto3
import urllib3
from botocore.config import Config

from aws_local import build
from aws_local.environments import tool
from aws_local.pump import Pump
from aws_local.template import REGION, TEMPLATE
from llm_server import substrates
from llm_server.orchestration.domain.api_key import SCOPES
from llm_server.settings import Settings

SERVICES = (
    *("apigateway", "cloudformation", "dynamodb", "iam", "lambda", "logs", "monitoring", "s3", "scheduler", "sqs"),
    *("ssm", "sts"),
)
MAX_WAIT_S = 300
"""Long, because a machine that is busy with other things starts the functions slowly."""
T = TypeVar("T")
ACCOUNT = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": REGION}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the deployed API answered; `json` is its body."""

    status: int
    headers: Mapping[str, str]
    json: Any


class DeployedStack:
    """A stack on an emulator, with an API key.

    Its queue is pumped here, because the emulator's own poller does not pass the messages on.
    """

    def __init__(self, name: str, endpoint: str) -> None:
        self._endpoint = endpoint
        self._http = urllib3.PoolManager()
        once = Config(read_timeout=MAX_WAIT_S, retries={"total_max_attempts": 1})
        self._functions = boto3.client("lambda", endpoint_url=endpoint, config=once)
        stacks = self.client("cloudformation")
        self.resources = {
            found["LogicalResourceId"]: found.get("PhysicalResourceId", "")
            for found in stacks.describe_stack_resources(StackName=name)["StackResources"]
        }
        [described] = stacks.describe_stacks(StackName=name)["Stacks"]
        self.status: str = described["StackStatus"]
        self.outputs: dict[str, str] = {out["OutputKey"]: out["OutputValue"] for out in described["Outputs"]}
        settings = Settings(table=self.outputs["TableName"])
        with substrates.keys_of(settings, make=True) as keys:
            self.key = keys.create("local", SCOPES)[1]
        # A function that takes longer to start than its time-out allows is answered 502; the next call starts it again.
        when(lambda: self.call("GET", "/health"), lambda answer: answer.status < 500)

    def client(self, service: Any) -> Any:
        return boto3.client(service, endpoint_url=self._endpoint)

    def call(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """Call the API as a client does, through the emulator's API Gateway."""
        url = f"{self._endpoint}/_aws/execute-api/{self.outputs['ApiId']}/$default/api/v1{path}"
        given = {"authorization": f"Bearer {self.key}", "content-type": "application/json", **headers}
        got = self._http.request(method, url, body=json.dumps(body) if body else None, headers=given)
        return Answer(status=got.status, headers=got.headers, json=json.loads(got.data) if got.data else None)

    def work(self, event: object) -> Any:
        """Invoke the deployed worker function."""
        function = self.outputs["WorkerFunctionName"]
        got = self._functions.invoke(FunctionName=function, Payload=json.dumps(event))
        answer = json.load(got["Payload"])
        assert "FunctionError" not in got, answer
        return answer

    def deliver_all(self) -> int:
        """Pass the queue's messages to the deployed worker function, as Lambda's event source does."""
        sqs, url = self.client("sqs"), self.outputs["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        return Pump(sqs, queue_url=url, queue_arn=arn, invoke=self.work).deliver_all()

    def environment(self, function: str) -> dict[str, str]:
        """Return the variables of a deployed function."""
        name = self.outputs[f"{function}Name"]
        configuration = self.client("lambda").get_function_configuration(FunctionName=name)
        variables: dict[str, str] = configuration["Environment"]["Variables"]
        return variables


def when(ask: Callable[[], T], holds: Callable[[T], bool]) -> T:
    """Ask until the answer is as wanted; return it. Fail with the last answer after MAX_WAIT_S."""
    end_s = time.monotonic() + MAX_WAIT_S
    while not holds(answer := ask()):
        assert time.monotonic() < end_s, answer
    return answer


def build_for_this_python(folder: Path) -> Path:
    """Build with the wheels of this machine's Python, which runs the emulator's functions; return the template."""
    architecture = build.host_architecture()
    assert architecture
    wheels = {"LAMBDA_PYTHON": ".".join(platform.python_version_tuple()[:2])}
    if sys.platform == "darwin":
        wheels["LAMBDA_PLATFORM"] = f"{architecture.replace('arm64', 'aarch64')}-apple-darwin"
    os.environ |= wheels
    try:
        assert build.build(architecture, folder) == 0
    finally:
        for name in wheels:
            del os.environ[name]
    return folder / "template.yaml"


def deploy(template: Path, name: str, endpoint: str, *, environment: str = "default", parameters: str = "") -> str:
    """Run `sam deploy` with the settings of samconfig.toml; return what it printed. Raises if it fails."""
    command = [
        *(tool("sam", "sam"), "deploy", "--no-confirm-changeset", "--stack-name", name, "--template-file", template),
        *("--config-file", TEMPLATE.parent / "samconfig.toml", "--config-env", environment),
        *(("--parameter-overrides", parameters) if parameters else ()),
    ]
    environ = os.environ | ACCOUNT | {"AWS_ENDPOINT_URL": endpoint, "SAM_CLI_TELEMETRY": "0"}
    ran = subprocess.run(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(ran.stdout)
    return ran.stdout
