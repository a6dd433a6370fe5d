"""`make aws-local`: run the AWS variant on this machine, with Docker (`sam local start-api`) or without."""

from __future__ import annotations

import argparse
import errno
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import boto3

from aws_local import events, ministack, resources, schedule, template
from aws_local.environments import ToolMissing
from aws_local.gateway import Gateway
from aws_local.invocation import Event, Handler, LambdaContext
from aws_local.pump import Pump
from aws_local.resources import Resources

SAM_VARIABLES = Path(".llm-server/sam-env.json")
WORKERS = 2
JOIN_S = 5.0
NOTICED_S = 1.0
"""How often the main thread looks for signals. In an endless wait, one was once noticed only when the next came."""
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "local",
    "AWS_SECRET_ACCESS_KEY": "local",
    "AWS_DEFAULT_REGION": template.REGION,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until Ctrl-C or SIGTERM."""
    options = _options(arguments)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    for name in ("botocore", "mangum"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        _serve(options, stop)
    except ToolMissing as missing:
        print(missing, file=sys.stderr)
        return 1
    except OSError as refused:
        if refused.errno != errno.EADDRINUSE:
            raise
        print(f"Port {options.port} is in use; choose another one with --port.", file=sys.stderr)
        return 1
    return 0


def _serve(options: argparse.Namespace, stop: threading.Event) -> None:
    with ExitStack() as cleanup:
        endpoint = cleanup.enter_context(ministack.running(options.bind))
        _use_only(endpoint)
        dynamodb, sqs = boto3.client("dynamodb"), boto3.client("sqs")
        made = resources.make(template.translate(template.load()), dynamodb=dynamodb, sqs=sqs, prefix="llm-server")
        events.fill(made, dynamodb)
        _write_sam_variables(made, endpoint)
        _adopt(made)
        worker = function(made, "WorkerFunction")
        pump = Pump(sqs, queue_url=made.queue_url, queue_arn=made.queue_arn, invoke=worker)
        for _ in range(WORKERS):
            cleanup.enter_context(_thread(pump.run, stop))
        cleanup.enter_context(_thread(partial(schedule.sweep, worker), stop))
        url = None
        if options.gateway:
            gateway = cleanup.enter_context(Gateway(function(made, "ApiFunction"), port=options.port))
            cleanup.callback(gateway.shutdown)
            threading.Thread(target=gateway.serve_forever, daemon=True).start()
            url = gateway.url
        print(_welcome(made, endpoint, url), flush=True)
        while not stop.wait(NOTICED_S):
            pass
        print("Stopping.", flush=True)


def function(made: Resources, logical_id: str) -> Callable[[Event], Any]:
    """Import the handler that the template names for a function; return a callable that invokes it as Lambda does."""
    properties = made.stack.properties(logical_id, "Handler", "MemorySize", "Timeout")
    module, _, name = properties["Handler"].rpartition(".")
    # Imported here because the handlers read the environment at their import.
    handler: Handler = getattr(importlib.import_module(module), name)
    return lambda event: handler(event, LambdaContext(properties, name=logical_id))


@contextmanager
def _thread(run: Callable[[threading.Event], None], stop: threading.Event) -> Iterator[None]:
    thread = threading.Thread(target=run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(JOIN_S)


def _use_only(endpoint: str) -> None:
    """Let every AWS client of this process call the emulator, also if the shell names another one for a service.

    The key that is stored there is public, so it must not get into another table.
    """
    for name in [name for name in os.environ if name.startswith("AWS_ENDPOINT_URL_")]:
        del os.environ[name]
    os.environ.update(CREDENTIALS, AWS_ENDPOINT_URL=endpoint, AWS_IGNORE_CONFIGURED_ENDPOINT_URLS="false")


def _adopt(made: Resources) -> None:
    """Set the worker's variables of the template; those of the shell win, except for the table and the queue."""
    variables = made.stack.environment("WorkerFunction")
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    for name in ("LLM_SERVER_TABLE", "LLM_SERVER_QUEUE_URL"):
        os.environ[name] = variables[name]


def _write_sam_variables(made: Resources, endpoint: str) -> None:
    """Write the file for `sam local --env-vars`, with addresses that work from inside a container."""
    host = endpoint.split("//")[1].split(":")[0]
    variables = {
        "LLM_SERVER_TABLE": made.table,
        "LLM_SERVER_QUEUE_URL": made.queue_url.replace(host, "host.docker.internal"),
        "AWS_ENDPOINT_URL": endpoint.replace(host, "host.docker.internal"),
    }
    SAM_VARIABLES.parent.mkdir(exist_ok=True)
    SAM_VARIABLES.write_text(json.dumps({"Parameters": variables}, indent=2) + "\n", encoding="utf-8")


def _welcome(made: Resources, endpoint: str, url: str | None) -> str:
    lines = [
        "The AWS variant runs on this machine. Its data is deleted when it ends (Ctrl-C).",
        f"  emulator  {endpoint}",
        f"  table     {made.table}",
        f"  queue     {made.queue_url} (its messages go to lambda_worker.handler in this process)",
        f"  API key   {events.TOKEN} (that of the events)",
    ]
    if url:
        lines += [
            f"Without Docker: lambda_api.handler serves {url}",
            f"  curl -s {url}/api/v1/tasks -H 'authorization: Bearer {events.TOKEN}' \\",
            "       -H 'content-type: application/json' -d '{\"prompt\": \"Hello\"}'",
            "With Docker: start this with --no-gateway, then run in another terminal",
        ]
    else:
        lines += ["Without Docker: start this with --gateway.", "With Docker: run in another terminal"]
    return "\n".join(
        [
            *lines,
            f"  make build && .venv/sam/bin/sam local start-api    (reads {SAM_VARIABLES}, serves port 8000)",
            "  .venv/sam/bin/sam local invoke ApiFunction --event events/api-v2-get-task.json",
            "The table has this key and the tasks that the files in events/ name.",
        ]
    )


def _has_docker() -> bool:
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=5, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make aws-local", description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="port of the API without Docker (default: 8000)")
    parser.add_argument(
        "--gateway",
        action=argparse.BooleanOptionalAction,
        help="serve the API without Docker (the default if no Docker engine is running)",
    )
    parser.add_argument(
        "--bind",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address of the emulator; on Linux, `sam local` needs that of Docker's bridge (172.17.0.1)",
    )
    options = parser.parse_args(arguments)
    if options.gateway is None:
        options.gateway = not _has_docker()
    return options


if __name__ == "__main__":
    sys.exit(main())
