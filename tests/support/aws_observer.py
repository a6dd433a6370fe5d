"""Record a function's calls to AWS, with a proxy on loopback that forwards them."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

WRITES = {"Put": "PutItem", "Update": "UpdateItem", "Delete": "DeleteItem", "ConditionCheck": "ConditionCheckItem"}
"""The permission for each member of a transaction; IAM has no action TransactWriteItems.

https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis-iam.html
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One recorded call."""

    service: str
    operation: str
    body: Mapping[str, Any]

    def needs(self) -> Iterator[tuple[str, str]]:
        """Yield each permission that the call needs: the resource by its name or address, and the action."""
        match self.operation:
            case "TransactWriteItems":
                for write in self.body["TransactItems"]:
                    ((kind, what),) = write.items()
                    yield what["TableName"], f"dynamodb:{WRITES[kind]}"
            case "BatchGetItem":
                for table in self.body["RequestItems"]:
                    yield table, "dynamodb:BatchGetItem"
            case _:
                index = f"/index/{self.body['IndexName']}" if "IndexName" in self.body else ""
                yield f"{self._resource}{index}", f"{self.service}:{self.operation}"

    @property
    def _resource(self) -> str:
        return str(next(self.body[name] for name in ("TableName", "QueueUrl", "Name") if name in self.body))


class Observer(ThreadingHTTPServer):
    """Forwards to `target`; `asked` are the recorded calls, in order."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Exchange)
        self.target = urlsplit(target).netloc
        self.asked: list[Asked] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def observing(target: str) -> Iterator[Observer]:
    """Listen until the block ends."""
    observer = Observer(target)
    thread = threading.Thread(target=observer.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield observer
    finally:
        observer.shutdown()
        observer.server_close()
        thread.join()


def needed(asked: Iterable[Asked], names: Mapping[str, str]) -> dict[str, set[str]]:
    """Return the permissions that calls needed, by resource; `names` gives the template's names for addresses."""
    rights: dict[str, set[str]] = {}
    for resource, action in (need for call in asked for need in call.needs()):
        name, slash, index = resource.partition("/index/")
        rights.setdefault(names.get(name, name) + slash + index, set()).add(action)
    return rights


class _Exchange(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Observer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        # Credential=<access key>/<day>/<region>/<service>/aws4_request
        service = self.headers["Authorization"].partition("Credential=")[2].split("/")[3]
        operation = self.headers["X-Amz-Target"].rpartition(".")[2]
        self.server.asked.append(Asked(service=service, operation=operation, body=json.loads(body)))
        status, headers, answer = self._forwarded(body)
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def _forwarded(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.server.target, timeout=60)
        try:
            connection.request("POST", self.path, body, dict(self.headers.items()))
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""
