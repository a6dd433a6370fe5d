"""The HTTP calls of the Python examples. They use the standard library only, and send the API key if one is set."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from typing import Any

URL = os.environ.get("LLM_SERVER_URL", "http://localhost:8000") + "/api/v1"
FINAL = ("Completed", "Failed", "Cancelled")


class Refused(Exception):
    """The server answered with an error status; the message is the answer's `detail`."""

    def __init__(self, error: urllib.error.HTTPError) -> None:
        super().__init__(json.load(error)["detail"])
        self.status = error.code
        self.retry_after_s = float(error.headers.get("Retry-After", "1"))


def call(method: str, path: str, body: object = None, **headers: str) -> Any:
    """Call the server and return the JSON of its answer. `idempotency_key="x"` sends the header `Idempotency-Key: x`.

    Raises:
        Refused: the status is 400 or above.
        OSError: no answer arrived; the server may or may not have carried out the call.
    """
    all_headers = {
        "Content-Type": "application/json",
        **{name.replace("_", "-"): text for name, text in headers.items()},
    }
    if key := os.environ.get("LLM_SERVER_API_KEY"):
        all_headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data, all_headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            raise Refused(error) from None
    except (http.client.HTTPException, ValueError) as error:
        raise ConnectionError("the answer is incomplete") from error


def wait_until_final(task_id: str) -> Any:
    """Read a task once a second until it is Completed, Failed or Cancelled."""
    while (task := call("GET", f"/tasks/{task_id}"))["status"] not in FINAL:
        time.sleep(1)
    return task
