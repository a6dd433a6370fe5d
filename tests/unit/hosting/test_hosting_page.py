"""docs/hosting.md says what the files say: commands, services, paths, times and bounds."""

from __future__ import annotations

import re
import shlex

import pytest
import typer

from llm_server.api.app import BODY_REST_BYTES, IMAGES_BYTES, JSON_BYTES_PER_CHAR
from llm_server.api.waiting import MAX_WAIT_S
from llm_server.cli.app import app
from llm_server.embedded.connections import KEEP_ALIVE_S
from llm_server.embedded.http_protocol import MAX_HEADER_BYTES
from llm_server.embedded.server import GRACE_S, REQUEST_GRACE_S
from llm_server.orchestration.domain.errors import ConfigurationError
from llm_server.settings import Settings
from support.hosting_files import ROOT, caddy_config, compose, image_environment, of_image, stages, unit

PAGE = (ROOT / "docs" / "hosting.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for line in re.sub(r"\\\n\s*", "", block).splitlines()
    if line
]
KEYS_CREATED = [command[command.index("keys create") :] for command in COMMANDS if "keys create" in command]
NS = 1_000_000_000


def row(name: str) -> list[str]:
    """The cells of a row of one of the tables."""
    [line] = [line for line in PAGE.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("command", KEYS_CREATED, ids=range(len(KEYS_CREATED)))
def test_the_first_key_is_made_with_a_command_that_exists(command: str) -> None:
    group = typer.main.get_command(app)
    keys = group.get_command(typer.Context(group), "keys")  # type: ignore[attr-defined]
    create = keys.get_command(typer.Context(keys), "create")
    given = create.make_context("create", shlex.split(command, comments=True)[2:]).params

    assert len(KEYS_CREATED) == 3
    assert given["tenant"] == "acme"


def test_services_and_volumes_exist() -> None:
    named = re.findall(r"docker compose (?:run --rm --no-deps|logs|restart) (\w+)", PAGE)
    described = {
        name
        for line in re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| [A-Z]", PAGE, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", line)
    }

    assert set(named) == {"server"}
    assert described == set(compose()["services"])
    assert set(re.findall(r"volumes? `(\w+)`", PAGE)) <= set(compose()["volumes"])


def test_paths_of_the_repository_exist() -> None:
    named = re.findall(r"`((?:hosting|requirements)/[\w./-]+)`", PAGE) + re.findall(
        r"(?:-r|install -m \d+) (\S+/\S+)", PAGE
    )

    assert len(named) > 8
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_service_starts_what_the_steps_install() -> None:
    service = {option: values[-1] for option, values in unit()["Service"].items()}
    user = service["User"]

    assert f"python3 -m venv {service['ExecStart'].partition('/bin/')[0]}\n" in PAGE
    assert f"useradd --system --home-dir {service['WorkingDirectory']} --shell /usr/sbin/nologin {user}\n" in PAGE
    assert f"/dev/null {service['EnvironmentFile'].lstrip('-')} " in PAGE
    assert f"sudo -u {user} env LLM_SERVER_DB={image_environment()['LLM_SERVER_DB']} " in "\n".join(COMMANDS)


def test_the_user_the_port_and_the_base_of_the_image() -> None:
    assert row("user")[1].startswith(of_image("USER")[0].partition(":")[0])
    assert row("port")[1].startswith(image_environment()["PORT"])
    assert f"`{stages()[0][0][1].split()[0]}`" in PAGE


def test_the_table_of_the_proxy_has_the_figures_of_the_file() -> None:
    [server] = caddy_config()["apps"]["http"]["servers"].values()
    body, proxy = server["routes"][0]["handle"][0]["routes"][0]["handle"]

    assert row("longest body")[1] == f"{body['max_size'] // 1_000_000} MB"
    assert row("header section")[1] == f"{server['max_header_bytes'] // 1000} KB"
    assert row("wait for a response")[1] == f"{proxy['transport']['response_header_timeout'] // NS} s"
    assert row("idle connections to the server")[1] == (
        f"closed after {proxy['transport']['keep_alive']['idle_timeout'] // NS} s"
    )
    assert row("time for a body")[1] == f"{server['read_timeout'] // NS // 60} min"
    assert row("a server that does not answer")[1] == (
        f"tried again for {proxy['load_balancing']['try_duration'] // NS} s"
    )


def test_the_reasons_in_that_table_have_the_figures_of_the_server() -> None:
    assert f"reads {JSON_BYTES_PER_CHAR} bytes for each character" in row("longest body")[2]
    assert f"{IMAGES_BYTES // 1_000_000} MB for images and {BODY_REST_BYTES // 1024} KB." in row("longest body")[2]
    most = 1_000_000 * JSON_BYTES_PER_CHAR + IMAGES_BYTES + BODY_REST_BYTES
    assert f"need {most // 1_000_000 + 1} MB" in row("longest body")[2]
    assert f"more than {MAX_HEADER_BYTES // 1024} KB" in row("header section")[2]
    assert f"up to {MAX_WAIT_S} s" in row("wait for a response")[2]
    assert f"after {KEEP_ALIVE_S:.0f} s" in row("idle connections to the server")[2]


def test_the_variables_that_kubernetes_sets_for_a_service_are_refused() -> None:
    [variable] = re.findall(r"sets variables such as `(\w+)`", PAGE)

    with pytest.raises(ConfigurationError, match=f"{variable} is not a setting"):
        Settings.read({variable: "tcp://10.0.0.1:8000"})


def test_the_times_of_a_stop() -> None:
    stop = PAGE[PAGE.index("## What happens on stop") :]

    assert re.search(rf"Requests in\s+progress have {REQUEST_GRACE_S} s\.", stop)
    assert f"Tasks in progress have {GRACE_S} s." in stop
    assert f"--stop-timeout {compose()['services']['server']['stop_grace_period'].rstrip('s')}" in stop
