"""The composition root: settings to a service, for AWS or embedded.

Adapters are imported where they are chosen: a Lambda must not pay for SQLite, nor the embedded server for boto3.
"""

from __future__ import annotations

import os
import random
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from importlib import resources
from typing import Any, Literal, NamedTuple

import msgspec

from llm_server.engines import prices
from llm_server.engines.credentials import Credentials, has_credentials
from llm_server.engines.discovery import LoopbackServer, discover
from llm_server.engines.local import model_files
from llm_server.orchestration.access.keyring import Keyring
from llm_server.orchestration.configuration import catalog_file
from llm_server.orchestration.dispatch.balancer import Balancer
from llm_server.orchestration.dispatch.calls import EngineCalls
from llm_server.orchestration.dispatch.fleet import Fleet
from llm_server.orchestration.dispatch.health import EngineStates
from llm_server.orchestration.domain.catalog import Catalog, EngineSpec
from llm_server.orchestration.domain.engine_call import Engine, Pricer
from llm_server.orchestration.domain.errors import ConfigurationError
from llm_server.orchestration.domain.ports import Clock, KeyStore, Queue, Store
from llm_server.orchestration.domain.retention import Retention
from llm_server.orchestration.execution.orchestrator import Orchestrator
from llm_server.orchestration.routing.analysis import analyse
from llm_server.orchestration.service import Service
from llm_server.settings import Settings


class Found(NamedTuple):
    """The catalogue, and which engines answer and why."""

    catalog: Catalog
    why: str


def now_ms() -> int:
    """The wall clock, Unix milliseconds."""
    return time.time_ns() // 1_000_000


def new_id() -> str:
    """A UUIDv7 (RFC 9562, 5.7): 48 bits of Unix milliseconds, then 74 random bits; sorts by time."""
    value = now_ms() << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def retention(settings: Settings) -> Retention:
    """How long stores keep what has ended."""
    return Retention(clock=now_ms, keep_ms=settings.keep_ms)


