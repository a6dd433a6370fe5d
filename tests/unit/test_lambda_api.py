"""The API function: what its cold start must not pay for, and that it answers all the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys

ASKED = """
import json, sys, types
from llm_server.lambda_api import handler
from llm_server.orchestration.key import Caller

handler.app.state.gate = types.SimpleNamespace(admit=lambda request: (Caller(), {}))  # no table to ask for keys

def answer(method, path, body=None):
    http = {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"}
    event = {"version": "2.0", "rawPath": path, "rawQueryString": "", "requestContext": {"http": http},
             "headers": {"host": "x", "content-type": "application/json"}, "body": body, "isBase64Encoded": False}
    return handler(event, types.SimpleNamespace(aws_request_id="r1"))

got = [answer("GET", "/api/v1/health"), answer("POST", "/api/v1/tasks", '{"prompt": 1}')]
old = [name for name, module in sys.modules.items() if name.startswith("pydantic.v1") and module]
print(json.dumps([[a["statusCode"] for a in got], old]))
"""
ON_AWS = {
    "LLM_SERVER_TABLE": "table",
    "LLM_SERVER_QUEUE_URL": "http://127.0.0.1:1/queue",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "none",
    "AWS_SECRET_ACCESS_KEY": "none",
}


def test_the_api_function_starts_without_pydantics_first_version() -> None:
    """It is 6 % of a cold start, loaded only to be refused; requests are checked and answered without it."""
    environ = {**os.environ, **ON_AWS, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run([sys.executable, "-c", ASKED], capture_output=True, text=True, check=True, env=environ)

    assert json.loads(ran.stdout) == [[200, 422], []]
