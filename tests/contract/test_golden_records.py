"""Records that earlier versions stored are read for ever, and mean what they meant (tests/golden)."""

from __future__ import annotations

import base64
import json
import random
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from msgspec import to_builtins
from msgspec.structs import replace

from llm_server.api import views
from llm_server.orchestration.domain.api_key import Account
from llm_server.orchestration.domain.ports.keys import KeyStore
from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.domain.receipt import Receipt
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import TaskRef
from llm_server.storage import records
from llm_server.storage.dynamodb.api_keys import DynamoKeys
from llm_server.storage.dynamodb.store import DynamoStore
from llm_server.storage.sqlite.api_keys import SqliteKeys
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.store import SqliteStore
from support.aws_emulators import Substrate
from support.builders import NOW_MS, an_attempt, an_output
from support.deliveries import a_plan, planning
from support.golden import as_of_then, in_todays_words, with_limits_of_then
from support.scripted_service import Served

GOLDEN = Path(__file__).parents[1] / "golden"
VERSIONS = sorted(folder.name for folder in GOLDEN.iterdir() if folder.is_dir())
TENANT, KEY, DAY = "acme", "00000000000a", "2025-10-09"


@dataclass(frozen=True, slots=True)
class Stores:
    """The stores over one version's records, and what that version itself read from them."""

    tasks: Store
    keys: KeyStore
    expected: dict[str, Any]

    def get(self, name: str) -> Any:
        return self.tasks.get(TaskRef(TENANT, name))


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    """Each version whose records are kept."""
    return str(request.param)


@pytest.fixture(params=["sqlite", "moto", "ministack"])
def stores(request: pytest.FixtureRequest, version: str, tmp_path: Path) -> Iterator[Stores]:
    """The stores over the records of one version."""
    folder = GOLDEN / version
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    if request.param == "sqlite":
        file = tmp_path / "tasks.db"
        restore_sqlite(folder / "sqlite.sql", file)
        tasks, keys = SqliteStore(Database(file)), SqliteKeys(Database(file))
        yield Stores(tasks, keys, expected)
        tasks.close()
        keys.close()
    else:
        on: Substrate = request.getfixturevalue(f"{request.param}_substrate")
        for item in dynamodb_items(folder / "dynamodb.json"):
            on.dynamodb.put_item(TableName=on.table, Item=item)
        table = DynamoStore(on.dynamodb, on.table, draw=random.Random(7).randrange)
        yield Stores(table, DynamoKeys(on.dynamodb, on.table), expected)


def restore_sqlite(dump: Path, file: Path, change: Callable[[str], str] = lambda sql: sql) -> None:
    """Make a database file of a dump."""
    connection = sqlite3.connect(file)
    connection.executescript(change(dump.read_text(encoding="utf-8")))
    connection.close()


@cache
def dynamodb_items(file: Path) -> list[dict[str, Any]]:
    """The items of a file, as the client takes them."""
    found: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    for item in found:
        for value in item.values():
            if "B" in value:
                value["B"] = base64.b64decode(value["B"])
    return found


def _plain(value: Any) -> Any:
    return with_limits_of_then(json.loads(json.dumps(to_builtins(value))))


def test_every_task_is_shown_as_the_version_that_stored_it_showed_it(stores: Stores) -> None:
    """Plans, steps, reviews, attempts, events, receipts and results: the whole answer of `GET /tasks/{id}`."""
    shown = {name: json.loads(views.detail(stores.get(name)).model_dump_json()) for name in stores.expected["tasks"]}

    assert as_of_then(shown) == in_todays_words(stores.expected["tasks"])


