"""The commands for keys, run in this process: refusals, messages and exit codes."""

from __future__ import annotations

import json
import re
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner, Result

from llm_server.api.schemas.keys import KeyView
from llm_server.cli.app import app
from llm_server.orchestration.access.tokens import is_secret_of
from llm_server.storage.sqlite.api_keys import SqliteKeys
from llm_server.storage.sqlite.database import Database


def run(db: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["keys", *arguments, "--db", str(db)], env={"LLM_SERVER_TABLE": ""})


COUNT = "must be a whole number from 1 to 1,000,000.\n"
FUTURE = "must be in the future, and not after 9999-12-31T23:59:59Z.\n"
SOURCES = "known are local, api, each at most once.\n"
USD = "The limit usd_per_day must be from 0.000001 to 1,000,000.\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--requests-per-minute", "0"], f"The limit requests_per_minute {COUNT}"),
        (["--requests-per-minute", "99999999999999999999"], f"The limit requests_per_minute {COUNT}"),
        (["--tasks-in-flight", "1000001"], f"The limit tasks_in_flight {COUNT}"),
        (["--usd-per-day", "inf"], USD),
        (["--usd-per-day", "nan"], USD),
        (["--usd-per-day", "1e40"], USD),
        (["--usd-per-day", "-1"], USD),
        (["--source", "moon"], "Unknown source 'moon' in limits.sources; known are local, api.\n"),
        (["--source", "local", "--source", "local"], f"The list limits.sources has a source twice; {SOURCES}"),
        (["--expires-at", "2020-01-01T00:00:00Z"], f"The field expires_at {FUTURE}"),
        (["--name", "bad \udcff byte"], "A key's name must have at most 100 characters, all of them printable.\n"),
        (["--name", "gnp.\u202eexe"], "A key's name must have at most 100 characters, all of them printable.\n"),
    ],
)
def test_an_invalid_new_key_is_refused_with_the_allowed_values(tmp_path: Path, options: list[str], said: str) -> None:
    """As over HTTP; no key is stored."""
    refused = run(tmp_path / "tasks.db", "create", "--tenant", "acme", *options)

    assert (refused.exit_code, refused.stdout, refused.stderr) == (2, "", said)
    assert listed(tmp_path / "tasks.db") == []


@pytest.mark.parametrize("command", [["create", "--tenant", "acme"], ["update", "ffffffffffff"]])
@pytest.mark.parametrize("time", ["tomorrow", "2030-02-30", "2030-01-01T00:00:00"])
def test_a_wrong_time_of_expiry_names_the_option_and_the_accepted_forms(
    tmp_path: Path, command: list[str], time: str
) -> None:
    SqliteKeys(Database(tmp_path / "tasks.db")).close()
    refused = run(tmp_path / "tasks.db", *command, "--expires-at", time)

    assert (refused.exit_code, refused.stdout, listed(tmp_path / "tasks.db")) == (2, "", [])
    assert refused.stderr.splitlines()[-1] == (
        f"Error: Invalid value for --expires-at: {time!r} is not a time. "
        "Give a date (midnight UTC), such as 2026-11-29, or a time with an offset, such as 2026-11-29T08:00:00Z."
    )


def test_a_date_of_expiry_is_its_midnight_in_utc(tmp_path: Path) -> None:
    """As the times of `list`."""
    db = tmp_path / "tasks.db"
    key_id = made(db, "--expires-at", "2999-01-01")
    created = listed(db)[0]["expires_at"]
    run(db, "update", key_id, "--expires-at", "2999-02-01")

    assert (created, listed(db)[0]["expires_at"]) == ("2999-01-01T00:00:00.000Z", "2999-02-01T00:00:00.000Z")


@pytest.mark.parametrize(
    ("options", "scopes"),
    [
        ([], ["tasks"]),
        (["--scope", "tasks", "--scope", "admin"], ["tasks", "admin"]),
        (["--scope", "tasks, metrics", "--scope", "admin"], ["tasks", "metrics", "admin"]),
    ],
)
def test_scopes_may_be_repeated_and_separated_by_commas(tmp_path: Path, options: list[str], scopes: list[str]) -> None:
    made(tmp_path / "tasks.db", *options)

    assert sorted(listed(tmp_path / "tasks.db")[0]["scopes"]) == sorted(scopes)