def overlay(settings: Settings) -> dict[str, Any]:
    """The user's configuration file, {} without one. Raises ConfigurationError when it is no TOML."""
    if settings.config is None:
        return {}
    try:
        return tomllib.loads(settings.config.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigurationError(f"The configuration {settings.config} cannot be read: {error}.") from error


def configured_catalog(settings: Settings) -> Catalog:
    """The packaged catalogue with the user's file over it. Raises ConfigurationError: the file is wrong."""
    packaged = tomllib.loads((resources.files("llm_server") / "data" / "catalog.toml").read_text(encoding="utf-8"))
    return catalog_file.load(packaged, overlay(settings), source=str(settings.config or ""))


def load_catalog(settings: Settings, *, loopback: Sequence[LoopbackServer] = (), own_port: int | None = None) -> Found:
    """The packaged catalogue with the user's file over it and, where it configures no engine, the one that is found.

    Raises:
        ConfigurationError: the file is wrong, or LLM_SERVER_MODEL names no model on this machine.
    """
    catalog = configured_catalog(settings)
    model = None if settings.on_aws else settings.model
    if model:
        file = model_files.named(model, catalog.models, settings.models_dir)
        model_files.require(file, named_by="LLM_SERVER_MODEL")
    unused = " LLM_SERVER_MODEL is not used." if model else ""
    configured = [name for name, spec in catalog.engines.items() if spec.kind != "embedded"]
    if configured:
        without = _without_key(catalog, Credentials(settings.environ))
        return Found(catalog, f"{', '.join(configured)} (configured in {settings.config}).{without}{unused}")
    found = discover(settings.environ, loopback=loopback, own_port=own_port, model=model)
    unused = "" if found.spec.kind == "llamacpp" else unused
    engines = {**catalog.engines, found.name: found.spec}
    return Found(msgspec.structs.replace(catalog, engines=engines), f"{found.name}: {found.why}{unused}")


def _without_key(catalog: Catalog, secrets: Credentials) -> str:
    """Say which engines cannot answer for want of a key."""
    missing = [
        f"{name} has no key ({spec.api_key} is not set)"
        for name, spec in catalog.engines.items()
        if not has_credentials(secrets, spec)
    ]
    return f" {'; '.join(missing)}." if missing else ""


def _engines(settings: Settings, catalog: Catalog, secrets: Credentials) -> dict[str, Engine]:
    from llm_server.engines import factory

    return factory.build(catalog, secrets, models_dir=settings.models_dir, analyse=analyse)


def balancer_of(
    catalog: Catalog,
    engines: Mapping[str, Engine],
    store: Store,
    *,
    has_credentials: Callable[[EngineSpec], bool],
    price: Pricer = prices.price,
    clock: Clock = now_ms,
) -> Balancer:
    """Put a balancer together; `engines` are the adapters by name, `store` shares what is known of their health."""
    states = EngineStates(store, clock)
    fleet = Fleet(configured=catalog.engines, has_credentials=has_credentials, states=states)
    calls = EngineCalls(catalog=catalog, engines=engines, fleet=fleet, states=states, price=price, clock=clock)
    return Balancer(catalog=catalog, fleet=fleet, calls=calls, price=price)


def service_of(
    settings: Settings, *, store: Store, key_store: KeyStore, queue: Queue, catalog: Catalog, works: bool = True
) -> Service:
    """Put a service together; one that never `works` on tasks is spared the engines' adapters and their imports."""
    secrets = Credentials(settings.environ)
    balancer = balancer_of(
        catalog,
        _engines(settings, catalog, secrets) if works else {},
        store,
        has_credentials=partial(has_credentials, secrets),
    )
    orchestrator = Orchestrator(
        catalog=catalog,
        balancer=balancer,
        clock=now_ms,
        max_deliveries=settings.max_attempts,
        sweep_s=settings.sweep_s,
    )
    return Service(
        catalog=catalog,
        store=store,
        key_store=key_store,
        queue=queue,
        balancer=balancer,
        orchestrator=orchestrator,
        clock=now_ms,
        new_id=new_id,
        random_bytes=os.urandom,
        lease_s=settings.lease_s,
        sweep_s=settings.sweep_s,
        prompt_max_chars=settings.prompt_max_chars,
    )


def aws_service(settings: Settings, *, works: bool) -> Service:
    """A service over DynamoDB and SQS. Raises ConfigurationError when table and queue are not set."""
    from llm_server.storage.dynamodb.api_keys import DynamoKeys
    from llm_server.storage.dynamodb.sqs_queue import SqsQueue
    from llm_server.storage.dynamodb.store import DynamoStore

    if settings.table is None or settings.queue_url is None:
        raise ConfigurationError("LLM_SERVER_TABLE and LLM_SERVER_QUEUE_URL must be set on AWS.")
    dynamodb = _client("dynamodb")
    return service_of(
        settings,
        store=DynamoStore(dynamodb, settings.table, draw=random.randrange, retention=retention(settings)),
        key_store=DynamoKeys(dynamodb, settings.table),
        queue=SqsQueue(_client("sqs"), settings.queue_url),
        catalog=load_catalog(settings).catalog,
        works=works,
    )


@contextmanager
def keys_of(settings: Settings, *, make: bool) -> Iterator[Keyring]:
    """The API keys alone, where the tasks are: in the table on AWS, else in the SQLite file, server running or not.

    Raises:
        ConfigurationError: the file cannot be opened, or is not there and none is to be made; AWS cannot be called.
    """
    if settings.table is not None:
        from llm_server.storage.dynamodb.api_keys import DynamoKeys

        yield Keyring(DynamoKeys(_client("dynamodb"), settings.table), now_ms, os.urandom)
        return
    from llm_server.storage.sqlite.api_keys import SqliteKeys

    if not make and not settings.db.exists():
        raise ConfigurationError(f"There is no database {settings.db}; LLM_SERVER_DB or --db says where it is.")
    with closing(SqliteKeys(settings.db)) as store:
        yield Keyring(store, now_ms, os.urandom)


def _client(service: Literal["dynamodb", "sqs"]) -> Any:
    """A client of an AWS service. Raises ConfigurationError: there is no region, or not the profile that is named."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        connect_timeout=2,
        read_timeout=5,
        retries={"mode": "standard", "total_max_attempts": 4},
        max_pool_connections=32,
    )
    try:
        return boto3.client(service, config=config)
    except BotoCoreError as error:
        raise ConfigurationError(f"AWS cannot be called: {str(error).rstrip('.')}.") from error
