"""Pages of the origins that the operator names may call the embedded server; others may not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from llm_server.api.app import create_app
from llm_server.api.executor import InlineExecutor
from llm_server.embedded import cors
from support import asgi
from support.in_process_server import called_server

TEMPLATE = Path(__file__).parents[3] / "template.yaml"
ORIGIN = "https://app.example"
PAGE = {"origin": ORIGIN, "sec-fetch-site": "cross-site", "host": "localhost"}
ASKED = {"origin": ORIGIN, "access-control-request-method": "POST", "host": "localhost"}


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's short functions as their arguments."""


_Loader.add_multi_constructor(
    "!",
    lambda loader, _, node: (
        loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else node.value
    ),
)


def call(
    folder: Path, method: str, path: str, headers: dict[str, str], origins: tuple[str, ...] = (ORIGIN,)
) -> asgi.Answer:
    with called_server(folder) as server:
        app = create_app(
            server.service,
            lambda: "r-1",
            executor=InlineExecutor(server.service),
            open_without_keys=True,
            origins=origins,
        )
        return asgi.call(cors.Cors(app, origins, lambda: "r-1"), method, f"/api/v1/{path}", headers=headers)


def test_a_preflight_request_needs_no_key(tmp_path: Path) -> None:
    answer = call(tmp_path, "OPTIONS", "tasks", ASKED)

    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "idempotency-key" in answer.headers["access-control-allow-headers"]
    assert (answer.headers["access-control-max-age"], answer.headers["x-request-id"]) == ("3600", "r-1")


def test_a_preflight_request_of_another_origin_is_refused(tmp_path: Path) -> None:
    answer = call(tmp_path, "OPTIONS", "tasks", ASKED | {"origin": "https://other.example"})

    assert answer.code == "origin_not_allowed"
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(("path", "status"), [("metrics", 200), ("tasks/t1", 404), ("tasks?x=1", 422)])
def test_answers_and_errors_can_be_read_by_the_page(tmp_path: Path, path: str, status: int) -> None:
    answer = call(tmp_path, "GET", path, PAGE)

    assert (answer.status, answer.headers["access-control-allow-origin"]) == (status, ORIGIN)
    assert "x-request-id" in answer.headers["access-control-expose-headers"]


def test_an_asterisk_does_not_open_a_server_without_keys_to_every_page(tmp_path: Path) -> None:
    """Any page in a browser on this machine could spend the operator's money."""
    answer = call(tmp_path, "GET", "metrics", PAGE, ("*",))

    assert (answer.code, answer.headers["access-control-allow-origin"]) == ("origin_not_allowed", "*")


def test_what_pages_may_do_is_the_same_as_on_aws() -> None:
    template = yaml.load(TEMPLATE.read_text(encoding="utf-8"), _Loader)
    aws = template["Resources"]["HttpApi"]["Properties"]["CorsConfiguration"][1]

    assert (tuple(aws["AllowMethods"]), tuple(aws["AllowHeaders"])) == (cors.METHODS, cors.SENT_HEADERS)
    assert (tuple(aws["ExposeHeaders"]), aws["MaxAge"]) == (cors.EXPOSED_HEADERS, cors.MAX_AGE_S)
