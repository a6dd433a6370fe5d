"""`sam build` without Docker makes packages with all that Lambda needs, without what its runtime has already."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from aws_local.environments import tool

ROOT = Path(__file__).parents[2]
LAYERS = {"ApiLayer": "api", "WorkerLayer": "worker"}
IN_THE_RUNTIME = {"boto3", "botocore", "dateutil", "jmespath", "s3transfer", "six", "urllib3"}
MAGIC_3_13 = b"\xf3\x0d\x0d\x0a"  # 3571, Lib/importlib/_bootstrap_external.py
UNCHECKED_HASH = 0b01  # https://peps.python.org/pep-0552/
AARCH64 = 183  # e_machine, elf(5)

# The layers are built for another processor, so their modules are imported from here, as if no others were installed.
IMPORT = """
import importlib, json, sys
known = {*json.loads(sys.argv[1]), *sys.stdlib_module_names, "llm_server"}

class OnlyWhatIsShipped:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in known and not name.startswith("_sysconfigdata"):
            raise ModuleNotFoundError(f"{name} is not shipped", name=name)

sys.meta_path.insert(0, OnlyWhatIsShipped())
for module in sys.argv[2:]:
    importlib.import_module(module)
"""

# `sam local start-api` refuses to start without Docker; this asks its own code which routes it would serve.
ROUTES = """
import json, sys
from samcli.lib.providers.api_provider import ApiProvider
from samcli.lib.providers.sam_stack_provider import SamLocalStackProvider
stacks, _ = SamLocalStackProvider.get_stacks(sys.argv[1])
routes = ApiProvider(stacks, disable_authorizer=True).api.routes
print(json.dumps([[r.path, sorted(r.methods), r.function_name, r.payload_format_version] for r in routes]))
"""


@dataclass(frozen=True, slots=True)
class Build:
    """The folder that `sam build` wrote, and its output."""

    folder: Path
    output: str

    def packages(self, layer: str) -> set[str]:
        return {path.name.removesuffix(".py") for path in (self.folder / layer / "python").iterdir()}


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    home = tmp_path_factory.mktemp("sam")
    folder = home / "build"
    ran = subprocess.run(
        [tool("sam", "sam"), "build", "--build-dir", folder],
        cwd=ROOT,
        env=os.environ | {"SAM_CLI_TELEMETRY": "0", "__SAM_CLI_APP_DIR": str(home), "UV": str(uv())},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    return Build(folder, ran.stdout)


def uv() -> Path:
    """Return the project's own installer, wherever the tests run."""
    beside = Path(sys.prefix) / "bin" / "uv"
    return beside if beside.exists() else ROOT / ".venv" / "bin" / "uv"


def pinned(requirements: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", requirements.read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("function", ["ApiFunction", "WorkerFunction"])
def test_a_function_holds_our_code_and_data_only(build: Build, function: str) -> None:
    shipped = build.folder / function

    assert {path.name for path in shipped.iterdir() if path.suffix != ".toml"} == {"llm_server"}
    assert (shipped / "llm_server/data/catalog.toml").is_file()
    assert (shipped / "llm_server/lambda_api.py").is_file()
    assert (shipped / "llm_server/lambda_worker.py").is_file()


@pytest.mark.parametrize(
    ("layer", "modules"),
    [
        ("ApiLayer", ["llm_server.lambda_api"]),
        ("WorkerLayer", ["llm_server.lambda_worker", "genai_prices"]),
    ],
)
def test_a_function_imports_only_what_is_shipped(build: Build, layer: str, modules: list[str]) -> None:
    """A package missing in a layer would cause an ImportError at the first request, after a successful deployment."""
    shipped = build.packages(layer) | IN_THE_RUNTIME
    ran = subprocess.run(
        [sys.executable, "-c", IMPORT, json.dumps(sorted(shipped)), *modules],
        env={
            "PYTHONPATH": str(ROOT / "src"),
            "LLM_SERVER_TABLE": "table",
            "LLM_SERVER_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/000000000000/queue",
            "AWS_DEFAULT_REGION": "us-east-1",
        },
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr


def test_the_layers_hold_what_is_needed_without_the_packages_of_the_runtime(build: Build) -> None:
    api, worker = build.packages("ApiLayer"), build.packages("WorkerLayer")

    assert api >= {"fastapi", "mangum", "msgspec", "pydantic", "starlette"}
    assert worker >= {"genai_prices", "msgspec"}
    assert (api | worker) & {"boto3", "botocore", "s3transfer", "urllib3", "uvicorn", "rich", "typer"} == set()
    assert worker & {"fastapi", "mangum", "starlette"} == set()


@pytest.mark.parametrize(("layer", "folder"), LAYERS.items())
def test_a_layer_holds_the_versions_that_the_tests_use(build: Build, layer: str, folder: str) -> None:
    pins = pinned(ROOT / "layers" / folder / "requirements.txt")
    tested = pinned(ROOT / "requirements/dev.txt")
    installed = {
        path.name.removesuffix(".dist-info").rpartition("-")[::2]
        for path in (build.folder / layer / "python").glob("*.dist-info")
    }

    assert {(name.replace("_", "-").lower(), version) for name, version in installed} == set(pins.items())
    assert {name: tested[name] for name in pins} == pins


@pytest.mark.parametrize("layer", LAYERS)
def test_compiled_modules_are_for_lambdas_processor(build: Build, layer: str) -> None:
    modules = list((build.folder / layer).rglob("*.so"))

    assert modules
    assert {struct.unpack_from("<H", module.read_bytes(), 18)[0] for module in modules} == {AARCH64}


def test_bytecode_is_not_checked_by_date(build: Build) -> None:
    """sam sets the date of every file to 1980, so bytecode checked by date would be recompiled at every cold start."""
    sources = {path for path in build.folder.rglob("*.py") if path.stat().st_size}
    compiled = list(build.folder.rglob("*.pyc"))
    headers = {path.read_bytes()[:8] for path in compiled}
    if not compiled:
        assert "Warning: no Python 3.13" in build.output
        return

    assert headers == {MAGIC_3_13 + UNCHECKED_HASH.to_bytes(4, "little")}
    having = {path.parent.parent / f"{path.name.split('.')[0]}.py" for path in compiled}
    assert sources - having == set()


def test_sam_local_serves_every_route(build: Build) -> None:
    ran = subprocess.run(
        [tool("sam", "python"), "-c", ROUTES, build.folder / "template.yaml"],
        capture_output=True,
        text=True,
        check=True,
    )
    served = {path: (methods, function, payload) for path, methods, function, payload in json.loads(ran.stdout)}
    methods = served["/{proxy+}"][0]

    assert served.keys() == {"/{proxy+}", "/api/v1/tasks/{task_id}/events"}
    assert {tuple(rest) for _, *rest in served.values()} == {("ApiFunction", "2.0")}
    assert {"GET", "POST", "DELETE"} <= set(methods)
