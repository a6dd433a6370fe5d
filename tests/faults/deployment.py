"""The AWS deployment in real processes: both functions on the emulator, each process behind a proxy of its own."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from aws_local import schedule
from aws_local.pump import Pump
from faults.engine import answer_to
from faults.kinds import Kind
from faults.lambdas import Environment
from faults.proxy import Fate, FaultyProxy
from llm_server.orchestration.domain.task import TaskRef
from llm_server.storage.dynamodb.api_keys import DynamoKeys
from llm_server.storage.dynamodb.sqs_queue import SqsQueue
from llm_server.storage.dynamodb.store import DynamoStore
from support import canaries
from support.aws_emulators import Substrate as Emulator
from support.builders import a_key
from support.fake_engine import FakeEngine

EVENTS = Path(__file__).parents[2] / "events"
LEASE_S = 8
SWEEP_S = 4
SWEEP_EVERY_S = 2.0
VISIBILITY_S = 12
ENGINES = 6
"""Names of the same server, so that after a fault one engine rests, not all engines of the deployment."""
JOIN_S = 20.0


class Crashed(Exception):
    """The function's process died during an event; the event is delivered again."""


class Deployment:
    """`fates` says by the name of a process what happens to its calls."""

    def __init__(
        self, on: Emulator, engine: FakeEngine, folder: Path, fates: Callable[[str], Fate], settings: Mapping[str, str]
    ) -> None:
        self.on = on
        self.log = folder / "functions.log"
        self.environments: list[Environment] = []
        self.proxies: list[FaultyProxy] = []
        self.acknowledged: dict[str, str] = {}
        self._swept = threading.Event()
        self._sweeper = threading.Thread()
        self.lease_s = int(settings.get("LLM_SERVER_LEASE_S", LEASE_S))
        self._fates = fates
        self._settings = settings
        self._config = folder / "engines.toml"
        self._config.write_text("\n".join(an_engine(n, engine) for n in range(ENGINES)), encoding="utf-8")
        DynamoKeys(on.dynamodb, on.table).add_key(a_key(key_id="000000000001"))  # whose token is in the events
        on.sqs.set_queue_attributes(QueueUrl=on.queue_url, Attributes={"VisibilityTimeout": str(VISIBILITY_S)})

    def environment(self, name: str, handler: str, *, timeout_s: int = 30) -> Environment:
        """Start an execution environment of one of the handlers, behind its own proxy."""
        proxy = FaultyProxy(
            self.on.endpoint_url or "", self._fates(name), kill=lambda: made.kill(), delay_s=self.lease_s + 1
        )
        made = Environment(name, f"llm_server.{handler}", self._variables(proxy), timeout_s=timeout_s, log=self.log)
        self.environments.append(made)
        self.proxies.append(proxy)
        return made

    def post(self, by: Environment, prompt: str) -> str | None:
        """POST a task; return its id if it was acknowledged."""
        event = json.loads((EVENTS / "api-v2-post-task.json").read_text(encoding="utf-8"))
        body = json.dumps({"prompt": prompt, "mode": "Chat"})
        answer = by.invoke(event | {"body": body, "isBase64Encoded": False})
        if answer is None or answer["statusCode"] != 202:
            return None
        task_id: str = json.loads(answer["body"])["task_id"]
        self.acknowledged[task_id] = prompt
        return task_id

    @contextmanager
    def working(self, workers: int) -> Iterator[None]:
        """Let this many workers process messages, and one more sweep, until the block ends."""
        stop = threading.Event()
        pumps = [self.pump(self.worker(f"worker-{n}")) for n in range(workers)]
        threads = [threading.Thread(target=pump.run, args=(stop,), daemon=True) for pump in pumps]
        sweep = partial(schedule.sweep, self.worker("sweeper"), self._swept, every_s=SWEEP_EVERY_S)
        self._sweeper = threading.Thread(target=sweep, daemon=True)
        for thread in (*threads, self._sweeper):
            thread.start()
        try:
            yield
        finally:
            stop.set()
            self.end_sweeps()
            for thread in threads:
                thread.join(JOIN_S)

    def wake_all(self, refs: Iterable[TaskRef]) -> None:
        """Send a message for every task once more."""
        queue = SqsQueue(self.on.sqs, self.on.queue_url)
        for ref in refs:
            queue.send(ref)

    @property
    def store(self) -> DynamoStore:
        return DynamoStore(self.on.dynamodb, self.on.table, draw=random.randrange)

    @property
    def left(self) -> int:
        """Return the number of messages in the queue, with those that may still be on their way to it."""
        answer = self.on.sqs.get_queue_attributes(QueueUrl=self.on.queue_url, AttributeNames=["All"])
        counts = [int(n) for name, n in answer["Attributes"].items() if name.startswith("ApproximateNumberOf")]
        return sum(counts) + sum(proxy.delayed for proxy in self.proxies)

    def dead_letters(self) -> list[str]:
        """Take out the dead letters and return their bodies."""
        url, bodies = self.on.made.dead_letter_queue_url, list[str]()
        while messages := self.on.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", []):
            for message in messages:
                bodies.append(message["Body"])
                self.on.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return bodies

    def end_sweeps(self) -> None:
        """Start no more sweeps, and wait for the running one, whose messages are not in a queue yet."""
        self._swept.set()
        self._sweeper.join(JOIN_S)

    @property
    def kills(self) -> int:
        return sum(environment.kills for environment in self.environments)

    @property
    def met(self) -> Counter[Kind]:
        """Return the faults that happened, by kind."""
        return sum((proxy.met for proxy in self.proxies), Counter[Kind]())

    @property
    def calls(self) -> Counter[str]:
        """Return the AWS calls that were made, by operation."""
        return sum((proxy.calls for proxy in self.proxies), Counter[str]())

    def close(self) -> None:
        for environment in self.environments:
            environment.close()
        for proxy in self.proxies:
            proxy.close()
        canaries.check(self.log.read_text())

    def worker(self, name: str) -> Callable[[Any], Any]:
        """Invoke a worker function; raise Crashed if it dies."""
        worker = self.environment(name, "lambda_worker.handler")

        def invoke(event: Any) -> Any:
            answer = worker.invoke(event)
            if answer is None:
                raise Crashed(worker.name)
            return answer

        return invoke

    def pump(self, invoke: Callable[[Any], Any]) -> Pump:
        return Pump(self.on.sqs, queue_url=self.on.queue_url, queue_arn=self.on.made.queue_arn, invoke=invoke)

    def _variables(self, proxy: FaultyProxy) -> dict[str, str]:
        return self.on.environment | {
            "AWS_ENDPOINT_URL": proxy.url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "LLM_SERVER_CONFIG": str(self._config),
            "LLM_SERVER_LEASE_S": str(LEASE_S),
            "LLM_SERVER_SWEEP_S": str(SWEEP_S),
            "LLM_SERVER_LOG_LEVEL": "DEBUG",
            **self._settings,
        }


@contextmanager
def deployed(
    on: Emulator,
    engine: FakeEngine,
    folder: Path,
    fates: Callable[[str], Fate] = lambda name: lambda number, operation: None,
    **settings: str,
) -> Iterator[Deployment]:
    """Deploy until the block ends; `settings` are environment variables of the functions."""
    with ExitStack() as stack:
        deployment = Deployment(on, engine, folder, fates, settings)
        stack.callback(deployment.close)
        yield deployment


def hashed(asked: Any) -> str:
    """Return the engine's answer to a Chat Completions body."""
    system, user = (message["content"] for message in asked["messages"])
    return answer_to(system, user)


def an_engine(number: int, engine: FakeEngine) -> str:
    """Return the configuration of an engine."""
    return (
        f'[engines.fake{number}]\nkind = "openai"\nsource = "api"\nmodel = "fake-1"\nbase_url = "{engine.base_url}"\n'
        "timeout_s = 4\nprice = {input = 1, output = 2}\n"
    )
