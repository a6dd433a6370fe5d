"""`llm-server backup` and `llm-server restore`: their messages and exit codes, and what they leave."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from llm_server.cli.app import app
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.file.process_lock import OnlyProcess
from llm_server.storage.sqlite.store import SqliteStore
from support.builders import a_request, a_task
from support.database_files import a_file_of_0_1_0, files


def run(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"LLM_SERVER_TABLE": "", "LLM_SERVER_DB": "", **environ})


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """A database with one open task."""
    path = tmp_path / "data" / "tasks.db"
    with closing(SqliteStore(Database(path))) as store:
        store.add(a_task(), a_request())
    return path


def test_both_commands_say_what_the_backup_holds(db: Path, tmp_path: Path) -> None:
    file, restored = tmp_path / "backup.db", tmp_path / "new" / "tasks.db"

    made = run("backup", str(file), "--db", str(db))
    found = run("restore", str(file), LLM_SERVER_DB=str(restored))

    holds = "1 task, 1 of them open, in a file of version 5"
    assert (made.exit_code, made.stdout, made.stderr) == (0, f"{file}: {holds}.\n", "")
    assert (found.exit_code, found.stderr) == (0, "")
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    assert re.fullmatch(rf"{re.escape(str(restored))}: {holds}, as of {time}\.\n", found.stdout)


def test_a_restore_says_if_a_copy_could_not_be_checked(tmp_path: Path) -> None:
    old, restored = a_file_of_0_1_0(tmp_path), tmp_path / "new" / "tasks.db"

    found = run("restore", str(old), "--db", str(restored))

    holds = "18 tasks, 9 of them open, in a file of version 1"
    said = f"{restored}: {holds}, with no digest that could be checked.\n"
    assert (found.exit_code, found.stdout, found.stderr) == (0, said, "")


def test_what_is_refused_is_said_on_stderr_and_changes_nothing(db: Path, tmp_path: Path) -> None:
    file = tmp_path / "backup.db"
    run("backup", str(file), "--db", str(db))
    before = files(db)

    again, over = run("backup", str(file), "--db", str(db)), run("restore", str(file), "--db", str(db))
    with closing(OnlyProcess(tmp_path / "new.db")):
        held = run("restore", str(file), "--db", str(tmp_path / "new.db"))

    assert [(each.exit_code, each.stdout) for each in (again, over, held)] == [(2, "")] * 3
    assert again.stderr == f"{file} exists; nothing is overwritten. Choose another name.\n"
    assert over.stderr == (
        f"{db} exists; nothing is overwritten. Name another file with --db or LLM_SERVER_DB, or move what is there "
        f"away: mkdir {db}.old && mv {db} {db}.old\n"
    )
    assert held.stderr.startswith(f"The database {tmp_path / 'new.db'} is in use by another server.")
    assert files(db) == before


@pytest.mark.parametrize("name", ["", ".", "/"])
def test_a_folder_is_not_taken_for_a_file(db: Path, tmp_path: Path, name: str) -> None:
    """An empty name comes from a variable of the shell that is not set."""
    file = tmp_path / "backup.db"
    run("backup", str(file), "--db", str(db))

    for found in (
        run("backup", name, "--db", str(db)),
        run("restore", str(file), "--db", name or "."),
        run("restore", name),
    ):
        assert (found.exit_code, found.stdout) == (2, "")
        assert found.stderr == f"{name or '.'} is a folder; name a file.\n"
    assert not Path(f"{Path.cwd()}.lock").exists()


@pytest.mark.parametrize("name", ["\udcff.db", "x" * 1000])
def test_a_name_that_no_file_can_have_is_refused(db: Path, tmp_path: Path, name: str) -> None:
    refused = run("backup", str(tmp_path / name), "--db", str(db))

    assert refused.exit_code == 2
    assert "cannot be written" in refused.stderr


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_a_table_on_aws_is_not_backed_up_by_the_commands(db: Path, tmp_path: Path, command: str) -> None:
    refused = run(command, str(tmp_path / "backup.db"), "--db", str(db), LLM_SERVER_TABLE="llm-server")

    said = (
        "LLM_SERVER_TABLE is set, and AWS backs up a DynamoDB table; docs/operations.md says how to restore it. "
        "Unset it to use a SQLite file.\n"
    )
    assert (refused.exit_code, refused.stdout, refused.stderr) == (2, "", said)
    assert not (tmp_path / "backup.db").exists()
