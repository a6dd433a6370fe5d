"""The commands for keys, in this process: what is refused, how it is said, with which exit code."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from llm_server.cli.app import app


def run(db: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["keys", *arguments, "--db", str(db)], env={"LLM_SERVER_TABLE": ""})


COUNT = "is a whole number from 1 to 1,000,000.\n"
USD = "The limit usd_per_day is a number from 0.000001 to 1,000,000.\n"


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
        (["--name", "bad \udcff byte"], "A key's name has at most 100 characters, all of them printable.\n"),
        (["--name", "gnp.\u202eexe"], "A key's name has at most 100 characters, all of them printable.\n"),
    ],
)
def test_a_key_that_cannot_be_is_refused_with_what_is_allowed(tmp_path: Path, options: list[str], said: str) -> None:
    """As over HTTP; nothing is stored."""
    refused = run(tmp_path / "tasks.db", "create", "--tenant", "acme", *options)

    assert (refused.exit_code, refused.stdout, refused.stderr) == (2, "", said)
    assert run(tmp_path / "tasks.db", "list").stdout == ""


def test_the_list_shows_money_exactly(tmp_path: Path) -> None:
    run(tmp_path / "tasks.db", "create", "--tenant", "acme", "--usd-per-day", "123456.789")

    assert "123456.789 USD a day" in run(tmp_path / "tasks.db", "list").stdout


@pytest.mark.parametrize("command", [["list"], ["revoke", "ffffffffffff"]])
def test_a_database_that_is_not_there_is_named_and_not_made(tmp_path: Path, command: list[str]) -> None:
    """An empty list from a mistyped path would look like a server without keys."""
    db = tmp_path / "nowhere" / "x.db"

    refused = run(db, *command)

    said = f"The database {db} does not exist; set its path in LLM_SERVER_DB or --db.\n"
    assert (refused.exit_code, refused.stdout, refused.stderr) == (2, "", said)
    assert list(tmp_path.iterdir()) == []


def test_the_first_key_may_make_its_database(tmp_path: Path) -> None:
    """Before a server that others reach is started for the first time."""
    db = tmp_path / "new" / "tasks.db"

    assert run(db, "create", "--tenant", "acme").exit_code == 0
    assert "acme" in run(db, "list").stdout
