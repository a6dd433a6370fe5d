"""API keys that an operator creates on the command line while the server runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import urllib3

from support.server_process import RunningServer, refused, serving

TOKEN = re.compile(r"llms_[0-9a-f]{12}_[0-9a-f]{64}\n")


def run(db: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llm_server", *arguments]
    variables = {"PATH": "/usr/bin:/bin", "HOME": str(db.parent), "LLM_SERVER_DB": str(db), **env}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=variables)


def made(db: Path, *options: str) -> str:
    created = run(db, "keys", "create", "--tenant", "acme", *options)
    assert created.returncode == 0, created.stderr
    assert TOKEN.fullmatch(created.stdout)
    return created.stdout.strip()


def status(server: RunningServer, token: str = "", path: str = "/tasks") -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    code: int = server.call("GET", path, headers=headers).status
    return code


def test_the_first_key_locks_a_running_server_within_a_second(tmp_path: Path) -> None:
    db = tmp_path / "tasks.db"
    with serving(db) as server:
        before = status(server)
        token = made(db)
        time.sleep(1)
        after = status(server), status(server, token), status(server, token, "/metrics"), status(server, "", "/health")

    assert "API keys  none, so only this machine can call the server" in server.printed
    assert (before, after) == (200, (401, 200, 403, 200))


def test_the_commands_send_the_key(tmp_path: Path) -> None:
    db = tmp_path / "tasks.db"
    token = made(db, "--scope", "tasks,metrics")
    with serving(db) as server:
        no_key = run(db, "metrics", "--url", server.url)
        by_environment = run(db, "submit", "Say hello.", "--url", server.url, "--json", LLM_SERVER_API_KEY=token)
        by_option = run(db, "metrics", "--url", server.url, "--json", "--key", token)

    assert (no_key.returncode, "A valid API key is needed" in no_key.stderr) == (2, True)
    assert json.loads(by_environment.stdout)["status"] == "Completed"
    assert json.loads(by_option.stdout)["total_requests"] == 1
    assert "API keys  every call needs one" in server.printed
    assert token not in server.printed + server.log.read_text()


def test_a_server_with_a_key_may_be_reachable_from_other_machines(tmp_path: Path) -> None:
    """Without a key it does not start there, and says what to do. With a key it refuses calls without one."""
    db = tmp_path / "tasks.db"
    code, said = refused(db, "--host", "0.0.0.0")
    token = made(db)
    with serving(db, "--host", "0.0.0.0") as server:
        port = urllib3.util.parse_url(server.url).port
        server.url = f"http://127.0.0.1:{port}"
        answers = status(server), status(server, token)

    assert code == 1
    assert "llm-server keys create --tenant NAME" in said
    assert answers == (401, 200)


def test_keys_are_listed_without_secrets_and_revoked(tmp_path: Path) -> None:
    db = tmp_path / "tasks.db"
    limits = ["--requests-per-minute", "60", "--tasks-in-flight", "5", "--usd-per-day", "1.5", "--name", "CI"]
    token = made(db, "--scope", "tasks,admin", *limits)
    _, key_id, secret = token.split("_")
    revoked = run(db, "keys", "revoke", key_id)
    listed = run(db, "keys", "list", "--text")
    line = re.split(r"\s{2,}", listed.stdout.splitlines()[1])

    assert revoked.returncode == 0
    assert line[:3] == [key_id, "acme", "tasks,admin"]
    assert line[3].startswith("revoked ")
    assert line[5:] == ["-", "60", "5", "1.5", "-", "CI"]
    assert secret not in listed.stdout + listed.stderr + revoked.stdout + revoked.stderr


def test_a_key_can_be_changed_and_expires_while_the_server_runs(tmp_path: Path) -> None:
    """A new limit applies at once in the process that changed it; the expiry is checked on each call, cached or not."""
    db = tmp_path / "tasks.db"
    admin, token = made(db, "--scope", "admin"), made(db)
    key_path = f"/keys/{token.split('_')[1]}"
    with serving(db) as server:

        def changed(**fields: object) -> tuple[int, object]:
            answer = server.call("PATCH", key_path, fields, {"Authorization": f"Bearer {admin}"})
            return answer.status, answer.json()

        before = status(server, token)
        limited = changed(limits={"requests_per_minute": 1})
        used = [status(server, token) for _ in range(3)]
        unlimited = changed(limits={"requests_per_minute": None})
        free = [status(server, token) for _ in range(3)]
        expires_at = datetime.now(UTC) + timedelta(seconds=5)
        expiring = changed(expires_at=expires_at.isoformat())
        still = status(server, token)
        while datetime.now(UTC) <= expires_at:
            time.sleep(0.1)
        expired = status(server, token)
        revived = changed(expires_at=None), status(server, token)

    assert before == 200
    assert (limited[0], unlimited[0], expiring[0], revived[0][0]) == (200, 200, 200, 200)
    assert set(used[1:]) <= {200, 429}  # a new minute may begin in between
    assert 429 in used
    assert free == [200, 200, 200]
    assert (still, expired, revived[1]) == (200, 401, 200)


def test_an_unusable_table_is_named_by_the_commands(tmp_path: Path, ministack_endpoint: str) -> None:
    """An operator has to fix the cause, so the message does not suggest to try again."""
    aws = {
        "LLM_SERVER_TABLE": "no-such-table",
        "AWS_ENDPOINT_URL": ministack_endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    region = {"AWS_DEFAULT_REGION": "eu-central-1"}
    account = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    db = tmp_path / "tasks.db"
    no_table = run(db, "keys", "list", **aws, **region, **account)
    no_credentials = run(db, "keys", "list", **aws, **region)
    no_region = run(db, "keys", "list", **aws, **account)

    assert [done.returncode for done in (no_table, no_credentials, no_region)] == [3, 3, 2]
    assert no_table.stderr == (
        "The table does not exist in this account and region of AWS; check LLM_SERVER_TABLE and the region.\n"
    )
    assert no_credentials.stderr == "No usable AWS credentials were found: Unable to locate credentials.\n"
    assert no_region.stderr == "AWS cannot be called: set AWS_DEFAULT_REGION to the region of the table.\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["create", "--tenant", "Acme"], "tenant's name"),
        (["create", "--tenant", "acme", "--scope", "root"], "Unknown scope 'root'"),
        (["create", "--tenant", "acme", "--scope", ","], "at least one scope"),
        (["create", "--tenant", "acme", "--tasks-in-flight", "0"], "tasks_in_flight"),
        (["revoke", "ffffffffffff"], "No key has this id"),
    ],
)
def test_an_invalid_argument_is_named(tmp_path: Path, arguments: list[str], named: str) -> None:
    made(tmp_path / "tasks.db")
    done = run(tmp_path / "tasks.db", "keys", *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert named in done.stderr