def listed(db: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run(db, "list").stdout)["keys"]
    return found


def made(db: Path, *options: str) -> str:
    """Create a key and return its id."""
    done = run(db, "create", "--tenant", "acme", *options)
    assert done.exit_code == 0, done.stderr
    return done.stdout.split("_")[1]


def test_the_list_has_one_line_for_each_key(tmp_path: Path) -> None:
    """Money is exact; a dash stands for no limit, no expiry and no name."""
    db = tmp_path / "tasks.db"
    limits = [
        "--requests-per-minute",
        "60",
        "--tasks-in-flight",
        "5",
        "--usd-per-day",
        "123456.789",
        "--source",
        "api,local",
    ]
    ids = [
        made(db, "--scope", "tasks,admin", *limits, "--expires-at", "2999-12-31T23:59:59.5Z", "--name", "CI of acme"),
        made(db),
        made(db),
    ]
    run(db, "revoke", ids[1])
    with closing(SqliteKeys(Database(db))) as keys:
        key = keys.key(ids[2])
        assert key is not None
        keys.swap_key(key, replace(key, expires_ms=1))
    lines = [re.split(r"\s{2,}", line) for line in run(db, "list", "--text").stdout.splitlines()]

    assert lines[0][:6] == ["key_id", "tenant", "scopes", "state", "created", "expires"]
    assert lines[0][6:] == ["requests/minute", "tasks in flight", "USD/day", "sources", "name"]
    assert [line[0] for line in lines[1:]] == ids
    assert lines[1][1:4] == ["acme", "tasks,admin", "valid"]
    assert lines[1][5:] == ["2999-12-31T23:59:59Z", "60", "5", "123456.789", "local,api", "CI of acme"]
    assert lines[2][3].startswith("revoked 20")
    assert lines[2][5:] == ["-"] * 6
    assert lines[3][3:6:2] == ["expired", "1970-01-01T00:00:00Z"]


def test_a_piped_list_is_the_document_of_the_api(tmp_path: Path) -> None:
    db = tmp_path / "tasks.db"
    key_id = made(db, "--usd-per-day", "2.5", "--expires-in-days", "2")
    piped, asked = run(db, "list"), run(db, "list", "--json")
    (key,) = json.loads(piped.stdout)["keys"]
    created, expires = (datetime.fromisoformat(key[name]) for name in ("created_at", "expires_at"))

    assert piped.stdout == asked.stdout
    assert KeyView.model_validate(key).model_dump() == key
    assert (key["key_id"], key["limits"]["usd_per_day"], key["revoked_at"]) == (key_id, 2.5, None)
    assert abs(expires - created - timedelta(days=2)) < timedelta(minutes=1)


@pytest.mark.parametrize(("form", "stdout"), [("--text", ""), ("--json", '{"keys": []}\n')])
def test_a_list_without_keys_says_so(tmp_path: Path, form: str, stdout: str) -> None:
    db = tmp_path / "tasks.db"
    SqliteKeys(Database(db)).close()
    done = run(db, "list", form)

    assert (done.exit_code, done.stdout) == (0, stdout)
    assert done.stderr == "There are no keys yet; make one with: llm-server keys create --tenant NAME\n"


