"""Opens what AWS or an SQLite file stores: the service on AWS, the API keys, the tenants.

The embedded server opens its own file (`embedded/assembly.py`).

Adapters are imported in the functions that choose them, so that a Lambda function does not load SQLite and the embedded
server does not load boto3.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llm_server import catalog_loading, wiring
from llm_server.orchestration.access.keyring import Keyring
from llm_server.orchestration.domain.errors import ConfigurationError
from llm_server.orchestration.service import Service
from llm_server.settings import Settings

if TYPE_CHECKING:
    from llm_server.orchestration.domain.ports.keys import KeyStore
    from llm_server.orchestration.domain.ports.store import Store
    from llm_server.orchestration.tasks.tenant_deletion import TenantDeletion


def aws_service(settings: Settings, *, works: bool) -> Service:
    """Build a service on DynamoDB and SQS. Raises ConfigurationError if the table or the queue is not set."""
    from llm_server.storage.dynamodb.api_keys import DynamoKeys
    from llm_server.storage.dynamodb.sqs_queue import SqsQueue
    from llm_server.storage.dynamodb.store import DynamoStore

    if settings.table is None or settings.queue_url is None:
        raise ConfigurationError("LLM_SERVER_TABLE and LLM_SERVER_QUEUE_URL must be set on AWS.")
    dynamodb = _client("dynamodb")
    return wiring.service_of(
        settings,
        store=DynamoStore(dynamodb, settings.table, draw=random.randrange, retention=wiring.retention(settings)),
        key_store=DynamoKeys(dynamodb, settings.table),
        queue=SqsQueue(_client("sqs"), settings.queue_url),
        catalog=catalog_loading.load_catalog(settings).catalog,
        works=works,
    )


@contextmanager
def keys_of(settings: Settings, *, make: bool) -> Iterator[Keyring]:
    """Open the API keys: in the DynamoDB table on AWS, else in the SQLite file. The server may be running.

    If `make` is False, the SQLite file must exist; else it is created if it does not exist.

    Raises:
        ConfigurationError: the file does not exist or cannot be opened, or AWS cannot be called.
    """
    if settings.table is not None:
        from llm_server.storage.dynamodb.api_keys import DynamoKeys

        yield Keyring(DynamoKeys(_client("dynamodb"), settings.table), wiring.now_ms, os.urandom)
        return
    from llm_server.storage.sqlite.api_keys import USABLE_SINCE, SqliteKeys
    from llm_server.storage.sqlite.database import Database

    if not make:
        _check_exists(settings.db)
    with closing(Database(settings.db, usable_since=USABLE_SINCE)) as database:
        yield Keyring(SqliteKeys(database), wiring.now_ms, os.urandom)


@contextmanager
def tenant_deletion_of(settings: Settings) -> Iterator[TenantDeletion]:
    """Open the records of the tenants: in the DynamoDB table on AWS, else in the SQLite file. A server may be running.

    If none is running, the SQLite file is written anew at the end, so that its unused bytes hold nothing either.

    Raises:
        ConfigurationError: the file does not exist or cannot be opened, or AWS cannot be called.
    """
    if settings.table is not None:
        from llm_server.storage.dynamodb.api_keys import DynamoKeys
        from llm_server.storage.dynamodb.store import DynamoStore

        dynamodb, retention = _client("dynamodb"), wiring.retention(settings)
        table = DynamoStore(dynamodb, settings.table, draw=random.randrange, retention=retention)
        yield _deletion(table, DynamoKeys(dynamodb, settings.table), is_served=True)
        return
    from llm_server.storage.sqlite.api_keys import SqliteKeys
    from llm_server.storage.sqlite.database import PATIENT_BUSY_S, Database
    from llm_server.storage.sqlite.file.process_lock import held_by_us
    from llm_server.storage.sqlite.store import SqliteStore

    _check_exists(settings.db)
    with (
        held_by_us(settings.db, wait_s=0) as is_ours,
        closing(Database(settings.db, busy_s=PATIENT_BUSY_S)) as database,
    ):
        file = SqliteStore(database, wiring.retention(settings))
        if is_ours:
            file.end_leases(wiring.now_ms())  # no server is running, so no worker is
        yield _deletion(file, SqliteKeys(database), is_served=not is_ours)
        if is_ours:
            database.empty_log(rewrite=True)


def _deletion(store: Store, key_store: KeyStore, *, is_served: bool) -> TenantDeletion:
    from llm_server.orchestration.tasks.tenant_deletion import TenantDeletion

    return TenantDeletion(
        store=store,
        key_store=key_store,
        keyring=Keyring(key_store, wiring.now_ms, os.urandom),
        clock=wiring.now_ms,
        sleep=time.sleep,
        is_served=is_served,
    )


def _check_exists(db: Path) -> None:
    """Raise ConfigurationError if a command that must not make a SQLite file does not find it."""
    if not db.exists():
        raise ConfigurationError(f"The database {db} does not exist; set its path in LLM_SERVER_DB or --db.")


def _client(service: Literal["dynamodb", "sqs"]) -> Any:
    """Make a client of an AWS service. Raises ConfigurationError if the AWS region or profile is missing."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, NoRegionError

    config = Config(
        connect_timeout=2,
        read_timeout=5,
        retries={"mode": "standard", "total_max_attempts": 4},
        max_pool_connections=32,
    )
    try:
        return boto3.client(service, config=config)
    except NoRegionError as error:
        raise ConfigurationError("AWS cannot be called: set AWS_DEFAULT_REGION to the region of the table.") from error
    except BotoCoreError as error:
        raise ConfigurationError(f"AWS cannot be called: {str(error).rstrip('.')}.") from error
