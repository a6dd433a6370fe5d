"""`serve --replace` takes over the database and the port of a server that runs, as `make run MODEL=...` does."""

from __future__ import annotations

from pathlib import Path

from support.server_process import serving


def test_a_server_is_replaced_by_a_new_one_on_its_port(tmp_path: Path) -> None:
    """Its tasks are in the database of the new one."""
    with serving(tmp_path / "tasks.db") as old:
        task = old.submit("Say hello.", wait_s=20)
        port = old.url.rpartition(":")[2]
        with serving(tmp_path / "tasks.db", "--port", port, "--replace") as new:
            found = new.call("GET", f"/tasks/{task['task_id']}").json()

            assert old.process.wait(10) == 0
            assert new.url == old.url
    assert found["result"] == task["result"]


def test_without_a_running_server_nothing_is_replaced(tmp_path: Path) -> None:
    with serving(tmp_path / "tasks.db", "--replace") as server:
        assert server.call("GET", "/health").status == 200
