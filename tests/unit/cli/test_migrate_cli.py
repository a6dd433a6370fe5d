"""`llm-server migrate`: its messages, its exit codes, and what it changes."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from llm_server.cli.app import app
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.file.backups import back_up
from llm_server.storage.sqlite.file.process_lock import OnlyProcess
from llm_server.storage.sqlite.migrations import MIGRATIONS, Migration
from support.database_files import a_file_of_0_1_0, files, version


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return a_file_of_0_1_0(tmp_path)


def run(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(
        app, ["migrate", *arguments], env={"LLM_SERVER_TABLE": "", "LLM_SERVER_DB": "", **environ}
    )


def test_a_file_is_migrated_and_its_backup_named(old: Path) -> None:
    migrated = run("--db", str(old))

    said = f"The database {old} was migrated from version 1 to 5.\nBackup: {old}.v1.backup\n"
    assert (migrated.exit_code, migrated.stdout, migrated.stderr) == (0, said, "")
    assert version(old) == 5
    assert version(old.with_name("tasks.db.v1.backup")) == 1


def test_a_current_file_is_not_changed(old: Path) -> None:
    run("--db", str(old))
    before = files(old)

    again = run("--db", str(old))

    said = f"The database {old} is up to date; nothing was changed.\n"
    assert (again.exit_code, again.stdout, again.stderr) == (0, said, "")
    assert files(old) == before


def test_a_backup_keeps_its_digest(old: Path, tmp_path: Path) -> None:
    """Opening it as a database would change its header."""
    run("--db", str(old))
    backup = tmp_path / "backup.db"
    back_up(old, backup, now_ms=1)
    before = backup.read_bytes()

    assert run("--db", str(backup)).exit_code == 0
    assert backup.read_bytes() == before


def test_a_check_names_what_is_pending_and_changes_nothing(old: Path) -> None:
    before = files(old)

    pending = run("--check", "--db", str(old))

    said = (
        f"The database {old} has version 1. Pending migrations:\n"
        "  2  add the tables and indexes that a file of 0.1.0 may lack\n"
        "  3  index the tasks by status, and copy their metadata to where a listing reads it\n"
        "  4  index the tasks by what a listing can filter by, and let the file become smaller\n"
        "  5  add the tables for the text of streamed tasks and for conversations\n"
    )
    assert (pending.exit_code, pending.stdout, pending.stderr) == (1, said, "")
    assert files(old) == before
    assert not old.with_name("tasks.db.lock").exists()


def test_a_check_of_a_current_file_works_while_a_server_uses_it(old: Path) -> None:
    run("--db", str(old))
    with closing(OnlyProcess(old)):
        current = run("--check", "--db", str(old))

    said = f"The database {old} is up to date: it has version 5.\n"
    assert (current.exit_code, current.stdout, current.stderr) == (0, said, "")


def test_a_file_that_a_server_uses_is_not_migrated(old: Path) -> None:
    before = files(old)
    with closing(OnlyProcess(old)):
        refused = run("--db", str(old))

    advice = "Stop it, or choose another file: LLM_SERVER_DB=... or --db ..."
    said = f"The database {old} is in use by another server. {advice}\n"
    assert (refused.exit_code, refused.stdout, refused.stderr) == (2, "", said)
    assert files(old) == before


@pytest.mark.parametrize("options", [[], ["--check"]])
def test_the_file_is_named_by_the_option_or_the_environment(old: Path, tmp_path: Path, options: list[str]) -> None:
    """As for `keys`; the option takes precedence."""
    elsewhere = str(tmp_path / "elsewhere.db")

    by_environment = run(*options, LLM_SERVER_DB=str(old))
    by_option = run(*options, "--db", elsewhere, LLM_SERVER_DB=str(old))

    assert str(old) in by_environment.stdout
    assert by_option.stderr == f"The database {elsewhere} does not exist; name the file with --db or LLM_SERVER_DB.\n"


@pytest.mark.parametrize("options", [[], ["--check"]])
def test_a_missing_file_is_not_created(tmp_path: Path, options: list[str]) -> None:
    path = tmp_path / "new" / "tasks.db"

    refused = run(*options, "--db", str(path))

    assert (refused.exit_code, refused.stdout) == (2, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [[], ["--check"]])
def test_a_file_that_cannot_be_migrated_is_refused_with_the_reason(tmp_path: Path, options: list[str]) -> None:
    """A database of a newer version, and a file that is not a database."""
    newer, text = tmp_path / "newer.db", tmp_path / "notes.txt"
    later = Migration(version=9, purpose="test", apply=lambda db: None)
    Database(newer, migrations=[*MIGRATIONS, later]).close()
    text.write_text("This is not a database." * 1_000)

    refused = [run(*options, "--db", str(path)) for path in (newer, text)]

    assert [(each.exit_code, each.stdout) for each in refused] == [(2, "")] * 2
    assert "it has version 9, and this LLM-Server knows 5 at most" in refused[0].stderr
    assert refused[1].stderr == f"The database {text} cannot be opened: file is not a database.\n"


def test_an_empty_file_becomes_a_database_without_a_backup(tmp_path: Path) -> None:
    """A server that died during its very first start leaves such a file."""
    path = tmp_path / "data" / "tasks.db"
    path.parent.mkdir()
    path.touch()

    pending, made = run("--check", "--db", str(path)), run("--db", str(path))

    assert (pending.exit_code, made.exit_code) == (1, 0)
    said = f"The database {path} was migrated from version 0 to 5.\nThe file was empty, so no backup was written.\n"
    assert made.stdout == said
    assert sorted(files(path)) == ["tasks.db", "tasks.db.marker"]


def test_a_table_on_aws_has_no_migrations(old: Path) -> None:
    refused = run("--db", str(old), LLM_SERVER_TABLE="llm-server")

    said = "LLM_SERVER_TABLE is set, and a DynamoDB table has no migrations; unset it to migrate a SQLite file.\n"
    assert (refused.exit_code, refused.stdout, refused.stderr) == (2, "", said)
    assert version(old) == 1
