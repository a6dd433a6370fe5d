"""The documentation page: everything comes from this server, and browsers are told to load nothing else."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib import resources
from urllib.parse import urljoin, urlsplit

import pytest

from llm_server.api.routes.docs import MEDIA_TYPES
from support.in_process_server import CalledServer

PAGE = "http://localhost:8000/prod/api/v1/docs"


class Links(HTMLParser):
    """Collects the targets of a page's links, and its inline scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.inline: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.targets += [value for name in ("src", "href", "action", "srcset") if (value := given.get(name))]
        is_inline = tag == "style" or (tag == "script" and "src" not in given)
        if is_inline or any(name == "style" or name.startswith("on") for name in given):
            self.inline.append(tag)


def test_the_page_uses_no_other_host_and_no_inline_code(shared_server: CalledServer) -> None:
    """All links are relative to the page, so it also works below the path of a stage."""
    links = Links(shared_server.get("docs").body.decode())

    assert links.inline == []
    targets = [urljoin(PAGE, target) for target in links.targets if not target.startswith("data:")]
    assert {urlsplit(target).netloc for target in targets} == {"localhost:8000"}
    below_the_stage = [urlsplit(target).path for target in targets]
    assert [path for path in below_the_stage if not path.startswith("/prod/api/v1/")] == []
    paths = {path.removeprefix("/prod") for path in below_the_stage}
    assert {path: shared_server.get(path).status for path in paths} == dict.fromkeys(paths, 200)


def test_the_start_script_and_the_style_sheet_load_nothing_from_elsewhere(shared_server: CalledServer) -> None:
    assert b"://" not in shared_server.get("docs/start.js").body
    style = shared_server.get("docs/swagger-ui.css").body.decode()

    assert "@import" not in style
    assert set(re.findall(r"url\(\"?(\w+):?", style)) == {"data"}


@pytest.mark.parametrize("path", ["docs", *(f"docs/{name}" for name in MEDIA_TYPES)])
def test_each_file_has_its_type_and_the_pages_policy(shared_server: CalledServer, path: str) -> None:
    answer = shared_server.get(path)
    name = path.partition("/")[2] or "index.html"

    assert answer.body == (resources.files("llm_server") / "data" / "swagger-ui" / name).read_bytes()
    expected = {"html": "text/html", "js": "text/javascript", "css": "text/css"}[name.rpartition(".")[2]]
    assert answer.headers["content-type"] == f"{expected}; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert (policy["default-src"], policy["script-src"], policy["style-src"]) == ("'none'", "'self'", "'self'")
    assert policy["frame-ancestors"] == "'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_browser_does_not_download_an_unchanged_file_again(shared_server: CalledServer) -> None:
    """It asks for the file each time, so that a new version is seen at once."""
    first = shared_server.get("docs/swagger-ui-bundle.js")
    again = shared_server.get("docs/swagger-ui-bundle.js", if_none_match=first.headers["etag"])
    other = shared_server.get("docs/swagger-ui.css", if_none_match=first.headers["etag"])

    assert (first.status, first.headers["cache-control"]) == (200, "no-cache")
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert other.status == 200


@pytest.mark.parametrize("name", ["index.htm", "..%2f..%2fcatalog.toml", "swagger-ui-bundle.js.LICENSE.txt", "a/b"])
def test_other_files_of_the_package_are_not_served(shared_server: CalledServer, name: str) -> None:
    answer = shared_server.get(f"docs/{name}")

    assert (answer.status, answer.detail) == (404, "The API does not have this path.")