def test_update_changes_only_the_fields_of_its_options(tmp_path: Path) -> None:
    db = tmp_path / "tasks.db"
    limits = ["--requests-per-minute", "60", "--tasks-in-flight", "5", "--usd-per-day", "1.5", "--source", "local"]
    key_id = made(db, *limits, "--name", "CI", "--expires-at", "2999-01-01T00:00:00Z")
    before = listed(db)[0]
    run(db, "update", key_id, "--name", "", "--no-usd-per-day", "--tasks-in-flight", "6")
    named = listed(db)[0]
    run(db, "update", key_id, "--never-expires", "--no-requests-per-minute", "--no-tasks-in-flight", "--no-source")
    unlimited = listed(db)[0]
    done = run(db, "update", key_id, "--expires-in-days", "1", "--usd-per-day", "2", "--source", "api")
    after = listed(db)[0]

    assert named == before | {"name": "", "limits": before["limits"] | {"tasks_in_flight": 6, "usd_per_day": None}}
    assert unlimited == named | {"limits": dict.fromkeys(named["limits"]), "expires_at": None}
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", f"Key {key_id} was changed.\n")
    assert (after["limits"]["usd_per_day"], after["limits"]["sources"]) == (2, ["api"])
    assert after["expires_at"] is not None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            [],
            "Nothing to change: give --name, --requests-per-minute, --tasks-in-flight, --usd-per-day, --source, "
            "--expires-at or --expires-in-days; or remove a value with --no-requests-per-minute, --no-tasks-in-flight, "
            "--no-usd-per-day, --no-source or --never-expires.\n",
        ),
        (["--usd-per-day", "1", "--no-usd-per-day"], "Give --usd-per-day or --no-usd-per-day, not both."),
        (["--source", "api", "--no-source"], "Give --source or --no-source, not both."),
        (["--source", ""], "The list limits.sources is empty; known are local, api."),
        (["--tasks-in-flight", "0"], "The limit tasks_in_flight"),
        (["--expires-at", "2999-01-01T00:00:00Z", "--expires-in-days", "1"], "not both"),
        (["--expires-in-days", "1", "--never-expires"], "Give --never-expires or a time of expiry, not both."),
        (["--expires-in-days", "0"], "greater than or equal to 1"),
    ],
)
def test_an_invalid_change_is_refused(tmp_path: Path, options: list[str], said: str) -> None:
    db = tmp_path / "tasks.db"
    key_id = made(db)
    before = listed(db)
    done = run(db, "update", key_id, *options)

    assert (done.exit_code, done.stdout, said in done.stderr) == (2, "", True), done.stderr
    assert listed(db) == before


def test_a_revoked_key_cannot_be_changed_or_rotated(tmp_path: Path) -> None:
    db = tmp_path / "tasks.db"
    key_id = made(db)
    run(db, "revoke", key_id)
    done = [run(db, "update", key_id, "--name", "CI"), run(db, "rotate", key_id)]

    assert [(one.exit_code, one.stdout) for one in done] == [(2, "")] * 2
    assert [one.stderr for one in done] == [
        "The key is revoked; a revoked key cannot be changed.\n",
        "The key is revoked.\n",
    ]


def test_a_rotated_key_has_a_new_token(tmp_path: Path) -> None:
    db = tmp_path / "tasks.db"
    key_id = made(db)
    token = run(db, "rotate", key_id).stdout.strip()

    with closing(SqliteKeys(Database(db))) as keys:
        key = keys.key(key_id)
    assert key is not None
    assert token == f"llms_{key_id}_{token.rpartition('_')[2]}"
    assert is_secret_of(key, token.rpartition("_")[2])


@pytest.mark.parametrize("command", [["list"], ["revoke", "ffffffffffff"], ["update", "ffffffffffff"]])
def test_a_missing_database_is_named_and_not_created(tmp_path: Path, command: list[str]) -> None:
    """An empty list from a mistyped path would look like a server without keys."""
    db = tmp_path / "nowhere" / "x.db"

    refused = run(db, *command)

    said = f"The database {db} does not exist; set its path in LLM_SERVER_DB or --db.\n"
    assert (refused.exit_code, refused.stdout, refused.stderr) == (2, "", said)
    assert list(tmp_path.iterdir()) == []


def test_the_first_key_may_create_the_database(tmp_path: Path) -> None:
    """An operator creates it before the first start of a server that other machines can reach."""
    db = tmp_path / "new" / "tasks.db"

    assert run(db, "create", "--tenant", "acme").exit_code == 0
    assert "acme" in run(db, "list").stdout
