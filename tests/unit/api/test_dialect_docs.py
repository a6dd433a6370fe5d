"""docs/openai.md lists every field of both APIs as the code treats it, and every route."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from llm_server.api.openai.calls import MAX_LASTING_WAIT_S
from llm_server.api.openai.errors import MAX_RETRY_AFTER_S
from llm_server.api.openai.requests import fields
from llm_server.api.openai.routes import all_routes
from llm_server.api.waiting import MAX_WAIT_S

PAGE = (Path(__file__).parents[3] / "docs" / "openai.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(\w+)` \| (used|ignored|refused) \|", re.MULTILINE)


def treated(used: Iterable[str], ignored: Iterable[str], refused: Iterable[str]) -> dict[str, str]:
    return dict.fromkeys(used, "used") | dict.fromkeys(ignored, "ignored") | dict.fromkeys(refused, "refused")


@pytest.mark.parametrize(
    ("title", "known"),
    [
        ("chat completion", treated(fields.CHAT_USED, fields.CHAT_IGNORED, fields.CHAT_REFUSED)),
        ("response", treated(fields.RESPONSES_USED, fields.RESPONSES_IGNORED, fields.RESPONSES_REFUSED)),
    ],
)
def test_the_page_lists_every_field_as_it_is_treated(title: str, known: dict[str, str]) -> None:
    section = PAGE.split(f"## Fields of a {title}\n")[1].split("\n## ")[0]
    rows = ROW.findall(section)

    assert dict(rows) == known
    assert len(rows) == len(known)


def test_the_page_lists_every_route() -> None:
    routes = [route for route in all_routes() if isinstance(route, APIRoute)]
    known = {re.sub(r"\{[^}]*\}", "{id}", route.path) for route in routes}

    assert known == {*re.findall(r"`(?:(?:GET|POST|DELETE) )?(/v1/[a-z_/{}]+)`", PAGE.split("## What is added")[0])}


def test_the_page_has_the_figures_of_the_code() -> None:
    assert f"after {MAX_LASTING_WAIT_S} s" in PAGE
    assert f"the time is {MAX_WAIT_S} s" in PAGE
    assert f"`Retry-After` is at most {MAX_RETRY_AFTER_S} s" in PAGE