def test_fields_that_a_newer_version_added_change_nothing(
    version: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A gradual deployment runs two versions on one table; a restored backup may be newer than the server."""
    file = tmp_path / "newer.db"
    restore_sqlite(GOLDEN / version / "sqlite.sql", file, lambda sql: sql.replace("'{\"", '\'{"added":{"x":[1]},"'))
    expected = json.loads((GOLDEN / version / "expected.json").read_text(encoding="utf-8"))["tasks"]
    store = SqliteStore(Database(file))
    request.addfinalizer(store.close)

    views_of = {name: views.detail(store.get(TaskRef(TENANT, name))) for name in expected}
    shown = {name: json.loads(view.model_dump_json()) for name, view in views_of.items()}

    assert as_of_then(shown) == in_todays_words(expected)


def test_every_state_and_request_has_the_fields_it_had(stores: Stores) -> None:
    """What no answer shows, too: fences, leases, owners, notes, charges."""
    states = {name: _plain(stores.get(name).task) for name in stores.expected["states"]}
    requests = {name: _plain(stores.get(name).request) for name in stores.expected["requests"]}

    for name, state in stores.expected["states"].items():
        assert states[name].items() >= state.items()
    for name, request in stores.expected["requests"].items():
        assert requests[name].items() >= request.items()


def test_tasks_are_listed_and_due_as_before(stores: Stores) -> None:
    """Indexes are rebuilt from the records, or were stored with them. Fields may be added to what is listed."""
    page = stores.tasks.page(TENANT, size=100)
    due = sorted([due.ref.task_id, due.due_ms] for due in stores.tasks.due(NOW_MS + 2 * 86_400_000))

    shown = json.loads(views.page(page).model_dump_json())
    earlier = stores.expected["page"]
    assert [task["task_id"] for task in shown["tasks"]] == [task["task_id"] for task in earlier["tasks"]]
    assert shown["next_page_token"] == earlier["next_page_token"]
    for task, before in zip(shown["tasks"], earlier["tasks"], strict=True):
        assert task.items() >= before.items()
    assert due == stores.expected["due"]


def test_what_was_counted_and_switched_still_holds(stores: Stores) -> None:
    """Counters, spending, engine states and switches. Fields may be added."""
    counters, engines = stores.tasks.overview()

    assert to_builtins(counters).items() >= stores.expected["counters"].items()
    assert engines.states.keys() == stores.expected["engine_states"].keys()
    for name, state in engines.states.items():
        assert to_builtins(state).items() >= stores.expected["engine_states"][name].items()
    assert engines.switches.keys() == stores.expected["engine_switches"].keys()
    for name, switch in engines.switches.items():
        assert to_builtins(switch).items() >= stores.expected["engine_switches"][name].items()
    assert stores.tasks.spent_microusd(TENANT, DAY) == stores.expected["spent_microusd"]


def test_keys_their_use_and_idempotency_keys_still_hold(stores: Stores) -> None:
    """Limits, revocations, reservations that are under way, money that is withheld, a bound Idempotency-Key."""
    keys = sorted((_plain(key) for key in stores.keys.all_keys()), key=lambda key: key["key_id"])
    binding = stores.tasks.bound_idempotency_key(TENANT, "order 17", now_ms=NOW_MS)

    for key, expected in zip(keys, stores.expected["keys"], strict=True):
        assert key.items() >= expected.items()
    assert to_builtins(stores.keys.use(Account(KEY, DAY))) == stores.expected["use"]
    assert binding is not None
    assert to_builtins(binding) == stores.expected["binding"]
    assert stores.keys.count_request(KEY, NOW_MS // 60_000, most=60) == 58


def test_a_key_that_an_earlier_version_stored_can_be_changed(stores: Stores) -> None:
    """Its text is not the one that this version would write for the same key."""
    key = stores.keys.key(KEY)
    assert key is not None
    after = replace(key, expires_ms=NOW_MS)

    assert stores.keys.swap_key(key, after)
    assert stores.keys.key(KEY) == after


@pytest.mark.parametrize(
    ("why", "failover_from", "probe"),
    [
        ("failover from gpt", "gpt", False),
        ("failover from gpt, probe", "gpt", True),
        ("fast tier, cheapest, probe", None, True),
        ("fast tier, cheapest", None, False),
        ("escalated from gpt", None, False),
        ("", None, False),
    ],
)
def test_an_attempt_of_0_1_0_has_its_facts_from_its_sentence(why: str, failover_from: str | None, probe: bool) -> None:
    """0.1.0 told a failover in `why` alone; the history needs to know the engine that had failed."""
    attempt = {"engine": "claude", "model": "m", "source": "api", "purpose": "answer", "started_ms": 1}
    stored = {"key": "RES#1", "created_ms": 2, "attempts": [attempt | {"duration_ms": 1, "why": why}]}

    (read,) = records.output(json.dumps(stored)).attempts

    assert (read.failover_from, read.probe, read.why) == (failover_from, probe, why)


def test_an_attempt_is_stored_as_0_1_0_stored_it_unless_it_has_more_to_say() -> None:
    """The units that a record takes are paid for: what most attempts lack is not written."""
    usual, rare = an_attempt(why="fast tier, cheapest"), an_attempt(why="failover from gpt", failover_from="gpt")

    bodies = [json.loads(records.encode(an_output(attempts=(attempt,))))["attempts"][0] for attempt in (usual, rare)]

    expected = json.loads((GOLDEN / "0.1.0" / "expected.json").read_text(encoding="utf-8"))
    shown = next(task["attempts"][0] for task in expected["tasks"].values() if task["attempts"])
    assert bodies[0].keys() == (shown.keys() - {"started_at"}) | {"started_ms"}
    assert bodies[1].keys() - bodies[0].keys() == {"failover_from"}


def test_tasks_that_an_earlier_version_left_open_are_carried_on(version: str, tmp_path: Path) -> None:
    """An answer whose worker died is taken up, stored steps are not asked for again, and the receipts still add up."""
    restore_sqlite(GOLDEN / version / "sqlite.sql", tmp_path / "tasks.db")
    engine = planning(a_plan({"a": "", "b": "a", "c": "a"}))
    served = Served(tmp_path, engine)
    served.clock.now_ms = NOW_MS + 3_600_000
    left_open = ["processing", "orphan", "planned", "approved", "retried", "long-prompt"]
    served.refs += [TaskRef(TENANT, name) for name in left_open]

    for ref in served.refs:
        served.service.process(ref, owner="today")

    ended = {ref.task_id: served.get(ref) for ref in served.refs}
    assert {name: snapshot.task.status for name, snapshot in ended.items()} == dict.fromkeys(
        left_open, Status.COMPLETED
    )
    assert ended["orphan"].result == "An answer nobody took up."
    asked = [call.prompt.rpartition("\n")[2] for call in engine.calls if "Do this step" in call.prompt]
    assert sorted(asked) == ["a", "a", "b", "b", "c", "c", "c"]  # of the plan half-way only c; of the others all
    for snapshot in ended.values():
        assert snapshot.task.receipt == Receipt().plus(snapshot.attempts)
    served.close()
